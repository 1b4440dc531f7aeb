"""The end of a picture's way on the device: latents through a decoder to levels of 0..255.

Where steps are recorded as CUDA graphs, so is a tiny decoder. It is a hundred small kernels: launched one by
one they took 4.4 ms of an H200 (bench/results/gpu.json) for what is 1 ms of its work, and Python's lock with
it, which the step loop wants. A KL decoder is large kernels, and gains nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from engines import device as devices
from engines.backends.graphs import WARM_UPS, Recorder, Recording
from engines.vae import Vae, levels

MOST = 48  # recordings: groups of one to four, of a dozen sizes

log = logging.getLogger(__name__)


def developed(codec: Vae, latents: Tensor) -> Tensor:
    """[N, C, h, w] to uint8 [N, H * W * 3 + 1] on the device: the levels of each picture, rows of pixels of
    red, green and blue, and then 1 if latents and picture were finite, else 0. One tensor is one copy."""
    pixels = codec.decode(latents)
    sound = latents.isfinite().flatten(1).all(1) & pixels.isfinite().flatten(1).all(1)
    return torch.cat([levels(pixels).flatten(1), sound.to(torch.uint8)[:, None]], 1)


@dataclass(slots=True)
class _Plate:
    """One size of call. Latents are put where they were when it was recorded."""

    latents: Tensor
    calls: Counter[int] = field(default_factory=Counter)  # by thread: cuDNN has a handle and plans for each
    recording: Recording | None = None
    unfit: bool = False


class Decoder:
    """`developed`, whose calls are replayed once a thread has made `WARM_UPS` of a size. Any thread."""

    def __init__(self, codec: Vae, recorder: Recorder | None = None, most: int = MOST) -> None:
        """recorder: None records nothing. most: recordings kept, the last used ones."""
        self.codec = codec
        self._recorder = None if codec.samples else recorder
        self._most = most
        self._plates: OrderedDict[tuple[int, ...], _Plate] = OrderedDict()
        self._lock = threading.Lock()  # one set of plates, and one replay at a time
        self._counts = dict.fromkeys(("replayed", "recorded"), 0)

    @torch.inference_mode()
    def __call__(self, latents: Sequence[Tensor]) -> Tensor:
        """[C, h, w] each to what `developed` gives of all, the caller's to keep."""
        if self._recorder is None:
            return developed(self.codec, torch.stack(list(latents)))
        with self._lock:
            plate = self._plate(latents)
            torch.stack(list(latents), out=plate.latents)
            run = partial(developed, self.codec, plate.latents)
            if plate.recording is None:
                thread = threading.get_ident()
                plate.calls[thread] += 1
                if plate.calls[thread] <= WARM_UPS or plate.unfit:
                    return self._recorder.aside(run)
                try:
                    plate.recording = self._recorder.record(run)
                except RuntimeError as error:
                    plate.unfit = True
                    if devices.is_out_of_memory(error):
                        self._drop(keep=plate)
                    else:
                        size = "x".join(map(str, plate.latents.shape))
                        log.warning("no CUDA graph of a decode of %s latents: %s", size, error)
                if plate.recording is None:
                    return self._recorder.aside(run)
                self._counts["recorded"] += 1
            plate.recording.replay()
            self._counts["replayed"] += 1
            return plate.recording.output.clone()

    def relieve(self) -> None:
        """Out of memory: give back what can be made again."""
        with self._lock:
            self._drop()

    def stats(self) -> dict[str, float]:
        if self._recorder is None:
            return {}
        return {f"decodes_{name}": float(count) for name, count in self._counts.items()}

    def _plate(self, latents: Sequence[Tensor]) -> _Plate:
        size = (len(latents), *latents[0].shape)
        if size not in self._plates:
            while len(self._plates) >= self._most:
                self._let_go(self._plates.popitem(last=False)[1])
            self._plates[size] = _Plate(torch.empty(size, dtype=latents[0].dtype, device=latents[0].device))
        self._plates.move_to_end(size)
        return self._plates[size]

    def _drop(self, keep: _Plate | None = None) -> None:
        for size, plate in list(self._plates.items()):
            if plate is not keep:
                self._let_go(self._plates.pop(size))

    def _let_go(self, plate: _Plate) -> None:
        if plate.recording is not None and self._recorder is not None:
            self._recorder.drop(plate.recording)  # which may still run
