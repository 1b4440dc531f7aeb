"""K7: `kill -9` of the gateway, of the engine and of both, while requests are queued. Nobody's is lost.

make faults    200 kills over 500 requests, some minutes; what the suite runs is a tenth of it
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest
from PIL import Image

from engines.fake import colour_of
from tests.servers import Server, serve

pytestmark = [pytest.mark.proc, pytest.mark.net]

QUEUE = "/__h/queue.fal.run/fal-ai/lcm"
ASKED = {"image_size": {"width": 64, "height": 64}, "num_inference_steps": 4, "format": "png"}
# One request at a time, so that a kill can cost one run and no more, and so slowly that the kills end first.
SETTINGS = {
    "model": "fake:base_ms=25,row_ms=0,vae_ms=0",
    "queue_at_once": 1,
    "queue_lease_s": 5.0,
    "webhook_private": True,
}
TOLD_EVERY = 5  # requests, one has a webhook


@dataclass
class House:
    """A server that is killed again and again, and comes back on the same files."""

    state: Path
    moments: random.Random
    requests: int  # that there are to lose
    seen: dict[str, str]  # the state of each, as its client saw it last
    server: Server | None = None
    kills: Counter[str] = field(default_factory=Counter)
    left: int = 0  # requests that nobody had seen the end of at the last kill
    up: asyncio.Event = field(default_factory=asyncio.Event)
    _running: Any = None

    async def start(self) -> None:
        self._running = serve(ready=False, state_dir=self.state, **SETTINGS)
        self.server = await asyncio.to_thread(self._running.__enter__)
        self.up.set()

    async def stop(self) -> None:
        self.up.clear()
        await asyncio.to_thread(self._running.__exit__, None, None, None)

    async def kill(self, what: str) -> None:
        assert self.server is not None
        engines = [
            child for child in psutil.Process(self.server.pid).children() if "engines" in child.cmdline()
        ]
        self.kills[what] += 1
        if what != "engine":
            os.kill(self.server.pid, signal.SIGKILL)
        if what != "gateway":
            for engine in engines:
                with contextlib.suppress(psutil.NoSuchProcess):
                    engine.kill()
        if what != "engine":
            await self.stop()
            await self.start()

    async def storm(self, kills: int, longest_s: float) -> None:
        for number in range(kills):
            if self.moments.random() < 0.8:  # else perhaps while it starts
                assert self.server is not None
                await asyncio.to_thread(self.server.wait_ready)
            await asyncio.sleep(self.moments.uniform(0.02, longest_s))
            # Not out of the database: a second reader would do the repair that a start after a kill is to do.
            self.left = self.requests - list(self.seen.values()).count("COMPLETED")
            assert self.left > 0, f"kill {number + 1} of {kills} found nothing left to lose"
            await self.kill(("gateway", "engine", "both")[number % 3])


@dataclass
class Client:
    """As fal's: what fails by the network is tried again, and nothing else is."""

    house: House
    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        while True:
            await self.house.up.wait()
            assert self.house.server is not None
            try:
                answer = await self.http.request(method, self.house.server.url + path, json=body)
            except httpx.TransportError:
                await asyncio.sleep(0.02)
                continue
            if answer.status_code not in (429, 502, 503, 504):
                return answer
            await asyncio.sleep(0.05)

    async def submit(self, number: int, webhook: str) -> str:
        body = {"prompt": f"fox {number}", "seed": number, **ASKED}
        query = "" if number % TOLD_EVERY else f"?fal_webhook={quote(webhook, safe='')}"
        answer = await self.ask("POST", QUEUE + query, body)
        assert answer.status_code == 200, answer.text
        id = answer.json()["request_id"]
        assert answer.headers["x-fal-request-id"] == id
        return str(id)

    async def watch(self, id: str, seen: dict[str, str]) -> None:
        """Polls until it is completed, and from then on that must not change."""
        order = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
        while seen.get(id) != "COMPLETED":
            answer = await self.ask("GET", f"{QUEUE}/requests/{id}/status")
            assert answer.status_code in (200, 202), f"{id} is lost: {answer.text}"
            state = answer.json()["status"]
            assert state in order
            assert (answer.status_code == 200) is (state == "COMPLETED")
            seen[id] = state
            await asyncio.sleep(0.25)

    async def result(self, id: str, number: int) -> str:
        """What is wrong with it, "" for nothing."""
        first = await self.ask("GET", f"{QUEUE}/requests/{id}")
        again = await self.ask("GET", f"{QUEUE}/requests/{id}/response/")
        assert (first.status_code, first.content) == (again.status_code, again.content)
        if first.status_code != 200:
            return str(first.json().get("error_type"))
        url = httpx.URL(first.json()["images"][0]["url"])  # of a life before: another port
        picture = await self.ask("GET", url.raw_path.decode())
        with Image.open(io.BytesIO(picture.content)) as image:
            assert image.getpixel((0, 0)) == colour_of(f"fox {number}", number), "somebody else's picture"
        return ""

    async def begun(self, id: str) -> int:
        """How often, as its log says. A killed gateway may not have written its last lines."""
        status = (await self.ask("GET", f"{QUEUE}/requests/{id}/status?logs=1")).json()
        return sum(line["message"].startswith("drawing ") for line in status["logs"])


@asynccontextmanager
async def hook() -> AsyncIterator[tuple[str, Counter[str]]]:
    """A webhook's URL, and how often it was called for each request."""
    calls: Counter[str] = Counter()

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
            calls[head.partition("x-fal-webhook-request-id: ")[2].partition("\r\n")[0]] += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(called, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/told", calls


async def kill_while_queued(state: Path, kills: int, requests: int, longest_s: float) -> None:
    seen: dict[str, str] = {}
    house = House(state, random.Random(7), requests, seen)
    await house.start()
    try:
        limits = httpx.Limits(max_connections=64)
        async with (
            hook() as (webhook, calls),
            httpx.AsyncClient(timeout=10, limits=limits) as http,
            asyncio.TaskGroup() as group,
        ):
            client = Client(house, http)
            storm = group.create_task(house.storm(kills, longest_s))
            ids: list[str] = []
            gate = asyncio.Semaphore(8)

            async def one(number: int) -> str:
                async with gate:
                    id = await client.submit(number, webhook)
                ids.append(id)
                await client.watch(id, seen)
                return id

            tasks = [group.create_task(one(number)) for number in range(requests)]
            await asyncio.gather(storm, *tasks)
            assert len(set(ids)) == requests, "one id was given to two"
            wrong = [await client.result(task.result(), number) for number, task in enumerate(tasks)]
            begun = {id: await client.begun(id) for id in ids}
            told = [task.result() for task in tasks[::TOLD_EVERY]]
            for _ in range(250):  # a call that was cut off is made again after HIDDEN_S
                if all(calls[id] for id in told):
                    break
                await asyncio.sleep(0.1)
            # A second look: what was completed is completed.
            for id in ids:
                assert (await client.ask("GET", f"{QUEUE}/requests/{id}/status")).status_code == 200
    finally:
        await house.stop()
    with contextlib.closing(sqlite3.connect(state / "queue.sqlite3")) as db:
        lost = dict(db.execute("SELECT id, losses FROM requests"))
        (ended,) = db.execute("SELECT count(*) FROM endings").fetchone()
        (sound,) = db.execute("PRAGMA integrity_check").fetchone()
    again = [max(lost[id], begun[id] - 1) for id in ids]
    failed = Counter(filter(None, wrong))
    print(
        f"kills {dict(house.kills)}, requests {requests}, left at the last kill {house.left}, "
        f"runs again {sum(again)}, failed {dict(failed)}, webhooks {len(told)} told in {calls.total()} calls"
    )
    assert (len(lost), ended, sound) == (requests, requests, "ok"), "a submit that was tried again is one"
    assert set(calls) == set(told), "everybody who wanted to be told was, and nobody else"
    assert sum(again) <= house.kills.total(), "a kill cost more than one run"
    # An engine that is killed twice over the same picture looks as if the picture had done it.
    assert set(failed) <= {"runner_server_error"}
    assert failed.total() <= house.kills["engine"] / 10


@pytest.mark.timeout(60)
async def test_killed_at_random_moments_nothing_accepted_is_lost(tmp_path: Path):
    await kill_while_queued(tmp_path, kills=4, requests=24, longest_s=0.4)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif("RT_TEST_FAULTS" not in os.environ, reason="minutes of kills: make faults")
async def test_killed_two_hundred_times_nothing_accepted_is_lost(tmp_path: Path):
    await kill_while_queued(tmp_path, kills=200, requests=500, longest_s=0.6)
