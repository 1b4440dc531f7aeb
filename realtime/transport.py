"""uvicorn's two protocols with what a public real-time server needs on top.

uvicorn 0.54 stops reading after one unconsumed message but first parses everything it was given, which is
up to 256 KiB at once: 40,000 tiny frames, half a second of the event loop. `Frames` parses in slices, waits
for the application between them, joins fragments as they come (a million empty ones cost nothing), answers
an empty close with 1000 and tells the application when a message began and ended.
`Requests` cuts a connection that does not finish its request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

SLICE = 4096  # bytes parsed before the loop turns: at most 680 frames, 5 ms
MAX_UNREAD = 1024 * 1024  # bytes of our own answers the peer may leave unread before we stop reading it
CLOSE_EMPTY = Close(1000, "").serialize()

log = logging.getLogger("realtime.websocket")


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
    """`Config.ws`. Its ASGI messages carry `started` and `received`, monotonic seconds of the first and
    last byte of a message; its scope carries `extensions["realtime.abort"]`, which cuts the connection at
    once (closing a transport waits for its buffer: 928 s for a peer that vanished), and
    `extensions["realtime.writable"]`, which says whether `send` would return without waiting."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = Core(max_size=self.config.ws_max_size, logger=log)
        self._data = b""  # received, not parsed
        self._at = 0
        self._arrived = 0.0
        self._started: float | None = None
        self._parsed = False  # the last slice completed a frame
        self._scheduled = False

    # ---- bytes in ----

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            return
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0
        self._arrived = time.monotonic()
        if not self._scheduled:
            self._parse()

    def _parse(self) -> None:
        """Slices until one held a frame; then the loop turns and the application reads."""
        self._scheduled = False
        while self._at < len(self._data) and not self.transport.is_closing():
            if not self.close_sent and (
                not self.queue.empty() or self.transport.get_write_buffer_size() > MAX_UNREAD
            ):
                self._pause()  # `receive` or `resume_writing` goes on
                return
            if self._started is None:
                self._started = self._arrived
            piece = self._data[self._at : self._at + SLICE]
            self._at += len(piece)
            self._parsed = False
            super().data_received(piece)
            if self._parsed and self._at < len(self._data):
                self._later()
                return
        self._data, self._at = b"", 0
        if self.read_paused and self.queue.empty():
            self._resume()

    def _later(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._pause()
            self.loop.call_soon(self._parse)

    def _pause(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self._resume()
        return message

    async def send(self, message: Any) -> None:
        if self.close_sent:
            # uvicorn closed by itself (no pong, a broken frame) and would blame the application for sending.
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.close":
            self._resume()  # the peer's reply may be among the bytes not parsed yet

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.read_paused and self.queue.empty():
            self._resume()

    def _resume(self) -> None:
        if self._at < len(self._data):
            self._later()
        elif not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    # ---- frames in ----

    def handle_events(self) -> None:
        before = self.conn.events
        self._parsed = bool(before)
        super().handle_events()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            extensions = cast(dict[str, Any], self.scope["extensions"])
            extensions["realtime.abort"] = self.transport.abort
            extensions["realtime.writable"] = self.writable.is_set

    def handle_cont(self, event: Frame) -> None:
        if event.data:
            first = self.frames[0]
            if not isinstance(first, bytearray):
                self.frames[0] = first = cast(bytes, bytearray(first))
            first += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        data = self.frames[0]
        self.frames = []
        message: dict[str, Any] = {
            "type": "websocket.receive",
            "started": self._started if self._started is not None else self._arrived,
            "received": self._arrived,
        }
        self._started = None
        if self.close_sent:
            return  # the application is past its close; reading goes on for the peer's reply
        if self.curr_msg_data_type == "text":
            try:
                message["text"] = data.decode()
            except UnicodeDecodeError:
                # RFC 6455 section 8.1. uvicorn logs a traceback for each.
                self.conn.fail(1007, "text frame is not UTF-8")
                self.handle_parser_exception()
                return
        else:
            message["bytes"] = bytes(data)
        self.queue.put_nowait(cast(Any, message))
        self._pause()


class Requests(HttpToolsProtocol):
    """`Config.http`. A connection has `handshake_s` from its first moment to the end of its request, and
    again for each request after that. uvicorn has no such limit (a partial request stayed open > 40 s)."""

    handshake_s = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.handshake_s, self._cut)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.handshake_s, self._cut)

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
        self.transport.abort()
