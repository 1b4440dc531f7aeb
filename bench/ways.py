"""The ways to run a program of the engine, by name, so that a figure can say with which one it was taken.

The engine's own back ends (`engines.backends`): "eager" is torch as it comes, "inductor" compiled with one
static shape per program, "+graph" the same captured into CUDA graphs. "torch.compile+graph" is none of
them: what torch gives who compiles and captures by hand.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.conditions import ROOT
from engines.backends import Backend, make
from engines.backends.code import Code, patches
from engines.backends.graphs import Graphs
from engines.backends.program import Batch, Program, Shape, Step
from engines.backends.store import Store

WAYS = ("eager", "eager+graph", "inductor", "inductor+graph")
BY_HAND = "torch.compile+graph"
Run = Callable[[Batch], Tensor]


def store() -> Store:
    """Where benches keep what they have compiled: what one built another loads."""
    folder = ROOT / "build" / "bench" / "builds"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    return Store(folder)


def possible(way: str, device: torch.device) -> bool:
    return device.type == "cuda" or not way.endswith("+graph")


def compiled(module: Any) -> Any:
    """As its documentation says, with one static shape per program, so that layouts are chosen, and with the
    compiler's options as the engine sets them: a peer does not lose by what torch sets badly."""
    torch._dynamo.config.recompile_limit = 64  # shapes are few, but more than the default of 8
    return torch.compile(module, fullgraph=True, dynamic=False, options=patches("default"))


class Ways:
    """All ways of one program; what was compiled or captured is kept for the next who asks."""

    def __init__(self, program: Program, store: Path | None = None) -> None:
        """store: folder of the engine's compiled code, so that what one process built another loads."""
        self.program = program
        self._store = store
        self._backends: dict[str, Any] = {}

    def backend(self, way: str) -> Backend:
        found: Backend | None = self._backends.get(way)
        if found is None:
            found = self._backends[way] = self._made(way)
        return found

    def run(self, way: str, shape: Shape, build: bool = True) -> Run:
        """Ready to be timed: compiled and captured. Seconds, or minutes where nothing was built before.

        build: else only what was. Raises RuntimeError if there is nothing better than eager for the shape.
        """
        backend = self.backend(way)
        backend.warm(shape, build)
        if way.startswith("inductor") and not isinstance(backend.program(shape), Code):
            why = self.backend("inductor").reasons().get(str(shape), "it was not built ahead")
            raise RuntimeError(f"{way} left {shape} eager: {why}")

        def run(batch: Batch) -> Tensor:
            slots = backend.slots(shape)
            return backend.step(shape, batch if slots is None else filled(slots, batch))

        return run

    def _made(self, way: str) -> Any:
        if way == BY_HAND:
            return ByHand(self.program)
        if way.endswith("+graph"):
            return Graphs(self.backend(way.removesuffix("+graph")), self.program)
        if way not in WAYS:
            raise ValueError(f"{way} is no way to run a program; {', '.join(WAYS)} are")
        store = None if self._store is None else Store(self._store)
        return make(way, self.program, graphs=False, store=store)


def filled(slots: Batch, batch: Batch) -> Batch:
    for slot, tensor in zip(slots, batch, strict=True):
        if slot is not None and tensor is not None:
            slot.copy_(tensor)
    return slots


class ByHand:
    """torch.compile and a CUDA graph for every shape, on CUDA; torch.compile alone elsewhere."""

    name = BY_HAND

    def __init__(self, program: Program) -> None:
        self._program = program
        self._compiled = compiled(program)
        self._captured: dict[Shape, tuple[Any, Batch, Tensor]] = {}
        self._pool: Any = None

    def program(self, shape: Shape) -> Step:
        step: Step = self._compiled
        return step

    def slots(self, shape: Shape) -> Batch | None:
        return self._captured[shape][1] if shape in self._captured else None

    @torch.inference_mode()
    def step(self, shape: Shape, batch: Batch) -> Tensor:
        if shape not in self._captured:
            advanced: Tensor = self._compiled(*batch)
            return advanced
        graph, _, output = self._captured[shape]
        graph.replay()
        return output.clone()

    @torch.inference_mode()
    def warm(self, shape: Shape, build: bool = True) -> None:
        if shape in self._captured:
            return
        slots = self._program.sample(shape)
        if self._program.device.type != "cuda":
            self._compiled(*slots)
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # first calls choose algorithms and allocate, which no capture may
            for _ in range(2):
                self._compiled(*slots)
        torch.cuda.current_stream().wait_stream(side)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = self._compiled(*slots)
        self._captured[shape] = graph, slots, output

    def relieve(self) -> None:
        self._captured.clear()

    def reasons(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...

    def stats(self) -> dict[str, float]:
        return {"captured": float(len(self._captured))}
