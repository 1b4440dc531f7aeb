"""The UNet as torch runs it: nothing to build, any size at once. What every other back end falls back on."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.backends.program import Batch, Program, Shape, Step


class Eager:
    name = "eager"

    def __init__(self, program: Program) -> None:
        self._program = program

    def program(self, shape: Shape) -> Step:
        return self._program.of(shape)

    def slots(self, shape: Shape) -> Batch | None:
        return None

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        advanced: Tensor = self._program.of(shape)(*batch)
        return advanced

    def warm(self, shape: Shape, build: bool = True) -> None:
        with torch.inference_mode():
            self.step(shape, self._program.of(shape).sample(shape))

    def relieve(self) -> None: ...

    def reasons(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...

    def stats(self) -> dict[str, float]:
        return {}
