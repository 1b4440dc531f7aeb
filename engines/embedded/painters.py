"""Training pictures, drawn here or by worker processes: one GPU learns faster than one core draws."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeVar

import torch
from torch import Generator
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

T = TypeVar("T")
Draw = Callable[[Random, Generator], T]


class _Painter(IterableDataset[T]):
    """One worker's endless share, from a seed of its own."""

    def __init__(self, draw: Draw[T], seed: int):
        self.draw, self.seed = draw, seed

    def __iter__(self) -> Iterator[T]:
        info = get_worker_info()
        torch.set_num_threads(1)
        if info is not None and hasattr(os, "nice"):
            os.nice(5)  # who learns, and who compiles for it, goes first
        rng = Random(f"{self.seed} {info.id if info else 0}")
        generator = Generator().manual_seed(rng.getrandbits(62))
        while True:
            yield self.draw(rng, generator)


def paint(draw: Draw[T], workers: int, rng: Random, generator: Generator) -> Iterator[T]:
    """`draw(rng, generator)` for ever.

    Without workers it uses the generators given, so that a stage continued from a checkpoint goes on as if it
    had never stopped. Workers (processes; `draw` must pickle) have streams of their own, seeded from `rng`:
    the same for the same state of `rng`, in a fixed order.
    """
    if not workers:
        if generator.device.type != "cpu":  # pictures are drawn on the CPU
            generator = Generator().manual_seed(generator.initial_seed())
        while True:
            yield draw(rng, generator)
    painters = _Painter(draw, rng.getrandbits(62))
    loader = DataLoader(
        painters, batch_size=None, num_workers=workers, prefetch_factor=4, multiprocessing_context="spawn"
    )
    blocks: Any = iter(loader)
    try:
        yield from blocks
    finally:
        # A worker that ends while a thread of it still sends a block is aborted (Python ends such threads in
        # the midst of C++), and torch calls that an error. Nobody wants the block any more.
        with contextlib.suppress(RuntimeError):
            blocks._shutdown_workers()


class Feed:
    """Takes what painters finish, on a thread of its own, until `close` or until `take` says it is enough."""

    def __init__(self, blocks: Iterator[T], take: Callable[[T], bool]) -> None:
        """`take(block)` is called for one block at a time and returns whether it wants more."""
        self.still = threading.Lock()  # whoever holds it keeps `take` from being called
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(blocks, take), daemon=True)
        self._thread.start()

    def _run(self, blocks: Iterator[T], take: Callable[[T], bool]) -> None:
        try:
            for block in blocks:
                with self.still:
                    if self._over.is_set() or not take(block):
                        return
        except BaseException as error:  # the thread that learns is told, by `check`
            self._error = error

    def check(self) -> None:
        """Raises what ended the feed, if it was an error."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._over.set()
        self._thread.join()
