"""A pipeline without a model: real waiting, real pictures, faults on demand. For tests and load runs.

`--model fake` or `--model fake:base_ms=3,row_ms=0.5,vae_ms=0.5,load_s=0,size=128`: one call of bucket B
takes base_ms + row_ms * B; `overlaps=1` lets decodes and the making of rows (rows_ms a request) run beside
calls; `kept_mb=1` lets unchanged frames be answered without drawing; `places=64` makes every call that large,
more than a real engine's 16, so that the gateway and not the device is what a load test finds the end of. A
picture is one colour, `colour_of(prompt, seed)`, so that an answer that went to the wrong user is seen.
Prompts that start with these do what they say, at their first step:

    !crash      the process dies            !fault      Fault, for this job alone
    !hang 2     the loop is deaf for 2 s    !raise      an exception nobody expects
    !slow 0.5   this picture takes 0.5 s longer
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

# The codecs by name, or Pillow takes them in at the first file.
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from engines.messages import Job, Model
from engines.pipeline import Fault

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)
Colour = tuple[int, int, int]


def colour_of(prompt: str, seed: int) -> Colour:
    """The colour of every pixel of the fake picture (PNG exactly; JPEG within 3 levels)."""
    red, green, blue = hashlib.blake2b(f"{seed}:{prompt}".encode(), digest_size=3).digest()
    return red, green, blue


@dataclass
class FakeRow:
    job: Job
    index: int  # of the pictures of its job
    inputs: tuple[Image.Image, Image.Image | None] | None
    lane: str
    steps: int
    position: int = 0
    slots: int = 1
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FakeCall:
    """One on a device that overlaps: it begins when the one before it ends."""

    seconds: float
    end: float  # by time.monotonic()

    def wait(self) -> float:
        time.sleep(max(0.0, self.end - time.monotonic()))
        return self.seconds


class Fake:
    def __init__(
        self,
        *,
        base_ms: float = 3.0,
        row_ms: float = 0.5,
        vae_ms: float = 0.5,
        rows_ms: float = 0.0,
        load_s: float = 0.0,
        size: float = 128,
        places: float = 0,
        overlaps: float = 0,
        kept_mb: float = 0,
        vaes: float = 1,
        max_batch: int = 0,
        deterministic: bool = False,
    ) -> None:
        fitting = tuple(bucket for bucket in BUCKETS if bucket <= (max_batch or BUCKETS[-1]))
        self.buckets = (int(places),) if places else fitting[-1:] if deterministic else fitting
        self.base_ms, self.row_ms, self.vae_ms, self.load_s = base_ms, row_ms, vae_ms, load_s
        self.rows_ms, self.overlaps, self.budget = rows_ms, bool(overlaps), int(kept_mb * 1e6)
        self._free = 0.0  # when a device that overlaps has done all it was given
        side = int(size)
        self.models = [
            Model(
                name="fake",
                kind="sdv1-5",
                native=side,
                smallest=64,
                largest=1024,
                multiple=8,
                device="fake",
                dtype="float32",
                guidance="embedded",
                safety=False,
                features=["image", "mask", "tiny-vae", *["full-vae"] * (vaes > 1)],
            )
        ]

    def load(self, progress: Callable[[str, float, float, str], None]) -> None:
        progress("load", 0, 1, "nothing to load")
        time.sleep(self.load_s)
        progress("load", 1, 1, "nothing was loaded")

    def lane(self, job: Job) -> tuple[str, int, int]:
        return f"{job.width}x{job.height}", job.steps, 1

    def decode_inputs(self, job: Job) -> tuple[Image.Image, Image.Image | None] | None:
        if job.image is None:
            return None
        image = _open(job.image, "image").convert("RGB")
        mask = None if job.mask is None else _open(job.mask, "mask").convert("L")
        if mask is not None and mask.size != image.size:
            raise Fault("image", f"the mask is {mask.size}, the image {image.size}; they must agree", "mask")
        size = (job.width, job.height)
        return image.resize(size), None if mask is None else mask.resize(size)

    def knows(self, job: Job) -> bool:
        return not self.rows_ms

    def rows(self, job: Job, inputs: Any) -> list[FakeRow]:
        if job.prompt.startswith("!fault"):
            raise Fault("invalid", "this prompt asks for a fault", "prompt")
        if self.rows_ms:
            time.sleep(self.rows_ms / 1e3)
        lane, steps, _ = self.lane(job)
        return [FakeRow(job, index, inputs, lane, steps) for index in range(job.count)]

    def launch(self, rows: Sequence[FakeRow], bucket: int) -> FakeCall | None:
        seconds = (self.base_ms + self.row_ms * bucket) / 1e3
        if seconds and not self.overlaps:  # a sleep of nothing still gives the interpreter away
            time.sleep(seconds)
        for row in rows:
            if row.position == 0 and row.job.prompt.startswith("!"):
                _misbehave(row.job.prompt)
            row.position += 1
        if not self.overlaps:
            return None
        self._free = max(self._free, time.monotonic()) + seconds
        return FakeCall(seconds, self._free)

    def decode(self, rows: Sequence[FakeRow]) -> list[Colour]:
        if self.vae_ms:
            time.sleep(self.vae_ms * len(rows) / 1e3)
        for row in rows:
            row.timings["vae"] = self.vae_ms / 1e3
        return [colour_of(row.job.prompt, row.job.seed + row.index) for row in rows]

    def encode(self, row: FakeRow, pixels: Colour, job: Job) -> tuple[bytes, bool]:
        image, mask = row.inputs or (None, None)
        if image is None or mask is None or not job.mask_only:
            return _flat(pixels, job.width, job.height, job.format), False
        drawn = Image.new("RGB", (job.width, job.height), pixels)
        return _encode(Image.composite(drawn, image, mask), job.format), False

    def keep(self, row: FakeRow) -> tuple[FakeRow, int]:
        return row, 0

    def kept(self, kept: FakeRow, job: Job) -> FakeRow:
        return replace(kept, job=job, timings={})

    def peek(self, row: FakeRow) -> int:
        return row.position

    def preview(self, row: FakeRow, peeked: int) -> Colour:
        """From grey to the picture's colour, the nearer the more steps are done."""
        if self.vae_ms:
            time.sleep(self.vae_ms / 1e3)
        red, green, blue = colour_of(row.job.prompt, row.job.seed + row.index)
        done = peeked / row.steps
        return _mix(red, done), _mix(green, done), _mix(blue, done)

    def drawn(self, row: FakeRow) -> tuple[int, int]:
        return row.job.width, row.job.height

    def stats(self) -> dict[str, float]:
        return {}


def _mix(level: int, done: float) -> int:
    return round(128 + (level - 128) * done)


def _misbehave(prompt: str) -> None:
    word, _, rest = prompt.partition(" ")
    if word == "!crash":
        os._exit(70)
    if word == "!raise":
        raise RuntimeError("this prompt asks for an exception")
    if word in ("!hang", "!slow"):
        time.sleep(float(rest.split()[0]))


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise Fault("image", "the bytes are not a whole PNG, JPEG or WebP picture", name) from None
    return image


@lru_cache(maxsize=1024)
def _flat(colour: Colour, width: int, height: int, format: str) -> bytes:
    return _encode(Image.new("RGB", (width, height), colour), format)


def _encode(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[format], quality=90)
    return file.getvalue()
