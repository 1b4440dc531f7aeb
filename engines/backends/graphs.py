"""CUDA graphs around any other back end: a whole step call launched at once instead of kernel by kernel.

Batches are gathered into slots that stay where they are, one set per shape; the UNet call and the step
after it were recorded as they read these. What a replay writes is copied out before the next one, so all
recordings share one memory pool, and it is as large as the largest of them needs.

A shape that traffic brings for the first time is served by the inner back end at once. Those calls are
the warm-up a recording needs (modules loaded, workspaces made, kernels chosen); the call after `WARM_UPS`
of them is recorded and replayed. Recording runs no kernel, so that this call costs the launches, which an
uncaptured one pays as well, and their instantiation: less than one more step, once. Nothing is recorded
ahead of traffic but by `warm`. When the inner back end has something better for a shape, the same happens
again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engines import device as devices
from engines.backends import Backend
from engines.backends.program import Batch, Program, Shape, Step

WARM_UPS = 2
MOST = 96  # recordings: eight buckets of a dozen sizes and feature sets
KNOWN = 4 * MOST  # shapes that something is remembered of: anybody can ask for another one
CALM = 1000  # calls without a shortage of memory after which twice as many recordings are tried again

log = logging.getLogger(__name__)


class Recording(Protocol):
    output: Tensor  # written by every replay

    def replay(self) -> None: ...
    def close(self) -> None: ...


class Recorder(Protocol):
    """Where calls are run and recorded. One at a time; results are in order with the current stream."""

    def turn(self, slot: Tensor) -> AbstractContextManager[None]:
        """In here comes after all that came in here before, and may read `slot`. For calls of several threads
        on streams of their own."""

    def aside(self, run: Callable[[], Tensor]) -> Tensor:
        """What `run` returns, the caller's to keep; run as it would be recorded."""

    def record(self, run: Callable[[], Tensor]) -> Recording | None:
        """Does not compute anything. None: not now, but later. Raises RuntimeError if `run` cannot be
        recorded or memory is short."""

    def drop(self, recording: Recording) -> None:
        """Once everything that was launched has ended."""


ADOPTING = threading.Lock()
"""Held by who first runs code that was built elsewhere: it may wait for the whole device, which ends every
recording that any thread makes meanwhile."""


class Cuda:
    """Records on a stream of its own, in one memory pool."""

    _one = threading.Lock()  # recording or dropping at a time: several threads do

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._alive: weakref.WeakSet[CudaGraph] = weakref.WeakSet()
        self._failed: torch.cuda.CUDAGraph | None = None
        self._last: torch.cuda.Event | None = None  # the end of the last turn

    @contextlib.contextmanager
    def turn(self, slot: Tensor) -> Iterator[None]:
        here = torch.cuda.current_stream(self._device)
        if self._last is not None:
            here.wait_event(self._last)
        try:
            yield
        finally:
            slot.record_stream(here)  # not the line it was made in, perhaps
            self._last = here.record_event()

    def aside(self, run: Callable[[], Tensor]) -> Tensor:
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            made = run()
        here.wait_stream(self._stream)
        # Memory of the other stream goes back to it when `made` ends, and it waits for this copy then.
        return made.clone()

    def record(self, run: Callable[[], Tensor]) -> CudaGraph | None:
        if not ADOPTING.acquire(blocking=False):
            return None
        try:
            with self._one:
                return self._recorded(run)
        finally:
            ADOPTING.release()

    def _recorded(self, run: Callable[[], Tensor]) -> CudaGraph:
        if self._failed is not None:
            raise RuntimeError("a recording has failed in this process, and torch may not bear another one")
        if not self._alive:  # torch does not take a pool again whose last user has ended
            self._pool = torch.cuda.graph_pool_handle()
        here = torch.cuda.current_stream(self._device)
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(here)
        # Not `torch.cuda.graph`: it waits for the whole device and empties the cache of memory.
        with torch.cuda.stream(self._stream):
            # Other threads may allocate and copy meanwhile; "global" would forbid it to them.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                output = run()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the first error says more
                    self._end(graph)
                raise
            self._end(graph)
        here.wait_stream(self._stream)
        recorded = CudaGraph(graph, output)
        self._alive.add(recorded)
        return recorded

    def _end(self, graph: torch.cuda.CUDAGraph) -> None:
        try:
            graph.capture_end()
        except RuntimeError:
            # Before 2.13 torch leaves its allocator as if this went on: no memory that another stream has
            # read would ever be used again (pytorch/pytorch#180395). And what it looks at is in the graph.
            self._failed = graph
            with contextlib.suppress(Exception):
                torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
            raise

    def drop(self, recording: Recording) -> None:
        with self._one:
            torch.cuda.synchronize(self._device)
            recording.close()


class CudaGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, output: Tensor) -> None:
        self._graph, self.output = graph, output

    def replay(self) -> None:
        self._graph.replay()

    def close(self) -> None:
        self._graph.reset()


@dataclass(slots=True)
class _Captured:
    slots: Batch
    step: Step  # what is recorded
    recording: Recording | None = None  # None: the call that fills the slots now will be recorded


class Graphs:
    def __init__(
        self, inner: Backend, program: Program, recorder: Recorder | None = None, most: int = MOST
    ) -> None:
        """inner: what is recorded, and what serves the rest. most: recordings kept, the last used ones."""
        self.name = f"{inner.name}+graphs"
        self._inner, self._program = inner, program
        self._recorder = recorder or Cuda(program.device)
        self._most = self._fitting = most
        self._calm = 0  # calls since memory was short
        self._captured: OrderedDict[Shape, _Captured] = OrderedDict()
        self._warmed: dict[Shape, tuple[Step, int]] = {}  # calls served so far
        self._unfit: dict[Shape, tuple[Step, str]] = {}  # would not be recorded, and why
        self._counts = dict.fromkeys(("replayed", "recorded", "evicted", "unfit"), 0)

    def program(self, shape: Shape) -> Step:
        return self._inner.program(shape)

    @torch.inference_mode()
    def slots(self, shape: Shape) -> Batch | None:
        step = self._inner.program(shape)
        found = self._captured.get(shape)
        if found is not None and found.step is not step:
            self._drop(shape)
            found = None
        if found is None:
            unfit = shape in self._unfit and self._unfit[shape][0] is step
            if unfit or self._warmed.get(shape) != (step, WARM_UPS):
                return None
            while len(self._captured) >= self._fitting:
                self._drop(next(iter(self._captured)))
                self._counts["evicted"] += 1
            try:
                found = self._captured[shape] = _Captured(self._program.of(shape).empty(shape), step)
            except RuntimeError as error:
                if not devices.is_out_of_memory(error):
                    raise
                self.relieve()
                return None
        self._captured.move_to_end(shape)
        return found.slots

    @torch.inference_mode()
    def step(self, shape: Shape, batch: Batch) -> Tensor:
        self._calm += 1
        if self._calm % CALM == 0:
            self._fitting = min(2 * self._fitting, self._most)
        found = self._captured.get(shape)
        if found is None or batch is not found.slots:
            return self._uncaptured(shape, batch)
        if found.recording is None:
            try:
                found.recording = self._recorder.record(lambda: found.step(*batch))
            except RuntimeError as error:
                return self._unrecorded(shape, batch, error)
            if found.recording is None:
                return self._recorder.aside(lambda: self._inner.step(shape, batch))
            self._counts["recorded"] += 1
        self._inner.want(shape)
        found.recording.replay()
        self._counts["replayed"] += 1
        return found.recording.output.clone()

    def want(self, shape: Shape) -> None:
        self._inner.want(shape)

    @torch.inference_mode()
    def warm(self, shape: Shape, build: bool = True) -> None:
        self._inner.warm(shape, build)
        sample = self._program.of(shape).sample(shape)
        for _ in range(WARM_UPS + 1):
            slots = self.slots(shape)
            self.step(shape, sample if slots is None else _filled(slots, sample))

    def kept(self, buckets: Sequence[int]) -> list[Shape]:
        return self._inner.kept(buckets)

    def relieve(self) -> None:
        # What did not fit beside so many recordings would not the next time either; but memory may be short
        # of what others had in it just then.
        self._calm = 0
        if self._captured:
            self._fitting = max(1, len(self._captured) // 2)
        for shape in list(self._captured):
            self._drop(shape)
        self._inner.relieve()

    def reasons(self) -> dict[str, str]:
        unfit = {str(shape): f"no CUDA graph: {reason}" for shape, (_, reason) in self._unfit.items()}
        return unfit | self._inner.reasons()

    def close(self) -> None:
        for shape in list(self._captured):
            self._drop(shape)
        self._inner.close()

    def stats(self) -> dict[str, float]:
        counts = {f"graphs_{name}": float(count) for name, count in self._counts.items()}
        return counts | {"graphs": float(len(self._captured)), **self._inner.stats()}

    def _uncaptured(self, shape: Shape, batch: Batch) -> Tensor:
        advanced = self._recorder.aside(lambda: self._inner.step(shape, batch))
        step = self._inner.program(shape)
        known, calls = self._warmed.pop(shape, (step, 0))
        self._warmed[shape] = (step, min(calls + 1, WARM_UPS)) if known is step else (step, 1)
        if len(self._warmed) > KNOWN:
            del self._warmed[next(iter(self._warmed))]
        return advanced

    def _unrecorded(self, shape: Shape, batch: Batch, error: RuntimeError) -> Tensor:
        step = self._captured[shape].step
        if devices.is_out_of_memory(error):
            self.relieve()
        else:
            self._drop(shape)
            self._unfit[shape] = step, str(error)
            self._counts["unfit"] += 1
            log.warning("no CUDA graph of %s, which stays uncaptured: %s", shape, error)
        return self._recorder.aside(lambda: self._inner.step(shape, batch))

    def _drop(self, shape: Shape) -> None:
        dropped = self._captured.pop(shape)
        self._warmed.pop(shape, None)
        if dropped.recording is not None:
            self._recorder.drop(dropped.recording)


def _filled(slots: Batch, batch: Batch) -> Batch:
    for slot, tensor in zip(slots, batch, strict=True):
        if slot is not None and tensor is not None:
            slot.copy_(tensor)
    return slots
