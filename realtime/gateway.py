"""The ASGI application: every request and every socket, sent to where its host and path say.

Sockets go to `socket.py`, HTTP to the services in turn (`service.py`).
Who may ask is judged here, before any of them is asked. Nothing here draws.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from realtime import hosts, log
from realtime.apps import find
from realtime.errors import (
    Draining,
    Failure,
    Forbidden,
    Internal,
    TooMuch,
    Unauthorized,
    UnknownApp,
)
from realtime.fetch import Fetcher
from realtime.fleet import Engines
from realtime.hosts import Role, Target
from realtime.images import Media
from realtime.keys import KeyFile, Keys
from realtime.limits import Limits
from realtime.metrics import Metrics
from realtime.mint import Mint
from realtime.openapi import OpenApi
from realtime.pages import Pages
from realtime.protocol import Close, Connection
from realtime.proxy import Proxy
from realtime.queue import Queue
from realtime.refusals import Refusals
from realtime.run import Runs
from realtime.service import Caller, Service
from realtime.session import BUFFERING
from realtime.settings import Settings
from realtime.socket import Message, Receive, Socket, Transmit
from realtime.sse import Broken
from realtime.storage import Storage
from realtime.stream import Streams
from realtime.tokens import Tokens, load_secret
from realtime.work import Work

PIECE = 256 * 1024  # bytes of an answer that a reader is given `stall_s` for

logger = log.get("realtime.gateway")


class Gateway:
    def __init__(self, settings: Settings, engine: Engines) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = Metrics()
        self.refusals = Refusals()
        self.fetcher = Fetcher(settings)
        self.keys = Keys(settings.keys, KeyFile(settings.state_dir))
        self.limits = Limits(settings, self.keys.own_limits)
        self.tokens = Tokens(load_secret(settings.state_dir), self.keys)
        self.storage = Storage(settings, self.keys, self.tokens, self.limits)
        self.media = Media(settings, self.fetcher, self.storage)
        self.work = Work(self)
        self.services: list[Service] = [
            *(Pages(self), Mint(self), Proxy(self), OpenApi(self), self.storage),
            *(Queue(self), Streams(self), Runs(self)),  # a submit under our own name is told by its words
        ]
        self.draining = False
        self.leaving = asyncio.Event()  # set with `draining`: what only watches ends now
        self.engine_known = asyncio.Event()  # set while the engine's models are known
        self.sockets: set[Socket] = set()
        self.requests = 0  # over HTTP, not answered to the last byte
        self.held_bytes = 0  # of frames not answered yet, of all sockets
        self.empty = asyncio.Event()  # set while no socket is open and every HTTP request is answered
        self.empty.set()
        self._numbers = 0

    def engine_changed(self) -> None:
        """To be called when the engine's state or models changed."""
        if self.engine.models:
            self.engine_known.set()
        else:
            self.engine_known.clear()
        self.metrics.ready.set(self.engine.state == "ready")
        self.metrics.engine.restarts = self.engine.restarts

    def drain(self) -> None:
        """Admit nothing more; every socket closes when its own frames are answered.

        So clients do not all reconnect at one moment either.
        """
        self.draining = True
        self.leaving.set()
        for socket in list(self.sockets):
            socket.leave()

    async def run(self) -> None:
        """The services' background work, until cancelled. Raises what one of them could not survive."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.keys.run(self._keys_changed), name="Keys")
            for service in self.services:
                group.create_task(service.run(), name=type(service).__name__)

    def _keys_changed(self) -> None:
        self.limits.changed()
        for socket in list(self.sockets):
            # Also those that came while the server was open: now it is not.
            if not self.keys.lets(socket.caller.key_id):
                socket.expel(Unauthorized("the key of this socket was revoked"))

    def _count(self) -> None:
        if self.sockets or self.requests:
            self.empty.clear()
        else:
            self.empty.set()
        self.metrics.sockets.set(len(self.sockets))

    async def __call__(self, scope: Message, receive: Receive, transmit: Transmit) -> None:
        if scope["type"] in ("websocket", "http"):
            scope = hosts.forwarded(scope, self.settings.trusted_proxies)
        if scope["type"] == "websocket":
            await self._socket(scope, receive, transmit)
        elif scope["type"] == "http":
            await self._http(scope, receive, transmit)

    # ---- sockets ----

    async def _socket(self, scope: Message, receive: Receive, transmit: Transmit) -> None:
        """Accepts every handshake; who may not stay is told why in a frame (JS clients hang on a 401)."""
        await receive()  # websocket.connect
        headers = Headers(scope=scope)
        target = hosts.target(headers.get("host", ""), scope["path"])
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        try:
            await transmit({"type": "websocket.accept"})
        except OSError:
            return
        app = find(target.endpoint)
        try:
            caller = self._admit(headers, target, query)
            if app is None:
                raise UnknownApp(f'Application "{target.endpoint[:100]}" not found')
            self.limits.enter(caller.key_id)
        except Failure as failure:
            self.metrics.opened.labels(failure.error_type).inc()
            self.refusals.tell("socket", failure.error_type, failure.status, app=app.id if app else "")
            await self._turn_away(failure, receive, transmit)
            return
        self.metrics.opened.labels("accepted").inc()
        self._numbers += 1
        socket = Socket(
            self,
            app,
            scope["extensions"]["realtime.frames"],
            receive,
            name=f"s{self._numbers}",
            buffering=_whole(query.get("max_buffering", [""])[0], BUFFERING),
            caller=caller,
        )
        self.sockets.add(socket)
        self._count()
        logger.debug("session.open", session=socket.name, app=app.id)
        try:
            await socket.run()
        finally:
            self.sockets.discard(socket)
            self.limits.leave(caller.key_id)
            self._count()
            self.metrics.closed.labels(socket.ended_by).inc()
            logger.debug("session.close", session=socket.name, by=socket.ended_by)

    def _admit(self, headers: Headers, target: Target, query: dict[str, list[str]]) -> Caller:
        """Whose socket this is. Raises why it may not stay."""
        self.check_origin(headers)
        if self.draining:
            raise Draining("the server is going down; reconnect in a moment")
        if len(self.sockets) >= self.settings.max_sockets:
            raise TooMuch(f"{self.settings.max_sockets} sockets are open, the most this server takes")
        token = query.get("fal_jwt_token", [""])[0]
        if token:
            # Judged once: a live socket outlasts its token (fal-js refreshes its token, not the socket).
            return Caller(self.tokens.check(token, target.endpoint))
        return Caller(self.keys.check(headers.get("authorization")))

    async def _turn_away(self, failure: Failure, receive: Receive, transmit: Transmit) -> None:
        connection = Connection(now=time.monotonic(), idle_s=self.settings.idle_s)
        # 1013: try again later (RFC 6455 registry)
        connection.refuse(failure, 1013 if isinstance(failure, TooMuch) else 1000)
        try:
            async with asyncio.timeout(self.settings.send_timeout_s):
                while (output := connection.data_to_send()) is not None:
                    if isinstance(output, Close):
                        await transmit(
                            {"type": "websocket.close", "code": output.code, "reason": output.reason}
                        )
                    else:
                        await transmit({"type": "websocket.send", "text": output})
        except (OSError, TimeoutError):
            pass  # it left by itself

    def check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if not hosts.origin_allowed(
            origin, headers.get("host", ""), self.settings.public_hosts, self.keys.required
        ):
            raise Forbidden("pages of this origin may not use this server; add its host to RT_PUBLIC_HOSTS")

    # ---- HTTP ----

    async def _http(self, scope: Message, receive: Receive, transmit: Transmit) -> None:
        self.requests += 1
        self._count()
        try:
            await self._answer(Request(scope, receive), _patient(transmit, self.settings.stall_s))
        except (ClientDisconnect, Broken):
            pass  # uvicorn closes a connection whose answer is not whole
        except TimeoutError:  # closing it would wait for the reader that does not read
            scope["extensions"]["realtime.abort"]()
        finally:
            self.requests -= 1
            self._count()

    async def _answer(self, request: Request, transmit: Transmit) -> None:
        began = time.monotonic()
        target = hosts.target(request.headers.get("host", ""), request.scope["path"])
        request.state.request_id = str(uuid.uuid4())
        try:
            response = await self.respond(request, target)
        except Failure as failure:
            response = JSONResponse(failure.body(), failure.status, failure.headers)
        except ClientDisconnect:
            self.metrics.requests.labels(target.role, "499").inc()
            return
        except Exception:
            logger.exception("http.request", role=target.role, request_id=request.state.request_id)
            internal = Internal("Internal Server Error")
            response = JSONResponse(internal.body(), internal.status, internal.headers)
        response.headers.setdefault("x-fal-request-id", request.state.request_id)
        self._allow_origin(request, response)
        status = response.status_code
        self.metrics.requests.labels(target.role, str(status)).inc()
        request_id = response.headers["x-fal-request-id"]
        app = find(target.endpoint)
        about = {"role": target.role, "app": app.id if app else "", "method": request.method}
        seconds = time.monotonic() - began
        if kind := response.headers.get("x-fal-error-type", ""):  # what /readyz says is no failure
            self.refusals.tell("http", kind, status, request_id, **about, seconds=round(seconds, 3))
        else:
            self.refusals.timed("http", seconds, request_id, **about)
        try:
            await response(request.scope, request.receive, transmit)
        except Broken as end:
            if end.kind:
                seconds = time.monotonic() - began
                self.refusals.tell(
                    "http", end.kind, end.status, request_id, **about, seconds=round(seconds, 3)
                )
            raise

    async def respond(self, request: Request, target: Target) -> Response:
        """The answer to one request, `target` being where it goes. Raises Failure."""
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return Response(status_code=204)
        asked = [service for service in self.services if target.role in service.roles]
        for service in asked:
            if service.public(request, target):
                response = await service.respond(request, target, Caller(""))
                if response is not None:
                    return response
        caller = self.caller(request, target)
        for service in asked:
            response = await service.respond(request, target, caller)
            if response is not None:
                return response
        raise UnknownApp(f"Path {target.path[:200]} not found")

    def caller(self, request: Request, target: Target) -> Caller:
        """Whose request this is: by a token in the URL, as browsers have it, else by an API key.

        Raises Unauthorized; Forbidden for a page of a stranger.
        """
        self.check_origin(request.headers)
        if "origin" not in request.headers and request.headers.get("sec-fetch-site") == "cross-site":
            # A GET draws: no picture or link in a stranger's page shall make us do that.
            raise Forbidden("this address cannot be a link or a picture in a page from elsewhere")
        token = request.query_params.get("fal_jwt_token", "")
        if token and target.role not in (Role.REST, Role.CDN):
            return Caller(self.tokens.check(token, target.endpoint))
        return Caller(self.keys.check(request.headers.get("authorization")))

    def _allow_origin(self, request: Request, response: Response) -> None:
        """CORS for pages that may use us; `*` would not cover `Authorization`, so what is asked is echoed."""
        origin = request.headers.get("origin")
        response.headers["vary"] = "Origin"
        if origin is None:
            return
        try:
            self.check_origin(request.headers)
        except Forbidden:
            return
        response.headers["access-control-allow-origin"] = origin
        own = response.headers.get("access-control-expose-headers", "").split(", ")
        told = [name for name in response.headers if name.startswith("x-fal-")]
        shown = dict.fromkeys(filter(None, (*told, *own, "etag", "retry-after")))
        response.headers["access-control-expose-headers"] = ", ".join(shown)
        if response.status_code == 204:
            asked = request.headers.get("access-control-request-headers", "")
            response.headers["access-control-allow-methods"] = "GET, POST, PUT, DELETE, OPTIONS"
            response.headers["access-control-allow-headers"] = asked
            response.headers["access-control-max-age"] = "3600"


def _patient(transmit: Transmit, stall_s: float) -> Transmit:
    """`transmit` of an answer that waits so long for a reader to take the next PIECE. Raises TimeoutError."""

    async def put(message: Message) -> None:
        # uvicorn takes all of a message at once, and waits for the reader with the next one.
        body = memoryview(message.get("body", b""))
        for at in range(0, len(body) or 1, PIECE):
            more = message.get("more_body", False) or at + PIECE < len(body)
            part = {"body": body[at : at + PIECE], "more_body": more} if body else {}
            async with asyncio.timeout(stall_s):
                await transmit({**message, **part})

    return put


def _whole(text: str, default: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else default
