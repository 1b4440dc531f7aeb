"""The ways to run a program of the engine, by name, so that a figure can say with which one it was taken.

The engine's own back ends (`engines.backends`): "eager" is torch as it comes, "inductor" compiled with one
static shape per program, "+graph" the same captured into CUDA graphs. "inductor max" is compiled in the
other of the compiler's modes, "max-autotune-no-cudagraphs": it tries kernels, tunes what it generates by
coordinate descent, and takes convolutions of one pixel for matrix products. "inductor+graph, searched" is
captured with convolutions whose algorithms cuDNN has tried, as an engine started with `search` has them.
"torch.compile+graph" is none of them: what torch gives who compiles and captures by hand.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.conditions import ROOT
from engines import device as devices
from engines.backends import Backend, make
from engines.backends.code import MODES, Code, patches
from engines.backends.graphs import Graphs, Recorder
from engines.backends.inductor import BOUNDS
from engines.backends.joined import lay
from engines.backends.program import Batch, Program, Shape, Step, difference
from engines.backends.store import Store

WAYS = ("eager", "eager+graph", "inductor", "inductor+graph")
TUNED = "inductor max"
SEARCHED = "inductor+graph, searched"
BY_HAND = "torch.compile+graph"
Run = Callable[[Batch], Tensor]


def store() -> Store:
    """Where benches keep what they have compiled: what one built another loads."""
    folder = ROOT / "build" / "bench" / "builds"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    return Store(folder)


def possible(way: str, device: torch.device) -> bool:
    return device.type == "cuda" or "+graph" not in way


def compiled(module: Any) -> Any:
    """As its documentation says, with one static shape per program, so that layouts are chosen, and with the
    compiler's options as the engine sets them: a peer does not lose by what torch sets badly."""
    torch._dynamo.config.recompile_limit = 64  # shapes are few, but more than the default of 8
    kind = next((parameter.device.type for parameter in module.parameters()), "cpu")
    return torch.compile(module, fullgraph=True, dynamic=False, options=patches("default", kind))


class Ways:
    """All ways of one program; what was compiled or captured is kept for the next who asks."""

    def __init__(self, program: Program, store: Path | None = None) -> None:
        """store: folder of the engine's compiled code, so that what one process built another loads."""
        for module in (program, *program.nets.values()):
            lay(module)  # where the compiled ways want them, before any way has recorded where they were
        self.program = program
        self._store = store
        self._backends: dict[str, Any] = {}
        self._made_ready: set[tuple[str, Shape]] = set()

    def ready(self, way: str, shape: Shape) -> bool:
        """Whether `run` has made this ready before."""
        return (way, shape) in self._made_ready

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
            why = backend.reasons().get(str(shape), "it was not built ahead")
            raise RuntimeError(f"{way} left {shape} eager: {why}")
        self._made_ready.add((way, shape))

        def run(batch: Batch) -> Tensor:
            slots = backend.slots(shape)
            return backend.step(shape, batch if slots is None else filled(slots, batch))

        return run

    def _made(self, way: str) -> Any:
        if way == BY_HAND:
            return ByHand(self.program)
        if way == SEARCHED:
            return Searched(self.backend("inductor"), self.program)
        if way.endswith("+graph"):
            return Graphs(self.backend(way.removesuffix("+graph")), self.program)
        if way not in (*WAYS, TUNED):
            raise ValueError(f"{way} is no way to run a program; {', '.join(WAYS)} are")
        name, _, more = way.partition(" ")
        store = None if self._store is None else Store(self._store)
        return make(name, self.program, graphs=False, mode=MODES[1 if more else 0], store=store)


def filled(slots: Batch, batch: Batch) -> Batch:
    for slot, tensor in zip(slots, batch, strict=True):
        if slot is not None and tensor is not None:
            slot.copy_(tensor)
    return slots


class Searched(Graphs):
    """Captured with the algorithms that cuDNN found fastest for every convolution of a call.

    Each is searched for when it first runs, seconds for all of a call, and kept by the thread it ran on
    (`thread_local benchmark_cache`, torch's Conv_v8.cpp). So they run first on a thread of their own, which
    stays, for what cuDNN compiled may go with it; what is captured there may be replayed anywhere.
    """

    def __init__(self, inner: Backend, program: Program, recorder: Recorder | None = None) -> None:
        super().__init__(inner, program, recorder)
        self.name = SEARCHED
        self._apart = Apart()

    def warm(self, shape: Shape, build: bool = True) -> None:
        """Leaves alone what is not compiled. Raises RuntimeError if it cannot be captured, or computes
        another thing than with the algorithms that cuDNN takes unasked, by more than rounding."""
        self._inner.warm(shape, build)  # here: what it checks first would be searched for as well
        if not isinstance(self._inner.program(shape), Code):
            return
        self._apart.run(lambda: self._searched(shape))
        with torch.inference_mode():
            batch, slots = self._program.sample(shape), self.slots(shape)
            if slots is None:
                raise RuntimeError(self.reasons().get(str(shape), f"{shape} was not captured"))
            found = self.step(shape, filled(slots, batch))
            error = difference(self._inner.step(shape, batch), found)
        if error > (bound := BOUNDS[self._program.dtype]):
            raise RuntimeError(f"searched, {shape} is {error:.1e} off; the bound is {bound:.0e}")

    def _searched(self, shape: Shape) -> None:
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            super().warm(shape, build=False)
        finally:
            torch.backends.cudnn.benchmark = before
        devices.synchronize(self._program.device)  # slots were filled in this thread's line


class Stopped(BaseException):
    """Whoever waited for this work does so no longer."""


class Apart:
    """One thread that stays. Its work ends with what interrupts who waits for it, as soon as Python runs."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "apart")

    def run(self, work: Callable[[], None]) -> None:
        at = [0]

        def begun() -> None:
            at[0] = threading.get_ident()
            work()

        future = self._pool.submit(begun)
        try:
            future.result()
        except BaseException:
            if not future.done():  # it is not to go on beside what is measured next
                stop, ident = ctypes.py_object(Stopped), ctypes.c_ulong(at[0])
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, stop)
                wait([future])
            raise


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
