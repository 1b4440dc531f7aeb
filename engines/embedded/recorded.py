"""A training step recorded once as a CUDA graph and replayed: Python launches its thousands of small kernels
several times more slowly than a GPU runs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Generator, Tensor

WARM = 3  # steps run as they are before one is recorded: libraries choose their kernels in them


class Recorded:
    """`work` on a GPU as a graph, elsewhere as it is."""

    def __init__(
        self,
        work: Callable[[], Tensor],
        generator: Generator,
        quiet: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """work: one step on tensors that stay where they are; draws from `generator` only, returns the loss.
        quiet: while in it no other thread touches the device."""
        self._work, self._generator, self._quiet = work, generator, quiet
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss = torch.zeros(())
        self._left = WARM if generator.device.type == "cuda" else -1

    def __call__(self) -> Tensor:
        """The loss of the step just done, the caller's to keep."""
        if self._left < 0:
            return self._work().detach()
        if self._left > 0:
            self._left -= 1
            return self._beside()
        if self._graph is None:
            try:
                self._record()
            except RuntimeError as error:
                warnings.warn(
                    f"steps run one kernel at a time, they cannot be recorded: {error}", stacklevel=2
                )
                self._graph, self._left = None, -1
                return self._work().detach()
        assert self._graph is not None
        self._graph.replay()
        return self._loss.clone()

    def _beside(self) -> Tensor:
        """On a stream of its own, as recording asks of what comes before it."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            loss = self._work().detach()
        here.wait_stream(aside)
        return loss

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with self._quiet():
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._loss = self._work().detach()
        self._graph = graph
