"""The UNet as torch runs it: nothing to build, any size at once. What every other back end falls back on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.backends import attention
from engines.backends.program import Batch, Program, Shape, Step


class Eager:
    name = "eager"

    def __init__(self, program: Program) -> None:
        self._program = program
        self._pinned: dict[Shape, Step] = {}
        self._choices: list[attention.Choice] = []

    def program(self, shape: Shape) -> Step:
        """To be recorded, once: with its attention kernels pinned."""
        return self._pinned.get(shape) or self._program.of(shape)

    def slots(self, shape: Shape) -> Batch | None:
        return None

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        # Not the pinned one: pinning is Python's work at every operation, which in a step that is launched
        # operation by operation costs more than a kernel saves.
        advanced: Tensor = self._program.of(shape)(*batch)
        return advanced

    def want(self, shape: Shape) -> None: ...

    def warm(self, shape: Shape, build: bool = True) -> None:
        if self._program.device.type == "cuda" and shape not in self._pinned:
            self._choices.append(attention.chosen(self._program, shape))
            self._pinned[shape] = attention.pinned(self._program.of(shape), self._choices[-1])
        with torch.inference_mode():
            self.step(shape, self._program.of(shape).sample(shape))

    def kept(self, buckets: Sequence[int]) -> list[Shape]:
        return []

    def relieve(self) -> None: ...

    def reasons(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...

    def stats(self) -> dict[str, float]:
        return attention.counted(self._choices)
