"""A realtime socket of a test: asyncio, no deflate, and results as maps whatever their framing."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import msgpack
from websockets.asyncio.client import ClientConnection, connect

from tests.servers import Server

LCM = "/fal-ai/lcm/realtime"


def opened(
    server: Server,
    path: str = LCM,
    *,
    name: str | None = None,
    headers: dict[str, str] | None = None,
    **query: Any,
) -> connect:
    """An async context manager, as websockets' `connect`. `name`: what the client believes the host is."""
    return connect(
        f"ws://{name or f'{server.host}:{server.port}'}{quote(path)}{'?' * bool(query)}{urlencode(query)}",
        host=server.host,
        port=server.port,
        compression=None,
        additional_headers=headers or {},
        max_size=None,
        ping_interval=None,
    )


async def send(ws: ClientConnection, payload: Any, *, text: bool = False) -> None:
    await ws.send(json.dumps(payload) if text else msgpack.packb(payload))


async def receive(ws: ClientConnection) -> dict[str, Any]:
    frame = await ws.recv()
    found = msgpack.unpackb(frame) if isinstance(frame, bytes) else json.loads(frame)
    assert isinstance(found, dict)
    return found


async def ask(ws: ClientConnection, payload: Any, *, text: bool = False) -> dict[str, Any]:
    await send(ws, payload, text=text)
    return await receive(ws)


async def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for what another process does in its own time."""
    until = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < until, "it does not come true"
        await asyncio.sleep(0.02)


def raw(server: Server, path: str = LCM, *, buffer: int | None = None) -> socket.socket:
    """A TCP socket after the handshake, for peers no library would be. The receive buffer in bytes."""
    peer = socket.socket()
    try:
        if buffer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        peer.settimeout(15)
        peer.connect((server.host, server.port))
        peer.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            piece = peer.recv(1)
            assert piece, head
            head += piece
        assert b" 101 " in head
    except BaseException:
        peer.close()
        raise
    return peer


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """One client frame; the mask is zero, which is a legal one."""
    size = len(payload)
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + size.to_bytes(2, "big")
        if size < 65536
        else b"\xff" + size.to_bytes(8, "big")
    )
    return bytes([opcode | (0x80 if fin else 0)]) + length + b"\0\0\0\0" + payload
