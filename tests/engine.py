"""A supervised fake engine for tests, and what came back from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil

from engines.messages import Job
from realtime.engine import Engine, Reply
from realtime.fleet import Engines, Fleet
from realtime.settings import Settings


class Replies:
    """What came back, by ticket, and how often."""

    def __init__(self, engine: Engines) -> None:
        self.engine = engine
        self.by_ticket: dict[int, list[Reply]] = {}
        self._came = asyncio.Event()

    def submit(self, prompt: str = "a fox", session: str = "s", **given: Any) -> int:
        envelope = {name: given.pop(name, None) for name in ("deadline_s",)}
        buffering = given.pop("buffering", 0)
        job = Job(**({"prompt": prompt, "seed": 1, "width": 32, "height": 32, "format": "png"} | given))

        def on_reply(reply: Reply) -> None:
            self.by_ticket[ticket].append(reply)
            self._came.set()

        ticket = self.engine.submit(
            session=session,
            received=time.monotonic(),
            job=job,
            buffering=buffering,
            weight=1.0,
            on_reply=on_reply,
            **envelope,
        )
        self.by_ticket[ticket] = []
        return ticket

    async def of(self, *tickets: int) -> list[Reply]:
        """The replies to these, once all have one; each has exactly one."""
        async with asyncio.timeout(15):
            while not all(self.by_ticket[ticket] for ticket in tickets):
                self._came.clear()
                await self._came.wait()
        assert all(len(self.by_ticket[ticket]) == 1 for ticket in tickets), "exactly one reply each"
        return [self.by_ticket[ticket][0] for ticket in tickets]


@asynccontextmanager
async def running(
    model: str = "fake:base_ms=1,row_ms=0.1,vae_ms=0",
    clock: Callable[[], float] = time.monotonic,
    **given: Any,
) -> AsyncIterator[tuple[Any, Replies]]:
    """A started engine, or several, stopped and reaped at the end."""
    changed, settings = asyncio.Event(), Settings(model=model, **given)
    kind = Engine if settings.engines == 1 else Fleet
    engine: Engines = kind(settings, clock=clock, on_change=changed.set)
    task = asyncio.create_task(engine.run())
    try:
        yield engine, Replies(engine)
    finally:
        await engine.stop(5)
        await asyncio.wait_for(task, 5)
        assert not [child for child in psutil.Process().children() if "engines" in child.cmdline()]


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, "it never came to that"
        await asyncio.sleep(0.002)
    return time.monotonic() - began
