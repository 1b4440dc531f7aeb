"""K8: the disk is full. Live sessions do not notice, the queue says so, and recovers by itself.

A limit on the size of files that the running server may write (RLIMIT_FSIZE) stands in for the full disk:
every write beyond it fails in the kernel, for this process alone and without a mount.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.realtime.talk import ask, opened
from tests.servers import Server, serve

pytestmark = [
    pytest.mark.proc,
    pytest.mark.net,
    pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit"),
]

QUEUE = "/__h/queue.fal.run/fal-ai/lcm"
SMALL = {"image_size": {"width": 64, "height": 64}, "sync_mode": True}


@contextmanager
def full_disk(server: Server) -> Iterator[None]:
    import resource

    before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def paused_engine(server: Server) -> Iterator[None]:
    """Nothing is drawn in here."""
    (engine,) = psutil.Process(server.pid).children()
    engine.suspend()
    try:
        yield
    finally:
        engine.resume()


def submit(
    server: Server, prompt: str, headers: dict[str, str] | None = None, **more: Any
) -> tuple[int, dict[str, Any]]:
    status, _, data = server.ask("POST", QUEUE, {"prompt": prompt, **SMALL, **more}, headers)
    return status, json.loads(data)


def status(server: Server, id: str) -> tuple[int, dict[str, Any]]:
    code, _, data = server.ask("GET", f"{QUEUE}/requests/{id}/status")
    return code, json.loads(data)


def completed(server: Server, id: str, seconds: float = 10.0) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while (said := status(server, id))[0] != 200:
        assert said[0] == 202, said
        assert time.monotonic() < until, said
        time.sleep(0.05)
    return said[1]


def begun(server: Server, id: str, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while (said := status(server, id))[1]["status"] != "IN_PROGRESS":
        assert time.monotonic() < until, said
        time.sleep(0.05)


async def frames(server: Server, count: int) -> float:
    """The longest of so many live frames, seconds; each must be a picture."""
    longest = 0.0
    async with opened(server) as ws:
        for number in range(count):
            began = time.monotonic()
            answer = await ask(ws, {"prompt": "fox", "seed": number, **SMALL}, text=True)
            assert answer["images"], answer
            longest = max(longest, time.monotonic() - began)
    return longest


@pytest.mark.timeout(60)
async def test_a_full_disk_stops_the_queue_and_nothing_else_and_it_comes_back_by_itself():
    with serve(model="fake:base_ms=20,row_ms=0,vae_ms=0", queue_at_once=1, heartbeat_s=30) as server:
        await frames(server, 5)
        disk = contextlib.ExitStack()
        with paused_engine(server):
            code, said = submit(server, "!slow 0.6")
            assert code == 200
            drawing = said["request_id"]
            begun(server, drawing)
            waiting = [submit(server, f"fox {number}")[1]["request_id"] for number in range(5)]
            disk.enter_context(full_disk(server))
        with disk:
            live = asyncio.create_task(frames(server, 20))
            for _ in range(3):
                code, said = await asyncio.to_thread(submit, server, "one more")
                assert (code, said["error_type"]) == (507, "insufficient_storage")
                assert "cannot write to its disk" in said["detail"]
                assert (await asyncio.to_thread(status, server, waiting[-1]))[0] == 202
            assert await live < 2.0
            await asyncio.sleep(1.2)  # the picture is done; where it ended cannot be written
            assert (await asyncio.to_thread(status, server, drawing))[1]["status"] == "IN_PROGRESS"
            assert server.get("/readyz")[0] == 200
        for id in (drawing, *waiting):
            assert "error" not in await asyncio.to_thread(completed, server, id)
        code, said = submit(server, "after")
        assert code == 200
        assert "error" not in completed(server, said["request_id"])
        assert server.terminate() == 0
        assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.timeout(60)
def test_a_picture_that_could_not_be_stored_is_drawn_again_unless_its_client_forbids_it(tmp_path: Path):
    with serve(queue_at_once=2, state_dir=tmp_path, heartbeat_s=30) as server:
        disk = contextlib.ExitStack()
        with paused_engine(server):
            _, kept = submit(server, "fox", sync_mode=False)
            _, once = submit(server, "bear", {"x-fal-no-retry": "true"}, sync_mode=False)
            for one in (kept, once):
                begun(server, one["request_id"])
            disk.enter_context(full_disk(server))
        with disk:
            until = time.monotonic() + 20
            while server.metric("realtime_runs_total", lane="queue", status="507") < 2:
                assert time.monotonic() < until, "both pictures were to be refused by the disk"
                time.sleep(0.05)
            assert status(server, kept["request_id"])[1]["status"] == "IN_PROGRESS"
        assert "error" not in completed(server, kept["request_id"], 20.0)
        assert completed(server, once["request_id"])["error_type"] == "insufficient_storage"
        assert server.get(f"{QUEUE}/requests/{once['request_id']}")[0] == 507
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as db:
            assert dict(db.execute("SELECT id, losses FROM requests")) == {
                kept["request_id"]: 1,
                once["request_id"]: 0,
            }


@pytest.mark.timeout(60)
def test_a_queue_that_filled_its_own_file_has_room_again_as_results_age():
    with serve(queue_bytes=1 << 20, queue_keep_s=1.0, queue_at_once=1) as server:
        code, said = submit(server, "!slow 1.5")
        long = "x" * 20_000
        answers = []
        for number in range(100):
            answers.append(submit(server, f"fox {number}", padding=long))
            if answers[-1][0] != 200:
                break
        code, said = answers.pop()
        assert (code, said["error_type"]) == (507, "insufficient_storage")
        assert "RT_QUEUE_BYTES" in said["detail"]
        assert len(answers) > 20
        ids = [said["request_id"] for _, said in answers]
        until = time.monotonic() + 30
        while submit(server, "later", padding=long)[0] != 200:
            assert time.monotonic() < until
            time.sleep(0.1)
        states = [status(server, id) for id in ids]
        assert all(code in (200, 202, 404) for code, _ in states), "404: its time was over"
        assert not any("error" in said for _, said in states)
