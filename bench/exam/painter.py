"""Pictures through the realtime socket of a running server, as any client of fal would ask for them."""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import torch
from torch import Tensor

from bench.client import TEXT, Socket, connect
from bench.exam.order import Order, pixels
from bench.load import run
from bench.server import Server

SOCKETS, AHEAD = 6, 2
PATIENCE_S = 120.0
Done = Callable[[float], None]


def message(order: Order, side: int, number: int, form: str = "png") -> bytes:
    """The request as @fal-ai/client sends it: one msgpack map. PNG, so that the model is judged, not JPEG."""
    asked: dict[str, Any] = {
        "prompt": order.prompt,
        "seed": order.seed,
        "num_inference_steps": order.steps,
        "guidance_scale": order.guidance,
        "image_size": {"width": side, "height": side},
        "format": form,
        "request_id": str(number),
    }
    if order.image is not None:
        asked |= {"image_bytes": order.image, "strength": order.strength}
    if order.mask is not None:
        asked |= {"mask_bytes": order.mask, "inpaint_mask_only": order.mask_only}
    packed: bytes = msgpack.packb(asked)
    return packed


def picture_of(opcode: int, data: bytes) -> tuple[int, Tensor] | None:
    """(number, [3, S, S] in 0..1) of an answer, None for what is no answer. Raises RuntimeError."""
    answer = json.loads(data) if opcode == TEXT else msgpack.unpackb(data)
    if answer.get("type") == "x-fal-message":
        return None
    if "images" not in answer:
        raise RuntimeError(f"the server refused a question of the exam: {answer}")
    image = answer["images"][0]
    file = image.get("content") or base64.b64decode(image["url"].partition(",")[2])
    return int(answer["request_id"]), pixels(file)


def painted(server: Server, orders: Sequence[Order], side: int, done: Done = lambda share: None) -> Tensor:
    """All pictures in order: [N, 3, side, side] float32 in 0..1.

    Several sockets with AHEAD requests in flight on each: what one asks for is drawn in turn, what several
    ask for is drawn together. Raises RuntimeError for a refusal, TimeoutError after PATIENCE_S of silence.
    """
    return run(_painted(server, orders, side, done))


async def _painted(server: Server, orders: Sequence[Order], side: int, done: Done) -> Tensor:
    answers: asyncio.Queue[tuple[int, int, bytes]] = asyncio.Queue()
    sockets: list[Socket] = []
    path = f"{server.path}?max_buffering={max(2, AHEAD)}"
    for index in range(min(SOCKETS, len(orders))):
        receive = lambda opcode, data, index=index: answers.put_nowait((index, opcode, data))  # noqa: E731
        sockets.append(await connect(server.port, path, receive))
    pictures: dict[int, Tensor] = {}
    sent = 0

    def send(socket: Socket) -> None:
        nonlocal sent
        if sent < len(orders):
            socket.send(message(orders[sent], side, sent))
            sent += 1

    try:
        for socket in sockets * AHEAD:
            send(socket)
        while len(pictures) < len(orders):
            index, opcode, data = await asyncio.wait_for(answers.get(), PATIENCE_S)
            found = picture_of(opcode, data)
            if found is not None:
                pictures[found[0]] = found[1]
                send(sockets[index])
                done(len(pictures) / len(orders))
    finally:
        for socket in sockets:
            await socket.close()
    return torch.stack([pictures[number] for number in range(len(orders))])


def request_ms(server: Server, side: int, steps: int, count: int) -> tuple[float, float]:
    """Milliseconds of a request, one at a time, each with a new prompt, answered in JPEG: the median from
    sending to its last byte, and the CPU time of gateway and engine, which other work does not lengthen."""
    return run(_request_ms(server, side, steps, count))


async def _request_ms(server: Server, side: int, steps: int, count: int) -> tuple[float, float]:
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    socket = await connect(server.port, server.path, lambda opcode, data: answers.put_nowait(data))
    took = []
    before = 0.0
    for number in range(count + 3):
        if number == 3:  # the first ones warm up
            before = sum(server.cpu_s().values())
        data = message(Order(f"a red circle {number}", number, steps), side, number, "jpeg")
        start = time.monotonic()
        socket.send(data)
        await asyncio.wait_for(answers.get(), PATIENCE_S)
        took.append(time.monotonic() - start)
    spent = sum(server.cpu_s().values()) - before
    await socket.close()
    return 1e3 * statistics.median(took[3:]), 1e3 * spent / count


def matmul_gflops(side: int = 1024, calls: int = 8) -> float:
    """float32 products of two side^3 matrices on one thread: the machine's own speed, best of `calls`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    left, right = torch.randn(side, side), torch.randn(side, side)
    best = float("inf")
    for _ in range(calls):
        start = time.monotonic()
        left @ right
        best = min(best, time.monotonic() - start)
    torch.set_num_threads(threads)
    return 2e-9 * side**3 / best
