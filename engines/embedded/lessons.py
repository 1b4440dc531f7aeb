"""What the picture codec learns from: scenes, scribbles and blobs, as painters finish them."""

from __future__ import annotations

import functools
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from random import Random

import torch
from torch import Generator, Tensor

from engines.embedded.painters import Feed, paint
from engines.embedded.render import render
from engines.embedded.scene import random_scene
from engines.embedded.scribble import blobs, scribble_over

SHELF = 4096  # pictures kept for use more than once, where workers draw


def training_pictures(count: int, size: int, rng: Random, generator: Generator) -> Tensor:
    """[count, 3, size, size] in -1..1: half scenes, a sixth scenes drawn over, a third blobs."""
    drawn = max(1, count // 6)
    scenes = render([random_scene(rng) for _ in range(count - 2 * drawn)], size, generator)
    scenes = torch.cat([scribble_over(scenes[:drawn], generator), scenes[drawn:]])
    loose = blobs(2 * drawn, size, generator)
    loose = torch.cat([scribble_over(loose[:drawn], generator), loose[drawn:]])
    return torch.cat([scenes, loose]).mul(2).sub(1).contiguous(memory_format=torch.channels_last)


class Lessons:
    """Without workers every batch is drawn for itself; with them it is taken from the newest pictures."""

    def __init__(
        self, count: int, size: int, rng: Random, generator: Generator, device: str, workers: int
    ) -> None:
        """count: pictures of a batch."""
        self.count, self.device, self.workers = count, device, workers
        self._draw = functools.partial(_drawn, max(count, 6), size)
        self._feed: Feed | None = None
        self.use(rng, generator)
        if workers:
            self._shelf = torch.empty(SHELF, 3, size, size, dtype=torch.uint8, device=device)
            self._taken, self._lock = 0, threading.Lock()
            self._feed = Feed(self._fresh, self._keep)

    def use(self, rng: Random, generator: Generator) -> None:
        """Draw from these from now on: a stage resumes with the chance its checkpoint holds."""
        self.generator = generator
        if self._feed is None:
            self._fresh = paint(self._draw, self.workers, rng, generator)

    def _keep(self, pictures: Tensor) -> bool:
        rows = torch.arange(self._taken, self._taken + len(pictures)) % SHELF
        moved = pictures.to(self.device)
        with self._lock:
            self._shelf[rows.to(self.device)] = moved
            self._taken += len(pictures)
        return True

    def batch(self) -> Tensor:
        """[count, 3, size, size] float32 in -1..1, channels last, on the device."""
        if self._feed is None:
            return _scaled(next(self._fresh)[: self.count].to(self.device))
        while self._taken < 4 * self.count:  # the first ones
            self._feed.check()
            time.sleep(0.05)
        filled = min(self._taken, SHELF)
        rows = torch.randint(0, filled, (self.count,), generator=self.generator, device=self.generator.device)
        return _scaled(self._shelf[rows.to(self.device)])

    def quiet(self) -> AbstractContextManager[object]:
        """Nothing that painters finish is taken in here."""
        return nullcontext() if self._feed is None else self._feed.still

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()


def _drawn(count: int, size: int, rng: Random, generator: Generator) -> Tensor:
    return training_pictures(count, size, rng, generator).add(1).mul(127.5).round().byte()


def _scaled(pictures: Tensor) -> Tensor:
    return pictures.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
