"""Back ends: ways to run one UNet call and its sampler step, interchangeable and chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from engines.backends.program import Batch, Program, Shape, Step

if TYPE_CHECKING:
    from engines.backends.store import Store

NAMES = ("auto", "eager", "inductor", "tensorrt")


class Backend(Protocol):
    """What the step loop's denoiser calls, on its thread. Nothing but `warm` waits for a build.

    A call is wanting its shape: what is wanted often is built, if somebody builds beside traffic.
    """

    name: str

    def program(self, shape: Shape) -> Step:
        """The best there is for this shape now; another one later, once it is built."""

    def slots(self, shape: Shape) -> Batch | None:
        """Where to gather a batch of this shape; None: into new tensors."""

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        """Latents after the step, [places, C, h, w] float32, the caller's to keep.

        `batch` is what `slots` gave, filled, or new tensors. Raises RuntimeError as torch does.
        """

    def want(self, shape: Shape) -> None:
        """Another call of this shape was served, by what `program` gave and not by `step`."""

    def warm(self, shape: Shape, build: bool = True) -> None:
        """Make this shape ready. build: also with what takes minutes; else take what there is, and have the
        rest built in the background if anything does that. Raises RuntimeError as torch does, for memory.
        """

    def kept(self, buckets: Sequence[int]) -> list[Shape]:
        """What was built before and serves calls of so many places, but only once it is warmed; the last
        used first."""

    def relieve(self) -> None:
        """Out of memory: give back what can be made again."""

    def reasons(self) -> dict[str, str]:
        """Why a shape is served by less than what was asked for."""

    def close(self) -> None:
        """End what works in the background."""

    def stats(self) -> dict[str, float]:
        """Counters and gauges for Pong, such as "backend_built"."""


def make(
    name: str,
    program: Program,
    *,
    graphs: bool | None = None,
    mode: str = "default",
    store: Store | None = None,
    background: int = 0,
    quick: bool = False,
) -> Backend:
    """A back end for this program.

    name: one of NAMES; "auto" compiles on CUDA and is eager elsewhere. graphs: record CUDA graphs of it;
    None: on CUDA, but not of TensorRT, whose engines choose their streams themselves. mode: of the
    compiler, one of code.MODES. store: where builds are kept. background: build in so many processes beside
    traffic what it comes back to, and what `warm` did not wait for. quick: until then compile blocks only,
    seconds of `warm`.
    Raises ValueError for what is not known or not possible.
    """
    from engines.backends.eager import Eager
    from engines.backends.graphs import Graphs
    from engines.backends.inductor import Inductor
    from engines.backends.tensorrt import TensorRt

    kind = program.device.type
    if kind == "cuda":
        # Who asks for float32 gets it; cuDNN's default is TF32.
        torch.backends.cudnn.allow_tf32 = False
    if name not in NAMES:
        raise ValueError(f"back end {name} is not known; {', '.join(NAMES)} are")
    if name == "auto":
        name = "inductor" if kind == "cuda" else "eager"
    if graphs and kind != "cuda":
        raise ValueError(f"CUDA graphs are asked for on a device of kind {kind}")
    made: Backend
    if name == "eager":
        made = Eager(program)
    elif name == "inductor":
        made = Inductor(program, store, mode, background, quick)
    else:
        if kind != "cuda":
            raise ValueError(f"back end tensorrt needs a CUDA device, not {kind}")
        made = TensorRt(program, store)
    if graphs is None:
        graphs = kind == "cuda" and name != "tensorrt"
    return Graphs(made, program) if graphs else made
