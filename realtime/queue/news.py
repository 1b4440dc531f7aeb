"""Who waits for news of which request. One process knows only its own: waiting always has a limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class News:
    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, id: str) -> None:
        """Something about this request is different now."""
        for event in self._waiting.get(id, ()):
            event.set()

    @contextlib.contextmanager
    def of(self, id: str) -> Iterator[asyncio.Event]:
        """An event that is set at every news of this request; who waits for it clears it."""
        event = asyncio.Event()
        self._waiting.setdefault(id, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[id].discard(event)
            if not self._waiting[id]:
                del self._waiting[id]


async def either(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the event or so long; whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()
