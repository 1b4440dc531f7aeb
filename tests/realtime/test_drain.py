"""How a server ends, and how it outlives its engine."""

import asyncio
import json
import os
import signal
import time

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from tests.realtime.talk import ask, eventually, opened, receive, send
from tests.servers import Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]


async def collect(ws) -> tuple[list[str], int | None]:
    """The request ids answered until the socket closes, and its code."""
    answered = []
    try:
        while True:
            answered.append((await receive(ws))["request_id"])
    except ConnectionClosed:
        return answered, ws.close_code


async def test_sigterm_delivers_every_admitted_frame_then_closes_1012_and_exits_0():
    with serve(model="fake:base_ms=20") as server:
        sockets = [await opened(server, max_buffering=60) for _ in range(10)]
        for ws in sockets:
            for number in range(8):
                await send(ws, {"prompt": "a", "request_id": str(number)})
        await eventually(lambda: server.metric("realtime_messages_total") == 80)
        server.process.send_signal(signal.SIGTERM)
        ends = await asyncio.gather(*(collect(ws) for ws in sockets))
        assert await asyncio.to_thread(server.process.wait, 10) == 0
    assert ends == [([str(number) for number in range(8)], 1012)] * 10


async def test_a_draining_server_is_not_ready_and_tells_newcomers():
    with serve() as server:
        async with opened(server, max_buffering=60) as ws:
            for _ in range(3):
                await send(ws, {"prompt": "!slow 0.5"})
            await eventually(lambda: server.metric("realtime_messages_total") == 3)
            server.process.send_signal(signal.SIGTERM)
            await eventually(lambda: server.get("/readyz")[0] == 503)
            assert json.loads(server.get("/readyz")[1])["status"] == "draining"
            assert server.get("/livez")[0] == 200
            async with opened(server) as late:
                assert (await receive(late))["error"] == "SHUTTING_DOWN"
                await late.wait_closed()
                assert late.close_code == 1012
            await send(ws, {"prompt": "late", "request_id": "late"})
            answers = [await receive(ws) for _ in range(4)]
            assert sum("images" in answer for answer in answers) == 3
            assert [a["error"] for a in answers if "error" in a] == ["SHUTTING_DOWN"]
            await ws.wait_closed()
            assert ws.close_code == 1012
        assert server.process.wait(5) == 0


async def test_idle_sockets_do_not_delay_the_end():
    with serve() as server:
        async with opened(server) as ws:
            await ask(ws, {"prompt": "a"})
            start = time.monotonic()
            assert await asyncio.to_thread(server.terminate) == 0
            assert time.monotonic() - start < 3
            await ws.wait_closed()
            assert ws.close_code == 1012


async def test_a_second_signal_ends_now():
    with serve() as server:
        async with opened(server) as ws:
            await send(ws, {"prompt": "!slow 15"})
            await eventually(lambda: server.metric("realtime_messages_total") == 1)
            server.process.send_signal(signal.SIGTERM)
            await eventually(lambda: server.get("/readyz")[0] == 503)
            assert server.process.poll() is None
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 10) == 0
            assert time.monotonic() - start < 3


async def test_draining_ends_at_its_limit():
    with serve(drain_s=0.5) as server:
        async with opened(server) as ws:
            await send(ws, {"prompt": "!slow 15"})
            await eventually(lambda: server.metric("realtime_messages_total") == 1)
            start = time.monotonic()
            assert await asyncio.to_thread(server.terminate) == 0
            assert time.monotonic() - start < 5
            await ws.wait_closed()
            assert ws.close_code == 1012


def test_sigterm_while_the_engine_loads_ends_soon():
    with serve(ready=False, model="fake:load_s=30") as server:
        start = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - start < 5


def test_ctrl_c_ends_like_sigterm():
    with serve() as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(5) == 0


def engine_of(server: Server) -> psutil.Process:
    (engine,) = psutil.Process(server.pid).children()
    return engine


async def test_no_socket_closes_when_the_engine_dies_and_its_frames_are_drawn():
    with serve(model="fake:base_ms=20") as server:
        sockets = [await opened(server, max_buffering=60) for _ in range(8)]
        for ws in sockets:
            for number in range(4):
                await send(ws, {"prompt": "a", "request_id": str(number)})
        await eventually(lambda: server.metric("realtime_messages_total") == 32)
        os.kill(engine_of(server).pid, signal.SIGKILL)
        for ws in sockets:
            answers = [await receive(ws) for _ in range(4)]
            assert [answer["request_id"] for answer in answers] == ["0", "1", "2", "3"]
            assert all("images" in answer for answer in answers)
        for ws in sockets:
            assert "images" in await ask(ws, {"prompt": "b"})
            await ws.close()


async def test_a_frame_that_kills_engines_is_refused_and_its_socket_lives():
    with serve() as server:
        async with opened(server) as ws, opened(server) as other:
            await send(ws, {"prompt": "!crash", "request_id": "r"})
            assert "images" in await ask(other, {"prompt": "a"})
            error = await receive(ws)
            assert (error["type"], error["request_id"]) == ("x-fal-error", "r")
            assert error["error"] == "REQUEST_REFUSED"
            assert "images" in await ask(ws, {"prompt": "a"})


async def test_no_engine_outlives_a_killed_gateway():
    with serve() as server:
        engine = engine_of(server)
        server.process.kill()
        server.process.wait()
        await eventually(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, 2)
