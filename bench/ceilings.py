"""What this device can do at best, measured: the matrix units, the memory, the way to the host, a launch.

Datasheet rates are promises; a figure is compared with what the same card did minutes ago. All data is
random: on zeros some cards run a seventh faster than they ever will on a picture.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engines import device as devices


class Clock:
    """Seconds of device work: events on a CUDA device, the clock on the wall elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"

    def seconds(
        self, calls: Sequence[Callable[[], Any]], repeats: int = 20, most_s: float = 2.0, warm: int = 3
    ) -> list[float]:
        """Of up to `repeats` calls one after the other, in turn from `calls` so that no cache knows its
        inputs. Stops early after `most_s`, never before three."""
        for turn in range(warm):
            calls[turn % len(calls)]()
        devices.synchronize(self.device)
        began = time.perf_counter()
        return (self._events if self.cuda else self._wall)(calls, repeats, began + most_s)

    def median(self, calls: Sequence[Callable[[], Any]], **given: Any) -> float:
        return statistics.median(self.seconds(calls, **given))

    def _events(self, calls: Sequence[Callable[[], Any]], repeats: int, end: float) -> list[float]:
        pairs = []
        for turn in range(repeats):
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            calls[turn % len(calls)]()
            pair[1].record()
            pairs.append(pair)
            if turn >= 2 and time.perf_counter() > end:
                break
        torch.cuda.synchronize(self.device)
        return [first.elapsed_time(last) / 1e3 for first, last in pairs]

    def _wall(self, calls: Sequence[Callable[[], Any]], repeats: int, end: float) -> list[float]:
        taken = []
        for turn in range(repeats):
            began = time.perf_counter()
            calls[turn % len(calls)]()
            devices.synchronize(self.device)
            taken.append(time.perf_counter() - began)
            if turn >= 2 and time.perf_counter() > end:
                break
        return taken


@dataclass(frozen=True)
class Ceilings:
    device: str
    flop_s: float  # of a large matrix product
    bytes_s: float  # read and written by a large copy on the device
    host_bytes_s: float  # from the device into pinned memory
    launch_s: float  # of a small operation after another, without a graph

    def told(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "matrix_tflop_s": self.flop_s / 1e12,
            "copy_gb_s": self.bytes_s / 1e9,
            "to_host_gb_s": self.host_bytes_s / 1e9,
            "launch_us": self.launch_s * 1e6,
        }


@torch.inference_mode()
def measure(device: torch.device, dtype: torch.dtype, tiny: bool = False) -> Ceilings:
    """On CUDA a product of 8192 cubed and a copy of 4 GiB, else of 1024 and of 512 MiB, beyond any cache;
    `tiny`: in a moment, of nothing but a rehearsal."""
    clock = Clock(device)
    side, copied = (8192, 1 << 32) if clock.cuda else (1024, 1 << 29)
    if tiny:
        side, copied = 512, 1 << 24
    pairs = [[torch.randn(side, side, device=device).to(dtype) for _ in range(2)] for _ in range(2)]
    product = clock.median([lambda a=a, b=b: a @ b for a, b in pairs], repeats=15)
    del pairs
    source = torch.randn(copied // 4, device=device).view(torch.uint8)
    target = torch.empty_like(source)
    copy = clock.median([lambda: target.copy_(source)], repeats=10)
    sent = min(copied, 1 << 28)
    host = torch.empty(sent, dtype=torch.uint8, pin_memory=clock.cuda)
    to_host = clock.median([lambda: host.copy_(source[:sent], non_blocking=True)], repeats=5)
    small, times = torch.randn(1024, device=device), 200

    def launches() -> None:
        for _ in range(times):
            small.add_(1e-3)

    launch = clock.median([launches], repeats=5) / times
    return Ceilings(name(device), 2 * side**3 / product, 2 * copied / copy, sent / to_host, launch)


def name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
