"""A server inside the test's own process and loop, to measure what single turns of the event loop cost."""

from __future__ import annotations

import asyncio
import time
from asyncio import events
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from realtime import server
from realtime.settings import Settings


@asynccontextmanager
async def serving(state_dir: Path, **given: Any) -> AsyncIterator[SimpleNamespace]:
    """host and port of a running server with the fake engine."""
    settings = Settings(**{"model": "fake", "port": 0, "state_dir": state_dir, **given})
    listener = server.listen(settings)
    host, port = listener.getsockname()
    started = asyncio.Event()
    running = server.Server(settings, on_start=started.set)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        await started.wait()
        yield SimpleNamespace(host=host, port=port, server=running)
    finally:
        running.should_exit = True
        await task


@contextmanager
def turns() -> Iterator[list[float]]:
    """The processor seconds of each callback the loop runs meanwhile; other processes are not in them."""
    spent: list[float] = []
    run = events.Handle._run

    def measured(handle: events.Handle) -> None:
        start = time.thread_time()
        run(handle)
        spent.append(time.thread_time() - start)

    events.Handle._run = measured  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        events.Handle._run = run  # type: ignore[method-assign]
