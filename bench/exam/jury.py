"""Judges in processes of their own: as the judge, a core's worth of pictures each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from bench.exam.eye import shrunk
from bench.exam.judge import Judge, Marks, judge
from bench.exam.papers import Question
from bench.exam.things import SIDE

MOST = 16
SHARES = 6
"""Parts for each process: portraits take longer than landscapes, so that small parts even out."""
_judge: Judge | None = None  # of a worker process


def cores() -> int:
    """How many this process may use: a container often sees more."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, usable)


class Jury:
    """The same marks as one Judge. Starts its processes at once, one a core unless told; `with` ends them."""

    def __init__(self, workers: int = 0) -> None:
        workers = workers or cores()
        # spawn: a process that holds a CUDA context must not be forked
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _seated)
        for _ in range(workers):  # a submit starts one process, if none is idle
            self._pool.submit(int)
        self._workers = workers

    def __enter__(self) -> Jury:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def marks(self, pictures: Tensor, questions: Sequence[Question]) -> list[Marks]:
        """One set of marks per picture of [N, 3, S, S], 0..1, on any device."""
        seen = shrunk(pictures.float(), SIDE).cpu()
        parts = [range(first, len(seen), self._workers * SHARES) for first in range(self._workers * SHARES)]
        parts = [part for part in parts if part]
        waiting = [
            self._pool.submit(_marked, seen[list(part)].numpy(), [questions[at] for at in part])
            for part in parts
        ]
        given: list[Marks] = [{} for _ in seen]
        for part, answer in zip(parts, waiting, strict=True):
            for at, marks in zip(part, answer.result(), strict=True):
                given[at] = marks
        return given


def _seated() -> None:
    global _judge
    torch.set_num_threads(1)
    _judge = judge()


def _marked(pictures: Any, questions: list[Question]) -> list[Marks]:
    assert _judge is not None
    return _judge.marks(torch.from_numpy(pictures), questions)
