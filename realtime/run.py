"""`POST /{owner}/{app}[/path]`: one request, one answer; or `GET` with the input in the query.

A client that leaves takes its request with it. Source: fal-js `function.ts`, fal-client `run`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from engines.messages import Preview
from realtime import wire
from realtime.answer import OFF_LOOP as OFF_LOOP
from realtime.apps import App, find
from realtime.errors import BadFrame, Draining, InvalidInput, MethodNotAllowed, TooLarge, TooMuch, UnknownApp
from realtime.hosts import Role, Target, base_of
from realtime.service import Caller, Service
from realtime.socket import MAX_HELD
from realtime.storage import lifecycle
from realtime.work import Outcome, start_timeout_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from realtime.gateway import Gateway

ROLES = frozenset({Role.RUN, Role.LEGACY, Role.PLAIN})
NOT_INPUT = frozenset({"fal_jwt_token", "fal_webhook", "fal_max_queue_length"})  # query names
SOCKETS = frozenset({"realtime", "ws"})  # last segments of paths that are for sockets

T = TypeVar("T")


class Runs(Service):
    roles = ROLES

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        if target.path.rstrip("/").rpartition("/")[2] in SOCKETS:
            raise UnknownApp("this path is for a WebSocket; connect to it with the realtime client")
        app = find(target.endpoint)
        if app is None:
            if target.role is Role.PLAIN:
                return None
            raise unknown(target.endpoint)
        draw = await ordered(self._gateway, app, request, target, caller)
        return await answer(await while_there(request, draw()))


def unknown(endpoint: str) -> UnknownApp:
    """No app is there: in fal's words, which of the two it is that nobody serves."""
    owner, _, rest = endpoint[:200].partition("/")
    name, _, path = rest.partition("/")
    if path and find(f"{owner}/{name}") is not None:
        return UnknownApp(f"Path /{path} not found")
    return UnknownApp(f'Application "{endpoint[:200]}" not found')


class Draw(Protocol):
    def __call__(
        self, *, on_preview: Callable[[Preview], None] | None = None
    ) -> Coroutine[Any, Any, Outcome]: ...


async def ordered(gateway: Gateway, app: App, request: Request, target: Target, caller: Caller) -> Draw:
    """What a request asks for, read to its end; calling it draws. Raises Failure."""
    if request.method not in ("POST", "GET"):
        raise MethodNotAllowed("POST", "GET")
    if gateway.draining:
        raise Draining("the server is going down; ask again in a moment")
    gateway.limits.frame(caller)
    start_timeout_s = start_timeout_of(request.headers)
    wish = lifecycle.of(request.headers)
    given = await input_of(gateway, request)
    return partial(
        gateway.work.draw,
        app,
        given.payload,
        receive_s=given.receive_s,
        decode_s=given.decode_s,
        request_id=request.state.request_id,
        caller=caller,
        base=base_of(request, target),
        lane="run",
        start_timeout_s=start_timeout_s,
        lifetime_s=wish.lifetime_s,
        acl=wish.acl,
    )


class Input(NamedTuple):
    payload: dict[str, Any]
    receive_s: float  # until the body had been read
    decode_s: float  # bytes to a map


async def input_of(gateway: Gateway, request: Request) -> Input:
    """The input of a run: the query of a GET, else a JSON object; nothing at all is an empty one.

    Raises InvalidInput, as fal's own apps (FastAPI) answer what is no JSON; TooLarge, TooMuch.
    """
    if request.method == "GET":
        query = {name: value for name, value in request.query_params.items() if name not in NOT_INPUT}
        return Input(query, 0.0, 0.0)
    began = time.monotonic()
    limit = min(gateway.settings.max_frame_bytes, wire.MAX_TEXT)
    data = bytearray()
    try:
        async for piece in request.stream():
            data += piece
            gateway.held_bytes += len(piece)
            if len(data) > limit:
                raise TooLarge(f"the body is longer than {limit} bytes; upload pictures and send their URLs")
            if gateway.held_bytes > MAX_HELD:
                raise TooMuch(f"unanswered requests fill {MAX_HELD >> 20} MiB of this server")
        received = time.monotonic()
        payload = await asyncio.to_thread(_decoded, data) if len(data) > OFF_LOOP else _decoded(data)
        return Input(payload, received - began, time.monotonic() - received)
    finally:
        gateway.held_bytes -= len(data)


def _decoded(data: bytearray) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        return wire.decode(data.decode())
    except UnicodeDecodeError:
        reason = "the body is not UTF-8"
    except BadFrame as failure:
        reason = failure.reason
    raise InvalidInput(reason, [{"loc": ["body"], "msg": reason, "type": "json_invalid"}])


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves first: ClientDisconnect then.

    The request's body must have been read.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answer(outcome: Outcome) -> Response:
    """The HTTP answer that an outcome is. One with pictures in it, as data URIs, is written in a thread."""
    content = await asyncio.to_thread(_encoded, outcome) if outcome.status == 200 else _encoded(outcome)
    return Response(content, outcome.status, outcome.headers, "application/json")


def _encoded(outcome: Outcome) -> bytes:
    text = json.dumps(outcome.body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")  # half a surrogate pair in an echoed prompt cannot be sent
