"""Queued requests beside live sessions on one engine: live ones first, and the queue is never starved.

That both hold step by step is in tests/engines/test_tiers.py; what it costs live sessions, in bench/queue.py.
"""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.realtime.talk import ask, opened
from tests.servers import serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

QUEUE = "/__h/queue.fal.run/fal-ai/lcm"
WISH = {"image_size": {"width": 64, "height": 64}, "num_inference_steps": 2, "sync_mode": True}


@pytest.mark.timeout(60)
async def test_the_queue_goes_on_while_live_sessions_would_take_everything():
    """Six sessions ask for the next picture the moment they have one; the engine draws two at a time."""
    with serve(model="fake:base_ms=10,row_ms=2,places=2", queue_at_once=2) as server:
        frames, busy = 0, asyncio.Event()

        async def live() -> None:
            nonlocal frames
            async with opened(server) as ws:
                while True:
                    assert "images" in await ask(ws, {"prompt": "live", **WISH})
                    frames += 1
                    busy.set()

        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            sessions = [asyncio.create_task(live()) for _ in range(6)]
            await busy.wait()
            urls, before = [], frames
            for number in range(5):
                said = (await client.post(QUEUE, json={"prompt": f"queued {number}", **WISH})).json()
                urls.append(said["status_url"])
            for url in urls:
                while (await client.get(url)).status_code == 202:
                    assert not any(session.done() for session in sessions)
                    await asyncio.sleep(0.05)
            meanwhile = frames - before
            for session in sessions:
                session.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)
    assert meanwhile > 5 * 4, f"only {meanwhile} live frames while five queued ones were drawn"


@pytest.mark.timeout(60)
async def test_every_engine_draws_of_the_queue():
    """Each may have one at a time here, so that two are drawn at once."""
    with serve(model="fake:base_ms=100,row_ms=0", engines=2, queue_at_once=1) as server:
        wish = {**WISH, "num_inference_steps": 12}
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            said = [(await client.post(QUEUE, json={"prompt": f"{n}", **wish})).json() for n in range(5)]
            at_once, states = 0, [one["status"] for one in said]
            while set(states) != {"COMPLETED"}:
                # The newest first: what is asked later cannot have begun since.
                states = [(await client.get(one["status_url"])).json()["status"] for one in reversed(said)]
                at_once = max(at_once, states.count("IN_PROGRESS"))
                await asyncio.sleep(0.05)
            answers = [(await client.get(one["response_url"])).status_code for one in said]
    assert answers == [200] * 5
    assert at_once == 2
