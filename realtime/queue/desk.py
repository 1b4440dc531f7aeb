"""The ledger for coroutines: one thread writes, in as few transactions as it can, and one reads.

A write costs a disk flush (3 ms here), however much is in it. So while one transaction is being flushed the
writes of everybody else gather, and go together into the next (group commit). Readers see what is committed
and wait for nobody (WAL).
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from realtime import log
from realtime.errors import Busy, NoSpace, TooMuch
from realtime.queue.ledger import Ledger

T = TypeVar("T")
Work = Callable[[Ledger], Any]

MAX_GROUP = 256  # writes in one transaction
MAX_PENDING = 4096  # writes, and as many reads, that wait for their thread
IDLE_S = 0.1  # what nobody waits for goes with the next write, or alone after so long

logger = log.get("realtime.queue")


@dataclass(slots=True, eq=False)
class _Task:
    work: Work
    answer: asyncio.Future[Any] | None  # None: nobody waits
    then: Callable[[], None] | None = None  # on the event loop, once it is written
    value: Any = None
    error: Exception | None = None


class Desk:
    def __init__(self, writes: Ledger, reads: Ledger) -> None:
        """Two connections to one file, which are the desk's from now on."""
        self._writer = _Thread("queue-write", writes, _commit)
        self._reader = _Thread("queue-read", reads, _look)

    @classmethod
    async def open(cls, path: Path, *, max_bytes: int, keep_s: float) -> Desk:
        """Raises Unusable."""
        writes = await asyncio.to_thread(Ledger, path, max_bytes, keep_s)
        return cls(writes, await asyncio.to_thread(Ledger, path, read_only=True))

    async def write(self, work: Callable[[Ledger], T]) -> T:
        """What `work` returns, once it is on the disk. It may be run twice, of which one is undone.

        Raises NoSpace, Busy, TooMuch, and what `work` raises.
        """
        return await self._writer.do(work)

    def note(self, work: Work, then: Callable[[], None] | None = None) -> None:
        """Write it soon, in order with the `write`s, and call `then`. Nobody waits; it may be lost."""
        self._writer.put(_Task(work, None, then))

    async def read(self, work: Callable[[Ledger], T]) -> T:
        """What `work` returns. Raises as `write`."""
        return await self._reader.do(work)

    async def aclose(self) -> None:
        """After what was asked for so far."""
        await asyncio.to_thread(self._writer.stop)
        await asyncio.to_thread(self._reader.stop)


class _Thread:
    def __init__(self, name: str, ledger: Ledger, perform: Callable[[Ledger, Sequence[_Task]], None]) -> None:
        self._ledger, self._perform = ledger, perform
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._sick = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Ledger], T]) -> T:
        if self._tasks.qsize() >= MAX_PENDING:
            raise TooMuch("too many requests to the queue wait for its disk; ask again in a moment")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._tasks.put(_Task(work, answer))
        return await answer

    def put(self, task: _Task) -> None:
        if self._tasks.qsize() < MAX_PENDING:
            self._tasks.put(task)

    def stop(self) -> None:
        self._tasks.put(None)
        self._thread.join()
        self._ledger.close()

    def _run(self) -> None:
        while group := self._gather():
            self._perform(self._ledger, group)
            self._loop.call_soon_threadsafe(self._answer, group)

    def _gather(self) -> list[_Task]:
        """All that waits now, and at least one; nothing at the end."""
        group: list[_Task] = []
        urgent = False  # somebody waits; what nobody waits for is no reason to flush the disk
        while len(group) < MAX_GROUP:
            try:
                if not group:
                    task = self._tasks.get()
                else:
                    task = self._tasks.get_nowait() if urgent else self._tasks.get(timeout=IDLE_S)
            except queue.Empty:
                break
            if task is None:
                if group:
                    self._tasks.put(None)
                break
            group.append(task)
            urgent = urgent or task.answer is not None
        return group

    def _answer(self, tasks: Sequence[_Task]) -> None:
        """On the event loop."""
        for task in tasks:
            failure = self._failure(task.error)
            if task.answer is None:
                if failure is None and task.then is not None:
                    task.then()
            elif task.answer.done():  # who waited was cancelled
                pass
            elif failure is not None:
                task.answer.set_exception(failure)
            else:
                task.answer.set_result(task.value)

    def _failure(self, error: Exception | None) -> Exception | None:
        """What the one who waits is told. The log gets the beginning and the end of a sickness."""
        if not isinstance(error, sqlite3.Error):
            if self._sick and error is None:
                logger.info("queue.disk_well", thread=self._thread.name)
                self._sick = False
            return error
        if not self._sick:
            logger.error("queue.disk", thread=self._thread.name, reason=str(error))
            self._sick = True
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Busy("the queue's file is locked by another program; ask again in a moment")
        return NoSpace("the queue cannot write to its disk, which may be full; what it has accepted is kept")


def _commit(ledger: Ledger, tasks: Sequence[_Task]) -> None:
    try:
        with ledger.transaction():
            for task in tasks:
                task.value = task.work(ledger)
    except Exception as error:
        if len(tasks) == 1:
            tasks[0].error = error
            return
        for task in tasks:  # one of them is at fault, or the disk is: each by itself
            _commit(ledger, [task])


def _look(ledger: Ledger, tasks: Sequence[_Task]) -> None:
    for task in tasks:
        try:
            task.value = task.work(ledger)
        except Exception as error:
            task.error = error
