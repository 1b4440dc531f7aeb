"""The gateway by itself: what it adds to a frame, what a socket costs, what a flood does, fal's SDK beside it.

The engine is the fake one throughout (a timing model, no torch), so everything measured here is ours.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import resource
import select
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgpack
from PIL import Image

from bench.client import BINARY, Socket, connect, masked
from bench.conditions import after, conditions
from bench.figures import Frame, summary
from bench.load import Load, offer, run, uncollected
from bench.report import Bar, Plot, Result, Table, cdf
from bench.server import Server, fal_sdk, ours

KiB, MiB = 1024, 1024 * 1024
Tick = Callable[[str, float], None]


# ---- closed loop, side by side ----


async def closed_loop(server: Server, sockets: int, seconds: float) -> tuple[int, dict[str, float]]:
    """Frames answered in `seconds` when every socket sends its next frame on the answer to the last.

    Also CPU seconds by process: under other load the machine's clock lies, its CPU accounting does not.
    """
    request = msgpack.packb(
        {"prompt": "a red circle", "seed": 1, "num_inference_steps": 1, "request_id": "x"}
    )
    count, going = 0, True
    open_: list[Socket] = []

    def receiver(index: int) -> Callable[[int, bytes], None]:
        def receive(opcode: int, data: bytes) -> None:
            nonlocal count
            if opcode != BINARY:
                raise ValueError(f"the server answered {data[:200]!r}")
            count += 1
            if going:
                open_[index].send(request)

        return receive

    for index in range(sockets):
        open_.append(await connect(server.port, server.path, receiver(index)))
    with uncollected():
        for one in open_:
            one.send(request)
        await asyncio.sleep(0.2)
        count, before, start = 0, server.cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        took, answered, spent = time.monotonic() - start, count, server.cpu_s()
        going = False
    for one in open_:
        await one.close()
    return round(answered / took * seconds), {name: spent[name] - before[name] for name in spent}


def side_by_side(peers: dict[str, Server], seconds: float, rounds: int, tick: Tick) -> list[dict[str, Any]]:
    """Every peer at 1, 8 and 64 sockets, in turn, `rounds` times: noise of the machine hits all alike."""
    rows = []
    for sockets in (1, 8, 64):
        taken: dict[str, list[tuple[int, dict[str, float]]]] = {name: [] for name in peers}
        for turn in range(rounds):
            for name, server in peers.items():
                tick(f"closed loop, {sockets} sockets, {name}", turn / rounds)
                taken[name].append(run(closed_loop(server, sockets, seconds)))
        for name, runs in taken.items():
            cpu_ms = {
                process: statistics.median(spent[process] / max(1, n) * 1e3 for n, spent in runs)
                for process in runs[0][1]
            }
            per_s = [n / seconds for n, _ in runs]
            rows.append({"sockets": sockets, "server": name, "frames_per_s": statistics.median(per_s)})
            rows[-1] |= {"runs": per_s, "cpu_ms": cpu_ms}
    return rows


# ---- memory ----


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
    while arrived < sockets and time.monotonic() < end:
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

    Each frame is a different image-to-image request of about 64 KiB. A client that does not read (`reads`
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
        "rss_before_mib": before / MiB,
        "grown_mib": (peak - before) / MiB,
    }


def _small(index: int) -> bytes:
    request: bytes = msgpack.packb({"prompt": "a red circle", "seed": index, "request_id": str(index)})
    return request


def _noise(seed: int) -> str:
    """A JPEG of about 48 KB as data URI: noise does not compress."""
    import base64

    pixels = random.Random(seed).randbytes(192 * 192 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (192, 192), pixels).save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
