"""`python -m bench host`: the engine's loop over a device that only takes time, so a GPU's host without one.

A GPU works while its host does nothing, and stands still while the host makes up its mind. Here everything
is real but the device: the loop with all its threads, schedule, rows and their noise, gathering, JPEG. A call
of B rows ends so many milliseconds after it was given or after the one before it, as a compiled and recorded
one of SD1.5's size ends on an H200 (bench/results/gpu.json: 4.42 ms for one row, 18.66 for eight, the rest on
the line between); a decode takes 0.3 ms and 0.35 a picture, beside the calls. What is left to measure is the
share of its time that the device works. It says nothing about memory, copies or launches.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.conditions import after, conditions
from bench.figures import Frame, percentile
from bench.gpu.canvas import FPS, SLO_S
from bench.inside import Held, closed, opened
from bench.report import Bar, Result, Table
from bench.subject import Subject
from engines.backends.eager import Eager
from engines.backends.program import Batch, Shape
from engines.streams import Streams
from engines.vae import Posterior

SIDE = 512
CALL_MS, ROW_MS = 2.385, 2.034  # a call of B rows: CALL_MS + B * ROW_MS
DECODE_MS, PICTURE_MS, ENCODE_MS = 0.3, 0.35, 0.5
BUCKETS = (1, 2, 3, 4, 6, 8)
Tick = Callable[[str, float], None]


class Device:
    """One line of calls."""

    def __init__(self) -> None:
        self.free = 0.0  # by time.monotonic()
        self._given_s = 0.0

    def call(self, places: int) -> None:
        seconds = (CALL_MS + ROW_MS * places) / 1e3
        self.free = max(time.monotonic(), self.free) + seconds
        self._given_s += seconds

    def worked(self, now: float) -> float:
        """Seconds so far."""
        return self._given_s - max(0.0, self.free - now)


@dataclass
class Lap:
    """As engines.streams.Lap."""

    device: Device
    begin: float
    ends: float = 0.0

    def end(self) -> Lap:
        self.ends = self.device.free
        return self

    def wait(self) -> float:
        time.sleep(max(0.0, self.ends - time.monotonic()))
        return self.ends - self.begin


class Beside(Streams):
    """Streams of a device that overlaps."""

    def __init__(self, device: Device) -> None:
        super().__init__(torch.device("cpu"))
        self._timed = device

    def lap(self) -> Any:
        return Lap(self._timed, max(time.monotonic(), self._timed.free))

    def beat(self) -> None:
        time.sleep(max(0.0, self._timed.free - time.monotonic()))


class Timed(Eager):
    """Calls that only take time."""

    def __init__(self, program: Any, device: Device) -> None:
        super().__init__(program)
        self._timed = device

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        self._timed.call(shape.places)
        return batch.latents.clone()


class Paced(Held):
    """The pipeline, on such a device; `subject` has the sizes and no weights to speak of."""

    def take(self, loaded: Any) -> None:
        super().take(loaded)
        self.timed = Device()
        self.streams, self.overlaps = Beside(self.timed), True
        self.denoiser.backend = Timed(self.denoiser.program, self.timed)
        self.codec.encode = self._encode  # type: ignore[method-assign]
        self._picture = picture(SIDE)

    def _encode(self, pixels: Any) -> Posterior:
        torch.from_numpy(pixels.astype(np.float32) / 255.0)  # the host's part
        time.sleep(ENCODE_MS / 1e3)
        return Posterior(torch.zeros(4, SIDE // 8, SIDE // 8), None, 1.0)

    def _developed(self, codec: Any, latents: list[Tensor], after: Any = None) -> Any:
        torch.stack(list(latents))
        time.sleep((DECODE_MS + PICTURE_MS * len(latents)) / 1e3)
        return [self._picture.copy() for _ in latents], [True] * len(latents)


class Waiting(Paced):
    """Every call is waited for before the next is thought of."""

    def launch(self, rows: Any, bucket: int) -> None:
        self.step(rows, bucket)

    def step(self, rows: Any, bucket: int) -> None:
        running = super().launch(rows, bucket)
        assert running is not None
        running.wait()


def picture(side: int) -> Any:
    """uint8 [side, side, 3] that compresses as a photograph does: waves and a little noise."""
    y, x = np.mgrid[0:side, 0:side]
    waves = 127 + 60 * np.sin(x / 40) + 40 * np.cos(y / 23)
    noise = np.random.default_rng(0).normal(0, 6, (side, side, 3))
    return (waves[..., None] + noise).clip(0, 255).astype(np.uint8)


def paced(kind: type[Paced] = Paced) -> tuple[Subject, Paced]:
    subject = Subject("sd15", torch.device("cpu"), torch.float32, tiny=True, side=SIDE)
    made = kind(model="sd15", device="cpu", dtype="float32", backend="eager", max_batch=BUCKETS[-1])
    made.weights = subject.loaded()
    made.load(lambda *_: None)
    return subject, made


@dataclass
class Drawn:
    """A run: `works` is the share of it that the device worked."""

    what: str
    images_s: float
    p50_ms: float
    p95_ms: float
    answered: float
    works: float | None

    def row(self) -> list[Any]:
        return [self.what, self.images_s, self.p50_ms, self.p95_ms, self.answered, self.works]


def loop(what: str, sessions: int, steps: Sequence[int], seconds: float, kind: type[Paced] = Paced) -> Drawn:
    """Sessions that ask for the next picture when they have the last."""
    subject, engine = paced(kind)
    engine.buckets = BUCKETS[:1] if sessions == 1 else BUCKETS
    seen: list[tuple[float, float]] = []  # when somebody asked, and what the device had worked by then

    def job(session: int, number: int) -> Any:
        now = time.monotonic()
        seen.append((now, engine.timed.worked(now)))
        drawn = random.Random(f"{session}/{number}").choice(steps)
        return subject.job(session, drawn, seed=number)

    frames = closed(engine, job, sessions, seconds, seconds / 4)
    answered = [frame for frame in frames if frame.answered and not frame.warm]
    start = min(frame.due for frame in answered)
    inside = sum(start <= frame.arrived <= start + seconds for frame in answered)
    took = [frame.latency for frame in answered]
    (since, before), *_, (until, by_then) = [one for one in seen if start <= one[0] <= start + seconds]
    works = (by_then - before) / (until - since)
    return Drawn(
        what, inside / seconds, percentile(took, 0.5) * 1e3, percentile(took, 0.95) * 1e3, 1.0, works
    )


def canvas(sessions: int, seconds: float) -> Drawn:
    """Sessions that draw ten pictures a second and want each within 150 ms: image to image, four steps."""
    from bench.drawings import drawing

    subject, engine = paced()
    engine.buckets = BUCKETS
    offsets = [random.Random(f"offset {session}").random() / FPS for session in range(sessions)]
    frames = [
        Frame(session, number, number / FPS + offset)
        for session, offset in enumerate(offsets)
        for number in range(round(seconds * FPS))
    ]
    files = [drawing(SIDE, session, 0) for session in range(sessions)]

    def job(session: int, number: int) -> Any:
        return subject.job(session, 4, seed=number, image=files[session] + b"\0" * number, strength=0.7)

    taken = opened(engine, job, frames, SLO_S)
    answered = [frame for frame in taken if frame.answered]
    took = [frame.latency for frame in answered]
    return Drawn(
        f"canvas, {sessions} sessions at {FPS:g} fps",
        len(answered) / seconds,
        percentile(took, 0.5) * 1e3,
        percentile(took, 0.95) * 1e3,
        len(answered) / len(taken),
        None,
    )


def figures(quick: bool, tick: Tick) -> Result:
    given = conditions()
    torch.set_num_threads(1)
    seconds = 1.5 if quick else 6.0
    runs = [
        lambda: loop("one session, four steps", 1, (4,), seconds),
        lambda: loop("16 sessions, four steps", 16, (4,), seconds),
        lambda: loop("16 sessions, one to eight steps", 16, (1, 2, 4, 4, 4, 8), seconds),
        lambda: loop("16 sessions, four steps, each call waited for", 16, (4,), seconds, Waiting),
        *[lambda n=n: canvas(n, seconds) for n in (4, 8, 10)],  # type: ignore[misc]
    ]
    drawn = []
    for at, run in enumerate(runs):
        tick("a device that only takes time", at / len(runs))
        drawn.append(run())
    bars = [
        Bar(f"share of its time that the device works: {one.what}", one.works, 0.95, "", True)
        for one in drawn[1:3]
        if one.works is not None
    ]
    bars.append(Bar(f"p95: {drawn[-2].what}", drawn[-2].p95_ms, SLO_S * 1e3, "ms"))
    columns = ["", "images/s", "p50 ms", "p95 ms", "answered", "device works"]
    table = Table(
        "The host beside a device that only takes time: SD1.5's size at 512 px",
        columns,
        [one.row() for one in drawn],
        NOTE,
    )
    raw = {"call_ms": CALL_MS, "row_ms": ROW_MS, "runs": [one.row() for one in drawn]}
    return Result("host", after(given), bars, [table], raw=raw)


NOTE = (
    f"A call of B rows takes {CALL_MS} + {ROW_MS} B ms, as recorded ones did on an H200. Decodes are "
    "beside the calls and not charged to the device. One session waits for its picture before it asks for "
    "another, so its device cannot work all the time. No figure of a GPU: it is what its host would leave "
    "unused if launching and copying were free."
)
