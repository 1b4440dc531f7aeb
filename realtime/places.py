"""How the requests of one caller over HTTP share the engine with live sessions.

Each has a place, which is a session of the engine, and all places of one caller are one account there,
which takes turns with the live sessions as one of them. So a hundred requests at once are drawn in large
batches while nobody else wants the engine, and hold nobody up who does. Queued requests wait behind all
others besides (engines/tiers.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

PLACES = 16  # of one caller at each engine: as many as the largest UNet call has


@dataclass(frozen=True, slots=True)
class Place:
    session: str  # of the engine
    account: str


class Places:
    """A caller's places at the engines, and the line of requests that wait for one."""

    def __init__(self, account: str, engines: int = 1) -> None:
        self.wanted = 0  # places that are taken or waited for
        self._account = account
        self._room = asyncio.Semaphore(PLACES * engines)  # first come, first served
        self._free = deque(f"{account}:{number}" for number in range(PLACES * engines))

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        self.wanted += 1
        try:
            async with self._room:
                session = self._free.popleft()
                try:
                    yield Place(session, self._account)
                finally:
                    self._free.append(session)
        finally:
            self.wanted -= 1
