"""queue.fal.run: submit, status, status stream, result, cancel, as fal's clients ask for them.

Source: fal-js `queue.ts`, fal-client `SyncRequestHandle`, fal's queue documentation.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from realtime.apps import find
from realtime.errors import Busy, Draining, MethodNotAllowed
from realtime.fetch import Refusal
from realtime.hosts import Role, Target, base_of, queue_base_of
from realtime.queue import answers, options, owner
from realtime.queue.desk import Desk
from realtime.queue.news import News, either
from realtime.queue.records import Crowded, Limits, Order, Status
from realtime.queue.webhooks import Signer, Webhooks, load_key
from realtime.queue.worker import Worker
from realtime.run import OFF_LOOP, input_of, unknown
from realtime.service import Caller, Service
from realtime.sse import Broken, Events, event
from realtime.storage import lifecycle
from realtime.work import start_timeout_of

if TYPE_CHECKING:
    from realtime.gateway import Gateway

JWKS = "/.well-known/jwks.json"
FILE = "queue.sqlite3"  # in the state directory
OPENING_S = 5.0
OURS = re.compile(r"[0-9a-f-]{36}")  # an id we could have given; others may not even fit into a header
LOOK_S = 1.0  # a stream looks again: positions change, and another process may draw the request


@dataclass(frozen=True, slots=True)
class Route:
    """What a path below "/{owner}/{app}/requests/" names."""

    app: str
    id: str
    part: Literal["result", "status", "stream", "cancel"]


def route(path: str) -> Route | None:
    """None: no such path. A final slash does not matter, and "/response" is the result (fal's own SDK)."""
    parts = [part for part in path.split("/") if part]
    if "requests" not in parts[1:]:
        return None
    at = len(parts) - 1 - parts[::-1].index("requests")
    app = "/".join(parts[:at])
    match parts[at + 1 :]:
        case [id] | [id, "response"]:
            return Route(app, id, "result")
        case [id, "status"]:
            return Route(app, id, "status")
        case [id, "status", "stream"]:
            return Route(app, id, "stream")
        case [id, "cancel"]:
            return Route(app, id, "cancel")
    return None


def app_of(endpoint: str) -> str:
    """What the URLs of a request name: the endpoint without its sub-path."""
    parts = endpoint.split("/")
    # fal's namespaces shift owner and app by one (fal-js `parseEndpointId`).
    return "/".join(parts[: 3 if parts[0] in ("workflows", "comfy") else 2])


class Queue(Service):
    roles = frozenset({Role.QUEUE, Role.REST, Role.PLAIN})

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.time) -> None:
        """clock: wall time, seconds. Raises OSError if the state directory cannot be written."""
        self._gateway, self._clock = gateway, clock
        self._settings = gateway.settings
        self._news, self._me = News(), owner.own()
        self._signer = Signer(load_key(self._settings.state_dir))
        self._opened = asyncio.Event()  # while it is set, these are there:
        self._desk: Desk
        self._worker: Worker
        self._webhooks: Webhooks

    async def run(self) -> None:
        """Draws what waits and makes the calls that are due, until cancelled. Raises Unusable."""
        settings = self._settings
        self._desk = await Desk.open(
            settings.state_dir / FILE, max_bytes=settings.queue_bytes, keep_s=settings.queue_keep_s
        )
        try:
            self._webhooks = Webhooks(settings, self._desk, self._signer, clock=self._clock)
            self._worker = Worker(
                self._gateway, self._desk, self._news, self._me, ended=self._webhooks.nudge, clock=self._clock
            )
            self._opened.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._worker.run(), name="queue worker")
                group.create_task(self._webhooks.run(), name="webhooks")
        finally:
            self._opened.clear()
            await asyncio.shield(self._desk.aclose())

    # ---- HTTP ----

    def public(self, request: Request, target: Target) -> bool:
        return target.path == JWKS

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        if target.path == JWKS:
            _only(request, "GET", "HEAD")
            return JSONResponse(self._signer.jwks(), headers={"cache-control": "public, max-age=3600"})
        if target.role is Role.REST:
            return None
        named = route(target.path)
        submits = target.role is Role.QUEUE or (
            request.method == "POST" and options.for_queue(request.headers, request.query_params)
        )
        if named is None and not submits:
            return None
        if not self._opened.is_set() and not await either(self._opened, OPENING_S):
            raise Busy("the queue is not open; ask again in a moment")
        if named is None:
            return await self._submit(request, target, caller)
        response = await self._about(request, target, caller, named)
        if OURS.fullmatch(named.id):
            response.headers["x-fal-request-id"] = named.id
        return response

    # ---- submit ----

    async def _submit(self, request: Request, target: Target, caller: Caller) -> Response:
        endpoint = "/".join(part for part in target.path.split("/") if part)
        if find(endpoint) is None:
            raise unknown(endpoint)
        _only(request, "POST")
        if self._gateway.draining:
            raise Draining("the server is going down; submit again in a moment")
        order = await self._order(request, target, caller, endpoint)
        limits = Limits(
            server=self._settings.queue_max,
            tenant=self._gateway.limits.queue_depth(caller) or None,
            caller=options.longest_queue(request.query_params),
        )
        now = self._clock()
        receipt = await self._desk.write(lambda ledger: ledger.submit(order, self._me, now, limits))
        if isinstance(receipt, Crowded):
            raise answers.crowded(receipt)
        self._worker.nudge()
        # A client that has left does not know what it submitted, and submits it again: fal's clients retry.
        arrived = not await request.is_disconnected()
        return JSONResponse(
            answers.submitted(receipt, answers.urls(queue_base_of(request, target), order.app, receipt.id)),
            headers={"x-fal-request-id": receipt.id},
            background=BackgroundTask(self._answered, receipt.id, arrived),
        )

    async def _order(self, request: Request, target: Target, caller: Caller, endpoint: str) -> Order:
        """Raises Failure for what cannot be meant; what an app says to its input is for the result."""
        headers, webhook = request.headers, request.query_params.get("fal_webhook", "")
        if webhook:
            try:
                self._webhooks.check(webhook)
            except Refusal as error:
                raise options.wrong("query", "fal_webhook", f"the URL {error}") from None
        start_s = start_timeout_of(headers)
        low, wish = options.low_priority(headers), lifecycle.of(headers)
        payload = (await input_of(self._gateway, request)).payload
        return Order(
            id=request.state.request_id,
            tenant=caller.key_id,
            app=app_of(endpoint),
            endpoint=endpoint,
            body=await asyncio.to_thread(_json, payload) if _is_long(request) else _json(payload),
            base=base_of(request, target),
            low=low,
            start_by=None if start_s is None else self._clock() + start_s,
            retry=options.retries(headers),
            store=options.stored(headers),
            lifetime_s=wish.lifetime_s or None,
            acl=wish.acl.model_dump_json() if wish.acl else "",
            webhook=webhook,
        )

    async def _answered(self, id: str, arrived: bool) -> None:
        self._desk.note(lambda ledger: ledger.answered(id, arrived))

    # ---- what became of it ----

    async def _about(self, request: Request, target: Target, caller: Caller, named: Route) -> Response:
        if named.part == "cancel":
            _only(request, "PUT")
            return await self._cancel(caller, named)
        _only(request, "GET", "HEAD")
        if named.part == "result":
            return await self._result(caller, named)
        logs = options.logs(request.query_params)
        status = await self._look(caller, named, 0 if logs else None)
        if status is None:
            return answers.unknown()
        urls = answers.urls(queue_base_of(request, target), named.app, named.id)
        if named.part == "status":
            code = 200 if status.state == "COMPLETED" else 202
            return JSONResponse(answers.status(status, urls, logs), code)
        return Events(
            self._stream(caller, named, urls, logs),
            ping_s=self._settings.sse_ping_s,
            until=self._gateway.leaving,
        )

    async def _look(self, caller: Caller, named: Route, notes_from: int | None) -> Status | None:
        return await self._desk.read(
            lambda ledger: ledger.status(named.id, caller.key_id, named.app, notes_from)
        )

    async def _stream(
        self, caller: Caller, named: Route, urls: dict[str, str], logs: bool
    ) -> AsyncIterator[bytes]:
        """A status at every change, with the lines of the log that are new; the last one is COMPLETED.

        Raises Broken if it was forgotten before.
        """
        seen, last = 0, None
        with self._news.of(named.id) as news:
            while True:
                news.clear()
                status = await self._look(caller, named, seen if logs else None)
                if status is None:
                    raise Broken
                if status.notes or (status.state, status.position) != last:
                    yield event(answers.status(status, urls, logs))
                seen, last = seen + len(status.notes), (status.state, status.position)
                if status.state == "COMPLETED":
                    return
                await either(news, LOOK_S)

    async def _result(self, caller: Caller, named: Route) -> Response:
        found = await self._desk.read(lambda ledger: ledger.result(named.id, caller.key_id, named.app))
        match found:
            case "unknown":
                return answers.unknown()
            case "unfinished":
                return answers.unfinished()
            case "erased":
                return answers.erased()
        if not found.store:
            now = self._clock()
            self._desk.note(lambda ledger: ledger.fetched(named.id, now))
        ending = found.ending
        return Response(ending.body, ending.status, ending.headers, "application/json")

    async def _cancel(self, caller: Caller, named: Route) -> Response:
        now = self._clock()
        answer = await self._desk.write(lambda ledger: ledger.cancel(named.id, caller.key_id, named.app, now))
        if answer == "unknown":
            return answers.unknown()
        if answer == "too_late":
            return answers.too_late()
        self._worker.stop(named.id)
        self._news.tell(named.id)
        self._webhooks.nudge()
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)


def _json(payload: dict[str, Any]) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode()


def _is_long(request: Request) -> bool:
    length = request.headers.get("content-length", "")
    return not length.isdigit() or int(length) > OFF_LOOP


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(*methods)
