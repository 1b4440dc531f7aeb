"""A stand-in for CUDA graphs: recordings that compute again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Tape:
    """A recording that computes again, into the memory it was recorded into, as a CUDA graph does."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self._run = run
        made = run()
        nothing = torch.nan if made.is_floating_point() else 0
        self.output = torch.full_like(made, nothing)  # recording computes nothing

    def replay(self) -> None:
        self.output.copy_(self._run())

    def close(self) -> None:
        del self._run  # a replay of it fails from now on


class Tapes:
    """A stand-in for CUDA: all at once, on the CPU. `failing`: raised instead of the next recording."""

    def __init__(self) -> None:
        self.recorded, self.aside_calls, self.dropped = 0, 0, 0
        self.busy = False  # with something that no recording bears
        self.failing: list[RuntimeError] = []
        self.turns = 0  # at once

    @contextmanager
    def turn(self, slot: Tensor) -> Iterator[None]:
        self.turns += 1
        try:
            yield
        finally:
            self.turns -= 1

    def aside(self, run: Callable[[], Tensor]) -> Tensor:
        self.aside_calls += 1
        return run().clone()

    def record(self, run: Callable[[], Tensor]) -> Tape | None:
        if self.busy:
            return None
        if self.failing:
            raise self.failing.pop()
        self.recorded += 1
        return Tape(run)

    def drop(self, recording: Tape) -> None:
        self.dropped += 1
        recording.close()
