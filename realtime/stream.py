"""`POST /{owner}/{app}[/path]/stream`: a picture while it is drawn, as server-sent events.

    data: {"partial": true, "step": 1, "steps": 4, "images": [{"url": "data:image/jpeg;base64,..."}]}
    ...
    data: {"partial": false, "images": [...], "seed": 7, ...}        the answer of a run

An event of a step has what the model then takes the finished picture for. Steps can go without one, never
the answer. Until there is something to show, failures are plain HTTP errors; after that they are an event
`{"detail", "error_type", "status"}` and a cut, so that no client takes it for an answer.
Source: fal-js `streaming.ts`, fal-client `stream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from engines.messages import Preview
from realtime import answer
from realtime.apps import echo, find
from realtime.hosts import Target
from realtime.run import ROLES, Draw, input_of, ordered, while_there
from realtime.run import answer as answered
from realtime.service import Caller, Service
from realtime.sse import Broken, Events, event
from realtime.work import Outcome

if TYPE_CHECKING:
    from realtime.gateway import Gateway


class Streams(Service):
    roles = ROLES

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        endpoint, slash, last = target.endpoint.rpartition("/")
        if last != "stream" or not slash:
            return None
        ping_s = self._gateway.settings.sse_ping_s
        if endpoint == echo.ID and self._gateway.settings.test_apps:
            words = echo.answers(echo.prompt_of((await input_of(self._gateway, request)).payload))
            return Events((event(said) async for said in words), ping_s=ping_s)
        app = find(endpoint)
        if app is None:
            return None
        stream = Stream(await ordered(self._gateway, app, request, target, caller))
        try:
            first = await while_there(request, stream.first(ping_s))
        except BaseException:
            await stream.aclose()
            raise
        if isinstance(first, Outcome) and first.status != 200:
            return await answered(first)
        return Events(stream.events(first), ping_s=ping_s)


class Stream:
    """One request being drawn, and what there is to say of it. `aclose`, or the end of `events`, ends it."""

    def __init__(self, draw: Draw) -> None:
        self._news: asyncio.Queue[Preview | Outcome] = asyncio.Queue()  # bounded by the steps of a request
        self._shown: dict[int, dict[str, Any]] = {}  # by number of the picture
        self._drawing = asyncio.create_task(draw(on_preview=self._news.put_nowait))
        self._drawing.add_done_callback(self._drawn)

    def _drawn(self, task: asyncio.Task[Outcome]) -> None:
        if not task.cancelled():
            self._news.put_nowait(task.result())

    async def first(self, patience_s: float) -> Preview | Outcome | None:
        """What comes first; None if nothing does in that time."""
        try:
            async with asyncio.timeout(patience_s):
                return await self._news.get()
        except TimeoutError:
            return None

    async def events(self, first: Preview | Outcome | None) -> AsyncGenerator[bytes, None]:
        """Raises Broken after the event of a failure."""
        try:
            news = first
            while True:
                if isinstance(news, Preview):
                    yield event(self._step(news))
                elif isinstance(news, Outcome):
                    yield await asyncio.to_thread(event, _last(news))
                    if news.status != 200:
                        raise Broken(news.error_type or "", news.status)
                    return
                news = await self._news.get()
        finally:
            await self.aclose()

    def _step(self, preview: Preview) -> dict[str, Any]:
        (self._shown[preview.image],) = answer.images([preview.picture], as_bytes=False)
        return {
            "partial": True,
            "step": preview.step,
            "steps": preview.steps,
            "images": [self._shown[number] for number in sorted(self._shown)],
        }

    async def aclose(self) -> None:
        self._drawing.cancel()
        await asyncio.gather(self._drawing, return_exceptions=True)


def _last(outcome: Outcome) -> dict[str, Any]:
    if outcome.status == 200:
        return {"partial": False, **outcome.body}
    return {"status": outcome.status, "error_type": outcome.error_type, **outcome.body}
