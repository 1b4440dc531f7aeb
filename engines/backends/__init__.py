"""Back ends: ways to run one UNet call and its sampler step, interchangeable and chosen by name."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from engines.backends.program import Batch, Shape, Step


class Backend(Protocol):
    """What the step loop's denoiser calls, on the step loop's thread. Nothing here waits for a build."""

    name: str

    def program(self, shape: Shape) -> Step:
        """The best there is for this shape now; another one later, once it is built."""

    def slots(self, shape: Shape) -> Batch | None:
        """Where to gather a batch of this shape; None: into new tensors."""

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        """Latents after the step, [places, C, h, w] float32, the caller's to keep.

        `batch` is what `slots` gave, filled, or new tensors. Raises RuntimeError as torch does.
        """

    def relieve(self) -> None:
        """Out of memory: give back what can be made again."""

    def close(self) -> None:
        """End what works in the background."""

    def stats(self) -> dict[str, float]:
        """Counters and gauges for Pong, such as "backend_built"."""
