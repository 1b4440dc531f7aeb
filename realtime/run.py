"""`POST /{owner}/{app}[/path]`: one request, one answer. `GET` with the input in the query."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from realtime.apps import find
from realtime.errors import Draining, InvalidInput, MethodNotAllowed, TooLarge, UnknownApp
from realtime.hosts import Role, Target, base_of
from realtime.service import Caller, Service
from realtime.work import Outcome

if TYPE_CHECKING:
    from realtime.gateway import Gateway

OFF_LOOP = 256 * 1024  # bytes of JSON from which (de)coding takes about a millisecond
NOT_INPUT = frozenset({"fal_jwt_token", "fal_webhook", "fal_max_queue_length"})  # query names


class Runs(Service):
    roles = frozenset({Role.RUN, Role.LEGACY, Role.PLAIN})

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        app = find(target.endpoint)
        if app is None:
            return None
        if request.method not in ("POST", "GET"):
            raise MethodNotAllowed("Method Not Allowed")
        if self._gateway.draining:
            raise Draining("the server is going down; ask again in a moment")
        payload = await input_of(request, self._gateway.settings.max_frame_bytes)
        work = asyncio.ensure_future(
            self._gateway.work.draw(
                app,
                payload,
                request_id=request.state.request_id,
                caller=caller,
                base=base_of(request, target),
                lane="run",
            )
        )
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return await answer(work.result())
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    """Until the client is gone. Its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answer(outcome: Outcome) -> Response:
    """The HTTP answer that an outcome is; long ones are written in a thread."""
    if outcome.status == 200:  # pictures in it, perhaps as data URIs
        content = await asyncio.to_thread(_encoded, outcome.body)
    else:
        content = _encoded(outcome.body)
    return Response(content, outcome.status, outcome.headers, "application/json")


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


async def input_of(request: Request, limit: int) -> dict[str, Any]:
    """The input of a run: the query of a GET, else a JSON object; nothing at all is an empty one.

    Raises InvalidInput, TooLarge.
    """
    if request.method == "GET":
        return {name: value for name, value in request.query_params.items() if name not in NOT_INPUT}
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise TooLarge(f"the body is longer than {limit} bytes; upload pictures and send their URLs")
    return await asyncio.to_thread(_decoded, bytes(data)) if len(data) > OFF_LOOP else _decoded(bytes(data))


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    return value


def unknown(path: str) -> UnknownApp:
    """As fal.run says it."""
    return UnknownApp(f"Path {path[:200]} not found")
