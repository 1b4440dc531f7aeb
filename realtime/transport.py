"""uvicorn's two protocols with what a public real-time server needs on top.

`Frames` gives each message to its listener straight from the bytes, and writes an answer straight to the
transport: no task, no queue and no ASGI message is between them. ASGI is left the beginning and the end of a
connection; websockets' core is left the handshake, control frames, fragments, and whatever is wrong.
It parses for a millisecond before the loop turns (256 KiB of tiny frames are half a second), stops reading
while the listener or the peer is behind, joins fragments as they come (a million empty ones cost nothing)
and answers an empty close with 1000.
`Requests` cuts a connection that does not finish its request, or whose body stands still.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import sys
import time
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask

from realtime.wire import Fragment

TURN_S = 0.001  # of parsing before the loop turns
MIN_BODY = 16 * 1024  # bytes of a request's body in `handshake_s`
MAX_UNREAD = 1024 * 1024  # bytes of our own answers the peer may leave unread before we stop reading it
CLOSE_EMPTY = Close(1000, "").serialize()
TEXT, BINARY = 0x81, 0x82  # first byte of a message that is one frame (RFC 6455 section 5.2)
FIN = 0x80
LENGTH_16, LENGTH_64 = struct.Struct("!BBH"), struct.Struct("!BBQ")

log = logging.getLogger("realtime.websocket")


class Listener(Protocol):
    """Who a socket's messages are for. Neither call may raise."""

    def received(self, message: bytes | str, at: float, took_s: float) -> None:
        """at: monotonic seconds of its last byte; took_s: since its first."""

    def room(self) -> None:
        """`Frames.ready` has become true again."""


class Core(ServerProtocol):
    """websockets' server core that answers an empty close frame with code 1000.

    RFC 6455 section 5.5.1 lets an endpoint echo the empty frame; every fal-js version that can close
    (0.8-1.10) then reports `onError(1005)` for the user's own `close()`.
    """

    def send_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE and not frame.data:
            frame = Frame(Opcode.CLOSE, CLOSE_EMPTY)
        super().send_frame(frame)


class Frames(WebSocketsSansIOProtocol):
    """`Config.ws`. The application finds it as `scope["extensions"]["realtime.frames"]`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = Core(max_size=self.config.ws_max_size, logger=log)
        self._listener: Listener | None = None
        self._held = False  # the listener wants nothing more for now
        self._data = b""  # received, not parsed
        self._at = 0
        self._rest = 0  # bytes from `_at` that belong to a frame the core has begun to parse
        self._arrived = 0.0
        self._joined: bytes | str | None = None  # a message the core has put together, not heard yet
        self._began: float | None = None  # when the message at hand did
        self._scheduled = False
        self._at_rest = False  # all is parsed and heard, to the last byte
        self._max_size = self.config.ws_max_size or sys.maxsize

    # ---- for the listener ----

    def listen(self, listener: Listener) -> None:
        """Messages go to `listener` from now on. Until then nothing is read but the handshake."""
        self._listener = listener
        self._go_on()

    @property
    def ready(self) -> bool:
        """Whether a message may be written: the connection stands, and the peer reads."""
        return self.writable.is_set() and not self.close_sent and not self.transport.is_closing()

    def write(self, message: bytes | str | Fragment) -> None:
        """One whole message, or the next fragment of one. Never waits; only while `ready`, or memory is
        what gives."""
        data: bytes | memoryview
        if isinstance(message, bytes):
            first, data = BINARY, message
        elif isinstance(message, str):
            first, data = TEXT, message.encode()
        else:
            first, data = message.opcode | (FIN if message.last else 0), message.data
        size = len(data)
        if size < 126:
            head = bytes((first, size))
        elif size < 65536:
            head = LENGTH_16.pack(first, 126, size)
        else:
            head = LENGTH_64.pack(first, 127, size)
        self.transport.write(head + data)

    def close(self, code: int, reason: str = "") -> None:
        """Close from our side. The application's next `receive` is the disconnect."""
        if not self.close_sent and not self.transport.is_closing():
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self.conn.send_close(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
            self._go_on()  # the peer's reply may be among the bytes not parsed yet

    def abort(self) -> None:
        """Cut the connection at once. Closing waits for its buffer: 928 s for a peer that vanished."""
        self.transport.abort()

    def hold(self, held: bool) -> None:
        """Read nothing more, or go on."""
        if self._held != held:
            self._held = held
            if not held:
                self._go_on()

    # ---- bytes in ----

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            return
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0
        self._arrived = time.monotonic()
        if self._at_rest and not self._held and self._frame() and self._at == len(data):
            self._data, self._at = b"", 0  # one whole message, as nearly always
        elif not self._scheduled:
            self._parse()

    def _parse(self) -> None:
        """Frames until a turn's time is over, or somebody is behind."""
        self._scheduled = self._at_rest = False
        until = time.monotonic() + TURN_S
        while (self._at < len(self._data) or self._joined is not None) and not self.transport.is_closing():
            if self._must_wait():
                self._pause()  # `listen`, `hold`, `close` or `resume_writing` goes on
                return
            if self._joined is not None:
                message, self._joined = self._joined, None
                self._hear(message)
            elif self._rest:
                self._feed()
            elif not self._frame():
                break
            # Joining 16 MiB is a turn's work, and so is reading them.
            if self._joined is not None or (self._at < len(self._data) and time.monotonic() > until):
                self._pause()
                self._later()
                return
        if self._at == len(self._data):
            self._data, self._at = b"", 0  # a socket at rest holds no frame
            self._at_rest = not self._rest
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def _must_wait(self) -> bool:
        if self.close_sent:
            return False
        return (
            self._listener is None
            or self._held
            or self.transport.get_write_buffer_size() > MAX_UNREAD  # pongs; errors are the listener's
        )

    def _frame(self) -> bool:
        """The next frame: heard if it is a whole message, else `_rest` is set. False: its head is cut."""
        data, at = self._data, self._at
        left = len(data) - at
        if left < 2:
            return False
        first, size = data[at], data[at + 1] & 0x7F
        body = at + 6  # past the masking key, which every client's frame has
        if size >= 126:
            body = at + (8 if size == 126 else 14)
            if left < body - at:
                return False
            size = int.from_bytes(data[at + 2 : body - 4], "big")
        end = body + size
        if self._began is None and first & 0x0F < 8:
            self._began = self._arrived
        if (
            first in (BINARY, TEXT)
            and end <= len(data)
            and data[at + 1] & 0x80
            and size <= self._max_size
            and not self.frames  # no fragmented message is under way
            and self.conn.state is State.OPEN
        ):
            self._at = end
            message = apply_mask(data[body:end], data[body - 4 : body])
            if first == BINARY:
                self._hear(message)
            elif (text := self._text(message)) is not None:
                self._hear(text)
        else:
            self._rest = end - at
        return True

    def _feed(self) -> None:
        """What is here of `_rest` goes to the core, and nothing behind it."""
        piece = self._data[self._at : self._at + self._rest]
        self._at += len(piece)
        self._rest -= len(piece)
        super().data_received(piece)

    def _go_on(self) -> None:
        if (self.read_paused or self._at < len(self._data)) and not self.transport.is_closing():
            self._later()

    def _later(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._parse)

    def _pause(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    # ---- messages in ----

    def handle_cont(self, event: Frame) -> None:
        if event.data:
            first = self.frames[0]
            if not isinstance(first, bytearray):
                self.frames[0] = first = cast(bytes, bytearray(first))
            first += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        data, self.frames = self.frames[0], []
        self._joined = self._text(data) if self.curr_msg_data_type == "text" else bytes(data)

    def _text(self, data: bytes) -> str | None:
        """None if it is none; then the connection has failed."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            # RFC 6455 section 8.1. uvicorn logs a traceback for each.
            self.conn.fail(1007, "text frame is not UTF-8")
            self.handle_parser_exception()
            return None

    def _hear(self, message: bytes | str) -> None:
        began, self._began = self._began or self._arrived, None
        if self._listener is not None and not self.close_sent:  # else only the peer's reply is waited for
            self._listener.received(message, self._arrived, self._arrived - began)

    # ---- the beginning and the end ----

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            cast(dict[str, Any], self.scope["extensions"])["realtime.frames"] = self

    async def send(self, message: Any) -> None:
        if self.close_sent:
            # uvicorn closed by itself (no pong, a broken frame) and would blame the application for sending.
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.close":
            self._go_on()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._listener is not None:
            self._listener.room()
        self._go_on()


class Requests(HttpToolsProtocol):
    """`Config.http`. A connection has `handshake_s` from its first moment to the end of its request, and
    again for each request after that; a body may take longer while it moves. uvicorn has no such limit (a
    partial request stayed open > 40 s). Its scope carries `extensions["realtime.abort"]`."""

    handshake_s = 10.0
    _deadline: asyncio.TimerHandle | None = None
    _brought = 0  # bytes of the body since the deadline was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.handshake_s, self._cut)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["extensions"] = {"realtime.abort": self.transport.abort}
        self._brought = 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.handshake_s, self._cut)

    def on_body(self, body: bytes) -> None:
        self._brought += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._relax()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._relax()
        super().handle_websocket_upgrade()

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        self._deadline = None
        if self._brought >= MIN_BODY or (self._brought and self.flow.read_paused):  # paused: we are behind
            self._brought = 0
            self._deadline = self.loop.call_later(self.handshake_s, self._cut)
        else:
            self.transport.abort()
