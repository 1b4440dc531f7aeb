"""Server-sent events as fal's clients read them: `data:` is always JSON, `event:` names are ignored.

Source: WHATWG HTML, 9.2; fal-js `streaming.ts`, httpx-sse.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

PING = b": ping\n\n"


class Broken(Exception):
    """Out of `events`: the stream ends here, cut, so that no client takes what it has for the whole.

    kind, status: of the failure it ends with, as in `Refusals.tell`; "" if it could have gone on.
    """

    def __init__(self, kind: str = "", status: int = 0) -> None:
        super().__init__(kind)
        self.kind, self.status = kind, status


def event(data: Any) -> bytes:
    """One event. JSON has no raw line breaks, so one `data:` line holds it."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class Events(StreamingResponse):
    """200 text/event-stream of `events`, bytes as `event` makes them.

    A comment is sent whenever nothing was for `ping_s`. If the client leaves, or `until` is set, the
    iterator is closed at its current await; after `until` the stream is cut, as `Broken` does.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        ping_s: float,
        until: asyncio.Event | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            _pinging(events, ping_s, until),
            media_type="text/event-stream",
            # nginx buffers a proxied answer otherwise; a cached stream is no stream
            headers={"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})},
        )


async def _pinging(
    events: AsyncIterator[bytes], ping_s: float, until: asyncio.Event | None
) -> AsyncGenerator[bytes, None]:
    end = asyncio.ensure_future((until or asyncio.Event()).wait())
    following: asyncio.Future[bytes] = asyncio.ensure_future(anext(events))
    try:
        while True:
            await asyncio.wait((following, end), timeout=ping_s, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                try:
                    yield following.result()
                except StopAsyncIteration:
                    return
                following = asyncio.ensure_future(anext(events))
            elif end.done():
                raise Broken  # fal-js `queue.ts` takes the last event of a whole stream for the final status
            else:
                yield PING
    finally:
        end.cancel()
        following.cancel()
        await asyncio.gather(end, following, return_exceptions=True)
        if isinstance(events, AsyncGenerator):
            await events.aclose()
