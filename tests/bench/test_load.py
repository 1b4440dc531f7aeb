"""The generator against a planted server: what it sends, when, and what it makes of the answers."""

import asyncio
import json
from itertools import pairwise

import msgpack
import pytest
from websockets.asyncio.server import ServerConnection, serve

from bench.client import connect
from bench.figures import summary
from bench.load import Load, frames, offer

pytestmark = pytest.mark.net

PICTURE = b"\xff\xd8picture"


def answer(request: dict) -> bytes:
    timings = {"inference": 0.01, "steps": [{"seconds": 0.005, "batch": 2}] * 2}
    return msgpack.packb(
        {"request_id": request["request_id"], "images": [{"content": PICTURE}], "timings": timings}
    )


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(answer(msgpack.unpackb(message)))


def port_of(server) -> int:
    return server.sockets[0].getsockname()[1]


def test_the_same_seed_offers_the_same_frames_and_another_seed_others():
    def plan(seed: int) -> list[tuple[float, str]]:
        return [(frame.due, frame.prompt) for frame in frames(Load(seed=seed))]

    assert plan(1) == plan(1) != plan(2)


def test_poisson_arrivals_have_the_rate_asked_for_and_regular_ones_the_period():
    poisson = frames(Load(sessions=40, rate_hz=10, seconds=20, warm_s=0))
    assert len(poisson) == pytest.approx(40 * 10 * 20, rel=0.05)
    regular = frames(Load(sessions=1, rate_hz=10, seconds=2, warm_s=0, arrivals="regular"))
    gaps = [after.due - before.due for before, after in pairwise(regular)]
    assert gaps == pytest.approx([0.1] * len(gaps))


async def test_answers_are_matched_to_the_frames_that_asked():
    load = Load(sessions=3, rate_hz=50, seconds=0.4, warm_s=0.1, seed=3)
    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        taken = await offer(load, port_of(server))
    figures = summary(taken, sessions=3, seconds=0.4, slo_s=0.5)
    assert figures["frames"]["answered"] == figures["frames"]["offered"] > 20
    assert figures["frames"]["errors"] == {}
    assert figures["frames"]["out_of_order"] == 0
    assert figures["mean_batch"] == 2
    assert figures["engine"]["p50_ms"] == 10
    assert all(frame.data == PICTURE for frame in taken)


async def test_a_blocked_server_is_charged_from_the_intended_time():
    """The first answer takes 0.3 s and the socket serves one at a time: frames due meanwhile waited too."""

    async def stalls(connection: ServerConnection) -> None:
        first = True
        async for message in connection:
            if first:
                await asyncio.sleep(0.3)
                first = False
            await connection.send(answer(msgpack.unpackb(message)))

    load = Load(sessions=1, rate_hz=20, seconds=0.5, warm_s=0, arrivals="regular")
    async with serve(stalls, "127.0.0.1", 0, compression=None) as server:
        taken = await offer(load, port_of(server))
    waits = [frame.latency for frame in taken]
    assert waits[0] >= 0.3
    assert waits[2] == pytest.approx(waits[0] - 0.1, abs=0.05)


async def test_error_frames_and_silence_are_told_apart():
    async def moody(connection: ServerConnection) -> None:
        async for message in connection:
            request = msgpack.unpackb(message)
            number = int(request["request_id"].split("/")[1])
            if number % 3 == 0:
                await connection.send(answer(request))
            elif number % 3 == 1:
                error = {"type": "x-fal-error", "error": "BAD", "request_id": request["request_id"]}
                await connection.send(json.dumps(error))

    load = Load(sessions=1, rate_hz=60, seconds=0.5, warm_s=0, arrivals="regular", slo_s=0.2)
    async with serve(moody, "127.0.0.1", 0, compression=None) as server:
        taken = await offer(load, port_of(server))
    count = summary(taken, sessions=1, seconds=0.5, slo_s=0.2)["frames"]
    assert count == {
        "offered": 30,
        "sent": 30,
        "answered": 10,
        "superseded": 10,
        "errors": {"BAD": 10},
        "out_of_order": 0,
    }


async def test_the_client_speaks_to_a_server_nobody_here_wrote():
    """Sizes around the three length forms of RFC 6455 5.2, a ping, and the close code."""
    received: list[bytes] = []
    sizes = (0, 125, 126, 65535, 65536, 300_000)
    complete = asyncio.Event()

    def receive(opcode: int, data: bytes) -> None:
        received.append(data)
        if len(received) == len(sizes):
            complete.set()

    async def repeats(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)
            await asyncio.wait_for(await connection.ping(), 2)

    async with serve(repeats, "127.0.0.1", 0, compression=None) as server:
        socket = await connect(port_of(server), "/", receive)
        for size in sizes:
            socket.send(b"x" * size)
        await asyncio.wait_for(complete.wait(), 3)
        assert [len(data) for data in received] == list(sizes)
        assert await socket.close() == 1000
