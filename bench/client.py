"""A WebSocket client that costs next to nothing: it shares two cores with the server it measures.

RFC 6455 by hand for what a load needs: whole unfragmented messages, pings answered, closes noted. Frames
go out masked with the key 0, which costs the client no pass over the payload; the server still unmasks.
No extension is offered, so nobody compresses. About 10 us a frame against 60 for `websockets`' client.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Final, cast

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

Receive = Callable[[int, bytes], None]


def masked(opcode: int, payload: bytes) -> bytes:
    """One final client frame (RFC 6455 5.2) with an all-zero masking key."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class Socket(asyncio.Protocol):
    """`receive(opcode, payload)` is called for every text or binary message, on the event loop."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[int] = loop.create_future()  # the close code, 1006 = lost without one
        self.transport: asyncio.Transport
        self._buffer = bytearray()
        self._code = 1006

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("the server closed the socket during the handshake"))
        if not self.closed.done():
            self.closed.set_result(self._code)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.opened.done():
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            status = bytes(self._buffer[: self._buffer.find(b"\r\n")])
            if b" 101 " not in status:
                self.opened.set_exception(ConnectionError(f"the server answered {status.decode('latin-1')}"))
                self.transport.close()
                return
            del self._buffer[: end + 4]
            self.opened.set_result(None)
        self._frames()

    def _frames(self) -> None:
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 2:
            if not buffer[start] & 0x80:
                raise ValueError("the server sent a fragmented message; this client reads whole ones")
            size, body = buffer[start + 1], start + 2  # servers do not mask
            if size >= 126:
                body += 2 if size == 126 else 8
                size = int.from_bytes(buffer[start + 2 : body], "big") if len(buffer) >= body else 1 << 62
            if len(buffer) < body + size:
                break
            opcode, payload = buffer[start] & 0x0F, bytes(buffer[body : body + size])
            start = body + size
            if opcode in (TEXT, BINARY):
                self.receive(opcode, payload)
            elif opcode == PING:
                self.transport.write(masked(PONG, payload))
            elif opcode == CLOSE:
                self._code = int.from_bytes(payload[:2], "big") if payload else 1005
                self.transport.write(masked(CLOSE, payload[:2]))
                self.transport.close()
        del buffer[:start]

    def send(self, payload: bytes, opcode: int = BINARY) -> None:
        self.transport.write(masked(opcode, payload))

    async def close(self, timeout_s: float = 5.0) -> int:
        """Say goodbye; returns the code the server closed with."""
        if not self.closed.done():
            self.transport.write(masked(CLOSE, (1000).to_bytes(2, "big")))
            try:
                await asyncio.wait_for(asyncio.shield(self.closed), timeout_s)
            except TimeoutError:
                self.transport.abort()
        return await self.closed


async def connect(port: int, path: str, receive: Receive, timeout_s: float = 20.0) -> Socket:
    """An open socket to ws://127.0.0.1:`port``path`. Raises ConnectionError, TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        _, socket = await loop.create_connection(lambda: Socket(receive), "127.0.0.1", port)
        key = base64.b64encode(os.urandom(16)).decode()
        socket.transport.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await socket.opened
    return socket
