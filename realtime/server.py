"""One process: a socket of our own, uvicorn on it, the gateway, and the engine below; and how they end.

uvicorn 0.54 answers SIGTERM by closing every socket 1012 at once, losing the frames in flight. Here the
first signal drains (no admitted frame is lost), the second ends now.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import resource
import signal
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType

import uvicorn

from realtime import __version__, log
from realtime.engine import Engine, Unloadable
from realtime.fleet import Engines, Fleet
from realtime.gateway import Gateway
from realtime.hosts import is_loopback
from realtime.keys import KeyFile, Keys
from realtime.queue.api import FILE
from realtime.queue.file import Unusable
from realtime.queue.ledger import Ledger
from realtime.settings import Settings
from realtime.storage.objects import Objects
from realtime.transport import Frames, Requests

LEAVE_S = 1.5  # after a close frame was sent, what peers get to answer it
USER_TIMEOUT_MS = 8000  # a peer that vanishes while we stream to it is noticed after 928 s by default

logger = log.get("realtime.server")


class CannotServe(Exception):
    """Said to the operator: what was asked for and why it is not done."""


def listen(settings: Settings) -> socket.socket:
    """A bound, listening TCP socket.

    Raises CannotServe for a busy port, and for a public address without API keys; ValueError for a bad key.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CannotServe(f"{settings.host} is no address of this machine: {error.strerror}") from None
    if not keys_of(settings).required and not is_loopback(str(address[0])):
        raise CannotServe(
            f"refusing to serve {settings.host} without API keys: whoever reaches it could use this machine. "
            "Make one with `realtime key create`, set RT_KEYS='[\"id:secret\"]', or serve 127.0.0.1."
        )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Both are inherited by accepted sockets.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        hint = "another server is running there" if error.errno == errno.EADDRINUSE else error.strerror
        raise CannotServe(
            f"port {settings.port} of {settings.host} cannot be used: {hint}. Choose another with --port."
        ) from None
    listener.setblocking(False)
    return listener


def keys_of(settings: Settings) -> Keys:
    """The API keys as they are now. Raises CannotServe if they cannot be read, ValueError for a bad one."""
    made = KeyFile(settings.state_dir)
    try:
        return Keys(settings.keys, made)
    except sqlite3.Error as error:
        raise CannotServe(f"{made.path} holds no API keys that can be read: {error}") from None
    finally:
        made.close()


def url(settings: Settings, listener: socket.socket) -> str:
    """Where a browser on this machine finds the canvas."""
    host, port = listener.getsockname()[:2]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if settings.tls_cert else 'http'}://{name}:{port}"


def _without_tickets(config: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """TLS 1.3 without session tickets. Python's TLS has no lock: a client that reads them in one thread while
    another writes its request (websockets.sync does, and fal-client with it) can lose the request, and waits.
    Of 7,500 connections 14 hung so on two busy cores; without tickets none of as many did."""
    context = default()
    context.num_tickets = 0
    return context


class Server(uvicorn.Server):
    """Use once: `Server(settings).run(sockets=[listen(settings)])`.

    On the event loop: `on_start` is called when requests are taken and signals are ours, `on_change`
    whenever the engine's state or progress changes.
    """

    def __init__(
        self,
        settings: Settings,
        on_start: Callable[[], None] | None = None,
        on_change: Callable[[Engines], None] | None = None,
    ) -> None:
        self.settings = settings
        self._on_start, self._on_change = on_start, on_change
        self._gateway: Gateway | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failed = False  # ended by a model that cannot be loaded or a bug of ours, not by a signal
        self._signals = 0
        self._hurry = asyncio.Event()  # the second signal
        super().__init__(
            uvicorn.Config(
                self._app,
                loop="uvloop" if sys.platform != "win32" else "auto",
                http=type("Requests", (Requests,), {"handshake_s": settings.handshake_s}),
                ws=Frames,
                ws_max_size=settings.max_frame_bytes,
                ws_ping_interval=settings.ping_s,
                ws_ping_timeout=settings.ping_s,
                ws_per_message_deflate=False,  # JPEG does not compress; 76 KiB a socket instead of 26
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,  # uvicorn's lines carry query strings, and with them tokens
                server_header=False,
                proxy_headers=False,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
                ssl_context_factory=_without_tickets if settings.tls_cert else None,
                timeout_graceful_shutdown=2,
            )
        )

    async def _app(self, scope: object, receive: object, send: object) -> None:
        assert self._gateway is not None
        await self._gateway(scope, receive, send)  # type: ignore[arg-type]

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        _raise_file_limit()
        self._loop = asyncio.get_running_loop()
        engine: Engines
        if self.settings.engines == 1:
            engine = Engine(self.settings, on_change=self._engine_changed)
        else:
            engine = Fleet(self.settings, on_change=self._engine_changed)
        self._gateway = Gateway(self.settings, engine)
        running = asyncio.create_task(engine.run(), name="engine")
        running.add_done_callback(self._engine_ended)
        services = asyncio.create_task(self._gateway.run(), name="services")
        services.add_done_callback(self._services_ended)
        try:
            await super().serve(sockets)
        finally:
            services.cancel()
            await asyncio.gather(services, return_exceptions=True)
            await engine.stop(LEAVE_S)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self._gateway.fetcher.aclose()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets:
            settings, names = self.settings, type(self.settings).model_fields
            logger.info(
                "server.listening",
                version=__version__,
                url=url(settings, sockets[0]),
                model=settings.model,
                settings=[name for name in names if getattr(settings, name) != names[name].default],
            )
        if self._on_start is not None:
            self._on_start()

    def _engine_changed(self) -> None:
        if self._gateway is not None:
            self._gateway.engine_changed()
            if self._on_change is not None:
                self._on_change(self._gateway.engine)

    def _engine_ended(self, task: asyncio.Task[None]) -> None:
        # The supervisor restarts engines for ever; if it ends by itself, the model is wrong or we are.
        if not task.cancelled() and not self.should_exit:
            if not isinstance(task.exception(), Unloadable):
                logger.error("engine.supervisor", exc_info=task.exception())
            self.failed = self.should_exit = True

    def _services_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("services.ended", exc_info=task.exception())
            self.failed = self.should_exit = True

    # ---- the end ----

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but the signal is not raised again at the end: a drained server exits 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.should_exit = True
        if self._gateway is not None:
            self._gateway.draining = True  # /readyz says so from this moment
        if self._signals > 1 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._hurry.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, close, leave. Listening goes on meanwhile: /readyz says 503, new sockets are told."""
        gateway = self._gateway
        assert gateway is not None
        gateway.draining = True
        logger.info(
            "server.drain",
            sockets=len(gateway.sockets),
            requests=gateway.requests,
            seconds=self.settings.drain_s,
        )
        started = time.monotonic()
        gateway.drain()
        await _either(gateway.empty, self._hurry, timeout_s=self.settings.drain_s)
        for client in list(gateway.sockets):
            client.close(1012, by="drain")
        await _either(gateway.empty, self._hurry, timeout_s=LEAVE_S)
        left = len(gateway.sockets) + gateway.requests
        logger.info("server.drained", seconds=round(time.monotonic() - started, 3), left=left)
        for client in list(gateway.sockets):
            client.abort("drain")  # closing waits for a peer that does not read
        self.force_exit = True  # uvicorn's own waiting is done above
        await super().shutdown(sockets)


async def _either(first: asyncio.Event, second: asyncio.Event, *, timeout_s: float) -> None:
    waits = [asyncio.ensure_future(first.wait()), asyncio.ensure_future(second.wait())]
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def spare_collections() -> None:
    """Leave what is loaded out of garbage collections; to be called when all is imported.

    64 frames at once set off a small collection, and some of those one of everything, 7 % of a busy
    gateway's processor time. Raising the thresholds besides saves 5 % more and is not done: what a flood of
    pictures leaves would lie about until then, 12 MB of it.
    """
    gc.collect()
    gc.freeze()


def _raise_file_limit() -> None:
    """As many open files as the system lets us have: a socket is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_queue(settings: Settings) -> None:
    """Raises CannotServe if the queue's file is locked, damaged or of another version."""
    try:
        Ledger(settings.state_dir / FILE, settings.queue_bytes).close()
    except Unusable as error:
        raise CannotServe(str(error)) from None


def check_storage(settings: Settings) -> None:
    """Raises CannotServe unless files can be kept where the settings say; a bucket is not asked yet."""
    try:
        Objects(settings.storage_url, settings.state_dir / "objects").close()
    except (ValueError, OSError) as error:
        raise CannotServe(f"files cannot be kept: {error}") from None


def check_tls(settings: Settings) -> None:
    """Raises CannotServe unless certificate and key come together and exist."""
    files: list[Path | None] = [settings.tls_cert, settings.tls_key]
    if any(files) and not all(files):
        raise CannotServe("tls_cert and tls_key come together; one of them is not set")
    for file in files:
        if file is not None and not file.is_file():
            raise CannotServe(f"there is no TLS file {file}")
