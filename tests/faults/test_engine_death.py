"""K1-K3 of the reliability plan: an engine dies, hangs, or is killed by what it draws, and nobody is lost."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import statistics
import threading
import time

import psutil
import pytest
from PIL import Image

from engines.fake import colour_of
from engines.messages import Done, Dropped, Refused
from realtime import engine as module
from realtime.child import Child
from realtime.engine import Engine
from tests.engine import Replies, running, until

pytestmark = pytest.mark.proc

KILLS = 25


@pytest.fixture(autouse=True)
def quick_restarts(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)


async def ready(engine: Engine) -> int:
    await until(lambda: engine.state == "ready")
    assert engine.pid is not None
    return engine.pid


def correct(replies: list[object], prompt: str) -> bool:
    """Pictures all, each of its own colour; seed n is frame n."""
    return all(
        isinstance(reply, Done)
        and Image.open(io.BytesIO(reply.pictures[0].data)).getpixel((0, 0)) == colour_of(prompt, n)
        for n, reply in enumerate(replies)
    )


@pytest.mark.timeout(60)
async def test_killed_at_any_moment_the_engine_comes_back_and_every_frame_is_answered_once():
    moments = random.Random(1)
    noticed: list[float] = []
    async with running() as (engine, replies):
        await ready(engine)
        files = len(psutil.Process().open_files()) + psutil.Process().num_fds()
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        for _ in range(KILLS):
            pid = await ready(engine)
            tickets = [replies.submit("fox", f"session {n}", seed=n, steps=1 + n % 6) for n in range(8)]
            await asyncio.sleep(moments.uniform(0, 0.012))
            os.kill(pid, signal.SIGKILL)
            noticed.append(await until(lambda: engine.state != "ready"))
            assert correct(await replies.of(*tickets), "fox")
        assert engine.restarts == KILLS
        await ready(engine)
        await until(lambda: len(asyncio.all_tasks()) <= tasks and threading.active_count() <= threads)
        assert len(psutil.Process().open_files()) + psutil.Process().num_fds() == files
    assert all(len(given) == 1 for given in replies.by_ticket.values())
    assert statistics.median(noticed) <= 0.050


async def test_an_engine_killed_while_it_starts_is_started_again():
    async with running("fake:load_s=0.15") as (engine, replies):
        ticket = replies.submit()
        for _ in range(2):
            await until(lambda: engine.pid is not None and engine.progress is not None)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            await until(lambda: engine.pid is None)
        assert isinstance(*await replies.of(ticket), Done)


async def test_a_stopped_engine_is_found_by_its_silence_and_replaced():
    async with running(heartbeat_s=0.05) as (engine, replies):
        pid = await ready(engine)
        os.kill(pid, signal.SIGSTOP)
        tickets = [replies.submit("fox", f"session {n}", seed=n) for n in range(4)]
        silent = await until(lambda: engine.state != "ready")
        assert silent >= 4 * 0.05, "a few late pings are no hang"
        assert correct(await replies.of(*tickets), "fox")
        assert not psutil.pid_exists(pid)


async def test_a_frame_that_hangs_the_loop_twice_is_refused():
    async with running(heartbeat_s=0.03) as (engine, replies):
        await ready(engine)
        bad = replies.submit("!hang 30", "bad")
        good = [replies.submit("fox", f"session {n}", seed=n) for n in range(4)]
        (refused,) = await replies.of(bad)
        assert isinstance(refused, Refused)
        assert refused.code == "poison"
        assert correct(await replies.of(*good), "fox")


async def test_a_poison_frame_is_found_among_innocent_ones_and_remembered_for_ten_minutes():
    now = [0.0]
    async with running(clock=lambda: now[0]) as (engine, replies):
        await ready(engine)
        innocent = [replies.submit("fox", f"session {n}", seed=n, steps=12) for n in range(6)]
        poison = replies.submit("!crash", "bad")
        later = [replies.submit("fox", f"session {n}", seed=n) for n in range(6)]
        again = replies.submit("!crash", "bad")
        (refused, refused_again) = await replies.of(poison, again)
        assert isinstance(refused, Refused)
        assert isinstance(refused_again, Refused)
        assert (refused.code, refused_again.code) == ("poison", "poison")
        assert correct(await replies.of(*innocent), "fox")
        assert correct(await replies.of(*later), "fox")
        await until(lambda: engine.restarts == 2)

        now[0] = 599.0
        (refused,) = await replies.of(replies.submit("!crash", "somebody else"))
        assert isinstance(refused, Refused)
        assert engine.restarts == 2, "remembered: it costs no engine"
        now[0] = 601.0
        (refused,) = await replies.of(replies.submit("!crash", "somebody else"))
        assert isinstance(refused, Refused)
        await until(lambda: engine.restarts == 4)  # forgotten: it is given its chance again


async def test_a_poison_frame_without_a_seed_ends_two_engines_and_no_more():
    """Each time it comes, the gateway draws it another one (realtime/apps/plan.py)."""
    async with running() as (engine, replies):
        await ready(engine)
        for seed in (17, 4711):
            (refused,) = await replies.of(replies.submit("!crash", "bad", seed=seed))
            assert isinstance(refused, Refused)
            assert refused.code == "poison"
            await until(lambda: engine.state == "ready")
            assert engine.restarts == 2
        assert correct(await replies.of(replies.submit("fox", seed=0)), "fox")


async def test_two_poisons_in_one_batch_are_both_found():
    async with running() as (engine, replies):
        await ready(engine)
        first = replies.submit("!slow 0.1", "hold")
        poisons = [replies.submit("!crash", f"bad {n}", seed=n) for n in range(2)]
        good = [replies.submit("fox", f"session {n}", seed=n) for n in range(3)]
        answers = await replies.of(*poisons)
        assert {reply.code for reply in answers if isinstance(reply, Refused)} == {"poison"}
        assert correct(await replies.of(*good), "fox")
        assert isinstance(*await replies.of(first), Done)


async def test_what_only_waited_is_no_suspect():
    """Ten frames of one session wait behind the one that draws: after the death they go together."""
    async with running() as (engine, replies):
        pid = await ready(engine)
        tickets = [replies.submit("!slow 0.2" if n == 0 else "fox", seed=n) for n in range(11)]
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: engine.state != "ready")
        suspects = [ticket for ticket, frame in engine._queue.items() if frame.suspect]
        assert suspects == tickets[:1]
        assert {type(reply) for reply in await replies.of(*tickets)} == {Done}


async def test_an_exception_in_the_loop_ends_the_engine_and_refuses_only_its_frame(capfd):
    async with running() as (engine, replies):
        await ready(engine)
        tickets = [replies.submit("fox", f"session {n}", seed=n, steps=8) for n in range(4)]
        bad = replies.submit("!raise", "bad")
        (refused,) = await replies.of(bad)
        assert isinstance(refused, Refused)
        assert refused.code == "poison"
        assert correct(await replies.of(*tickets), "fox")
        await until(lambda: engine.restarts == 2)
    assert capfd.readouterr().err.count("Traceback") == 2, "the child's stderr is ours"


async def test_a_crowd_that_keeps_sending_through_deaths_loses_nothing():
    """Open loop: 12 sessions, newest wins, the engine killed five times meanwhile."""
    moments = random.Random(2)
    async with running() as (engine, replies):
        tickets: list[int] = []

        async def session(name: int) -> None:
            for n in range(60):
                # No two frames are alike: one that had bad luck twice speaks for itself alone.
                tickets.append(replies.submit(f"frame {n} of user {name}", f"{name}", buffering=2))
                await asyncio.sleep(moments.uniform(0.01, 0.04))

        async def killer() -> None:
            for _ in range(5):
                pid = await ready(engine)
                await asyncio.sleep(0.2)
                os.kill(pid, signal.SIGKILL)
                await until(lambda: engine.state != "ready")

        async with asyncio.TaskGroup() as group:
            for name in range(12):
                group.create_task(session(name))
            group.create_task(killer())
        answers = await replies.of(*tickets)
        codes = [reply.code for reply in answers if isinstance(reply, Refused)]
        assert set(codes) <= {"poison", "engine_lost"}
        assert len(codes) <= 5, "only a frame that was there at two kills"
        done = sum(isinstance(reply, Done) for reply in answers)
        assert done + len(codes) >= 24  # the last two of everybody are never superseded
        assert sum(isinstance(reply, Done | Dropped | Refused) for reply in answers) == 720


async def test_after_a_death_the_next_picture_comes_within_a_second():
    async with running() as (engine, replies):
        os.kill(await ready(engine), signal.SIGKILL)
        began = time.monotonic()
        await replies.of(replies.submit())
        assert time.monotonic() - began < 2  # start < 0.5 s on a quiet machine


async def test_a_watch_that_misses_deaths_is_caught(monkeypatch):
    """A planted fault: without the end of file a killed engine is found only by its silence."""
    monkeypatch.setattr(Child, "eof_received", lambda self: True)
    async with running(heartbeat_s=1.0) as (engine, _):
        os.kill(await ready(engine), signal.SIGKILL)
        assert await until(lambda: engine.state != "ready") > 0.050


def test_replies_twice_are_caught():
    """A planted fault: the detector of double answers must fire."""

    async def twice() -> None:
        async with running() as (_, replies):
            ticket = replies.submit()
            await replies.of(ticket)
            replies.by_ticket[ticket] *= 2
            await Replies.of(replies, ticket)

    with pytest.raises(AssertionError, match="exactly one"):
        asyncio.run(twice())
