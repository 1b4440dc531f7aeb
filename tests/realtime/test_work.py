"""Drawing over HTTP from the inside: lines, callbacks, places, and what cancelling takes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engines.messages import Preview
from realtime.apps import find
from realtime.errors import BadFrame
from realtime.gateway import Gateway
from realtime.places import PLACES, Places
from realtime.service import Caller
from realtime.work import Line, Outcome, start_timeout_of
from tests.realtime.inside import serving
from tests.realtime.talk import eventually

pytestmark = [pytest.mark.net, pytest.mark.proc]


@asynccontextmanager
async def gateway(state: Path, **settings: Any) -> AsyncIterator[Gateway]:
    async with serving(state, **settings) as running:
        made = running.server._gateway
        async with asyncio.timeout(15):
            await made.engine_known.wait()
        yield made


def draw(gateway: Gateway, payload: dict[str, Any], **given: Any) -> Any:
    """`Work.draw` of fal-ai/lcm."""
    app = find("fal-ai/lcm")
    assert app
    usual: dict[str, Any] = {"caller": Caller(""), "base": "http://x", "lane": "run", "request_id": "r"}
    return gateway.work.draw(app, payload, **{**usual, **given})


async def test_a_run_tells_what_was_done_in_order(tmp_path: Path):
    lines: list[Line] = []
    wish = {"prompt": "a secret", "num_inference_steps": 2, "seed": 9, "negative_prompt": "b"}
    async with gateway(tmp_path) as here:
        outcome = await draw(here, wish, on_line=lines.append)
    assert outcome.status == 200
    warning, begun, done = lines
    assert (warning.level, begun.level, done.level) == ("WARN", "INFO", "INFO")
    assert warning.message.startswith("negative_prompt has no effect")
    assert begun.message == "drawing a picture of 512x512 in 2 steps, seed 9, on fake"
    assert "2 steps" in done.message
    assert "secret" not in "".join(line.message for line in lines), "prompts are not for logs"
    stamps = [datetime.fromisoformat(line.timestamp) for line in lines]
    assert stamps == sorted(stamps)
    assert all(stamp.utcoffset() is not None for stamp in stamps)


@pytest.mark.parametrize(
    ("payload", "status", "reason"),
    [({}, 422, "prompt: Field required"), ({"prompt": "!fault"}, 422, "this prompt asks for a fault")],
)
async def test_a_failure_is_an_outcome_and_its_last_line(
    tmp_path: Path, payload: dict[str, Any], status: int, reason: str
):
    lines: list[Line] = []
    async with gateway(tmp_path) as here:
        outcome = await draw(here, payload, on_line=lines.append)
    assert isinstance(outcome, Outcome)
    assert outcome.status == status
    assert outcome.headers["x-fal-error-type"] == outcome.error_type == "validation_error"
    assert lines[-1].level == "ERROR"
    assert reason in lines[-1].message


async def test_who_waits_for_the_engine_is_told_so(tmp_path: Path):
    lines: list[Line] = []
    async with serving(tmp_path, model="fake:load_s=1") as running:
        outcome = await draw(running.server._gateway, {"prompt": "a"}, on_line=lines.append)
    assert outcome.status == 200
    assert lines[0].message == "waiting for the engine, which is starting"


async def test_the_start_is_told_before_anything_is_drawn(tmp_path: Path):
    told: list[str] = []

    def preview(seen: Preview) -> None:
        told.append(f"step {seen.step} of {seen.steps}")

    async with gateway(tmp_path, model="fake:base_ms=60,vae_ms=1") as here:
        wish = {"prompt": "a", "num_inference_steps": 3}
        await draw(here, wish, on_start=lambda: told.append("start"), on_preview=preview)
    begun, *steps = told
    assert begun == "start"
    assert steps in (
        all_of := ["step 1 of 3", "step 2 of 3"],
        all_of[:1],
        all_of[1:],
    )  # a late one is left out


async def test_a_run_begins_anew_when_its_engine_dies(tmp_path: Path):
    told: list[str] = []
    async with gateway(tmp_path, model="fake:base_ms=100") as here:
        drawing = asyncio.ensure_future(
            draw(here, {"prompt": "a", "num_inference_steps": 5}, on_start=lambda: told.append("start"))
        )
        await eventually(lambda: bool(told))
        assert here.engine.pid
        os.kill(here.engine.pid, signal.SIGKILL)
        assert (await drawing).status == 200
    assert told == ["start", "start"]


async def test_cancelling_takes_the_job_back_and_frees_its_place_and_bytes(tmp_path: Path):
    begun = asyncio.Event()
    async with gateway(tmp_path, model="fake:base_ms=200", heartbeat_s=0.1) as here:
        wish = {"prompt": "a" * 1000, "num_inference_steps": 12}
        drawing = asyncio.ensure_future(draw(here, wish, on_start=begun.set))
        await begun.wait()
        assert here.held_bytes == 1000
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        assert here.held_bytes == 0
        assert here.work._places == {}
        await eventually(lambda: here.engine.stats.get("cancelled") == 1)


async def test_a_bug_of_ours_is_a_500_without_its_details(tmp_path: Path):
    lines: list[Line] = []
    async with gateway(tmp_path) as here:
        outcome = await draw(here, {"prompt": "a"}, base=b"no text: a bug", on_line=lines.append)
    assert outcome.status == 500
    assert outcome.body == {"detail": "Internal Server Error", "error_type": "internal_error"}
    assert lines[-1].message == "Internal Server Error"


async def test_places_are_given_in_the_order_of_asking():
    places, order = Places("run:k", engines=2), []
    full = asyncio.Event()

    async def hold(number: int) -> None:
        async with places.place() as place:
            order.append((number, place.session))
            await full.wait()

    holding = [asyncio.create_task(hold(number)) for number in range(2 * PLACES + 3)]
    await asyncio.sleep(0)
    assert places.wanted == 2 * PLACES + 3
    assert len({session for _, session in order}) == len(order) == 2 * PLACES
    full.set()
    await asyncio.gather(*holding)
    assert [number for number, _ in order] == list(range(2 * PLACES + 3))
    assert places.wanted == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-fal-request-timeout": "5.0"}, 5.0),
        ({"x-fal-request-start-timeout": "0.5"}, 0.5),
        ({"x-fal-request-timeout": "5", "x-fal-request-start-timeout": "0.5"}, 0.5),
    ],
)
def test_the_newer_name_of_the_start_timeout_wins(headers: dict[str, str], seconds: float | None):
    assert start_timeout_of(headers) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "inf", "nan", "1e400"])
def test_a_start_timeout_that_is_none_is_refused(text: str):
    with pytest.raises(BadFrame, match="x-fal-request-timeout must be a number of seconds above 0"):
        start_timeout_of({"x-fal-request-timeout": text})
