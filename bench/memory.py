"""What sockets and floods cost the gateway in resident memory."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import select
import socket
import time
from collections.abc import Callable

import msgpack
from PIL import Image

from bench.client import BINARY, connect, masked
from bench.server import Server

KiB, MiB = 1024, 1024 * 1024
Tick = Callable[[str, float], None]


async def idle(server: Server, sockets: int, tick: Tick) -> dict[str, float]:
    """KiB of resident memory per socket: just connected, and after one answered frame on each."""
    arrived = 0

    def receive(opcode: int, data: bytes) -> None:
        nonlocal arrived
        arrived += 1

    warm = [await connect(server.port, server.path, receive) for _ in range(20)]
    for one in warm:
        one.send(_small(0))
    await asyncio.sleep(1.0)
    before, arrived = server.rss(), 0
    open_ = []
    for index in range(sockets):
        open_.append(await connect(server.port, server.path, receive))
        if index % 100 == 0:
            tick("idle sockets", index / sockets)
    await asyncio.sleep(1.0)
    connected = server.rss()
    for index, one in enumerate(open_):
        one.send(_small(index))
        if index % 50 == 49:  # a storm would measure the queues, not the sockets
            await asyncio.sleep(0.1)
    end = time.monotonic() + 20
    while arrived < sockets and time.monotonic() < end:  # noqa: ASYNC110 (a callback counts)
        await asyncio.sleep(0.2)
    used = server.rss()
    for one in [*open_, *warm]:
        one.transport.abort()
    if arrived < sockets:
        raise AssertionError(f"{sockets - arrived} of {sockets} sockets got no answer")
    return {
        "sockets": sockets,
        "connected_kib": (connected - before) / sockets / KiB,
        "used_kib": (used - before) / sockets / KiB,
    }


def flood(server: Server, size: int, seconds: float, reads: bool, tick: Tick) -> dict[str, float]:
    """What `size` bytes of valid frames from one client, sent as fast as the socket takes them, cost.

    Each frame is a different image-to-image request of about 42 KiB. A client that does not read (`reads`
    False) is the hostile case: the server must stop taking, or drop. Peak resident memory is sampled
    every 20 ms; ends after `seconds` at the latest.
    """
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            f"GET {server.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        if b" 101 " not in client.recv(4096):
            raise ConnectionError("the server refused the WebSocket")
        client.setblocking(False)
        pictures = [_noise(seed) for seed in range(8)]
        before = peak = server.rss()
        sent, frames, pending = 0, 0, memoryview(b"")
        start = sampled = time.monotonic()
        while sent < size and (now := time.monotonic()) < start + seconds:
            readable, writable, _ = select.select([client] if reads else [], [client], [], 0.02)
            try:
                if readable and not client.recv(1 << 20):
                    break
                if writable:
                    if not pending:
                        request = {
                            "prompt": f"{frames}",
                            "image_url": pictures[frames % 8],
                            "request_id": "x",
                        }
                        pending = memoryview(masked(BINARY, msgpack.packb(request)))
                        frames += 1
                    done = client.send(pending)
                    pending, sent = pending[done:], sent + done
            except (BrokenPipeError, ConnectionResetError):  # the server may cut a flood
                break
            if now - sampled > 0.02:
                peak, sampled = max(peak, server.rss()), now
                tick("flood", sent / size)
        took = time.monotonic() - start
        peak = max(peak, server.rss())
    return {
        "sent_mib": sent / MiB,
        "seconds": took,
        "before_mib": before / MiB,
        "grown_mib": (peak - before) / MiB,
    }


def _small(index: int) -> bytes:
    request: bytes = msgpack.packb({"prompt": "a red circle", "seed": index, "request_id": str(index)})
    return request


def _noise(seed: int) -> str:
    """A JPEG of about 31 KB as data URI: noise does not compress."""
    pixels = random.Random(seed).randbytes(192 * 192 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (192, 192), pixels).save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
