"""Threads that take work from one line."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

Work = Callable[..., None]


class Pool:
    """What `concurrent.futures` has for this makes a future of each piece of work, in 8 us, and nobody here
    asks one."""

    def __init__(self, threads: int, name: str, guard: Callable[[Work], Work]) -> None:
        """guard: what an exception out of the work is given to."""
        self._line: queue.SimpleQueue[tuple[Work, tuple[Any, ...]]] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=guard(self._run), name=f"{name}_{number}", daemon=True).start()

    def submit(self, work: Work, *given: Any) -> None:
        """`work(*given)` on one of the threads, begun in the order of submission."""
        self._line.put((work, given))

    def _run(self) -> None:
        while True:
            work, given = self._line.get()
            work(*given)
            del work, given  # or a thread at rest would hold its last picture
