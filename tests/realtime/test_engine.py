"""The supervisor over real engine processes that draw fake pictures. Deaths: tests/faults."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time

import psutil
import pytest
from PIL import Image

from engines.fake import colour_of
from engines.messages import Done, Dropped, Job, Refused
from realtime import child
from realtime import engine as module
from realtime.engine import Engine, Reply
from realtime.settings import Settings
from tests.engine import Replies, running, until

pytestmark = pytest.mark.proc


async def test_everybody_gets_their_own_picture_exactly_once():
    async with running() as (_, replies):
        tickets = [replies.submit(f"user {n}", f"session {n % 9}", seed=n) for n in range(90)]
        for n, done in enumerate(await replies.of(*tickets)):
            assert isinstance(done, Done)
            picture = Image.open(io.BytesIO(done.pictures[0].data))
            assert picture.getpixel((0, 0)) == colour_of(f"user {n}", n)


async def test_frames_submitted_before_the_engine_is_up_wait_for_it():
    async with running("fake:load_s=0.3") as (engine, replies):
        ticket = replies.submit()
        assert (engine.state, engine.models) == ("starting", [])
        assert isinstance(*await replies.of(ticket), Done)
        assert engine.state == "ready"
        assert engine.models[0].name == "fake"


async def test_the_superseded_are_told():
    async with running() as (_, replies):
        replies.submit("!hang 0.3", "other")
        tickets = [replies.submit(f"{n}", buffering=2) for n in range(8)]
        kinds = [type(answer) for answer in await replies.of(*tickets)]
        assert kinds[-2:] == [Done, Done]
        assert kinds.count(Dropped) >= 4  # 6, unless the first were drawn before the others came


async def test_cancelled_tickets_get_no_reply_wherever_they_are():
    async with running("fake:load_s=0.2") as (engine, replies):
        unsent = replies.submit()
        engine.cancel([unsent, unsent, 12345])
        hang = replies.submit("!hang 0.2")
        await until(lambda: engine.state == "ready")
        sent = [replies.submit(session=f"s{n}") for n in range(5)]
        engine.cancel(sent[:4])
        await replies.of(hang, sent[4])
        await replies.of(replies.submit())
        assert [replies.by_ticket[ticket] for ticket in (unsent, *sent[:4])] == [[]] * 5
        engine.cancel([hang])


async def test_a_refusal_is_never_given_before_its_ticket():
    """A caller learns its ticket from `submit`; a reply inside it could not be placed."""
    async with running() as (engine, replies):
        await engine.stop(5)
        ticket = replies.submit()  # Replies would raise KeyError
        (refused,) = await replies.of(ticket)
        assert isinstance(refused, Refused)
        assert refused.code == "draining"


async def test_a_job_that_cannot_cross_the_link_is_refused_alone():
    async with running() as (_, replies):
        bad, good = replies.submit("\ud800"), replies.submit()
        refused, done = await replies.of(bad, good)
        assert isinstance(refused, Refused)
        assert refused.code == "invalid"
        assert isinstance(done, Done)


async def test_a_thousand_unsendable_jobs_are_refused_without_recursion():
    async with running("fake:load_s=0.2") as (_, replies):
        tickets = [replies.submit("\ud800") for _ in range(2000)]
        assert {type(reply) for reply in await replies.of(*tickets)} == {Refused}


async def test_more_frames_than_may_wait_are_refused():
    async with running("fake:load_s=60") as (engine, replies):
        tickets = [replies.submit() for _ in range(module.MAX_QUEUED + 3)]
        refused = await replies.of(*tickets[-3:])
        assert [reply.code for reply in refused if isinstance(reply, Refused)] == ["engine_lost"] * 3
        assert not replies.by_ticket[tickets[0]]
        engine.cancel(tickets)
        assert isinstance(replies.submit(), int)


async def test_more_bytes_than_may_wait_are_refused():
    async with running("fake:load_s=60") as (_, replies):
        megabytes = bytes(32 << 20)
        tickets = [replies.submit(image=megabytes) for _ in range(9)]
        (refused,) = await replies.of(tickets[-1])
        assert isinstance(refused, Refused)
        assert not replies.by_ticket[tickets[0]]


async def test_a_reply_that_nobody_can_take_harms_no_other(capsys):
    async with running() as (engine, replies):

        def broken(_: Reply) -> None:
            raise RuntimeError("the socket is gone")

        job = Job("a", 1, 8, 8)
        engine.submit(
            session="x", received=0.0, job=job, buffering=0, deadline_s=None, weight=1, on_reply=broken
        )
        await replies.of(replies.submit())
        pid = engine.pid
        await replies.of(replies.submit())
        assert engine.pid == pid
    assert "the socket is gone" in "".join(capsys.readouterr())


async def test_an_engine_that_does_not_read_fills_no_memory_of_ours():
    async with running(heartbeat_s=60) as (engine, replies):
        await until(lambda: engine.state == "ready")
        assert engine.pid
        os.kill(engine.pid, signal.SIGSTOP)
        tickets = [replies.submit(image=bytes(1 << 20), session=f"s{n}") for n in range(40)]
        assert engine._child is not None
        assert engine._child._transport is not None
        await asyncio.sleep(0)
        assert engine._child._transport.get_write_buffer_size() < 3 << 20
        os.kill(engine.pid, signal.SIGCONT)
        assert {reply.code for reply in await replies.of(*tickets) if isinstance(reply, Refused)} == {"image"}


async def test_stop_refuses_what_is_left_and_leaves_no_process():
    async with running() as (engine, replies):
        tickets = [replies.submit(f"!slow {n}", f"s{n}") for n in (5, 6)]
        await until(lambda: engine.state == "ready")
        pid = engine.pid
        began = time.monotonic()
        await engine.stop(5)
        assert time.monotonic() - began < 2
        assert engine.state == "stopped"
        assert pid is not None
        assert not psutil.pid_exists(pid)
        assert {reply.code for reply in await replies.of(*tickets) if isinstance(reply, Refused)} == {
            "draining"
        }


async def test_cancelling_run_leaves_no_process_and_answers_everybody():
    engine = Engine(Settings(model="fake"))
    replies = Replies(engine)
    task = asyncio.create_task(engine.run())
    await until(lambda: engine.state == "ready")
    pid, ticket = engine.pid, replies.submit("!hang 9")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pid is not None
    assert not psutil.pid_exists(pid)
    (refused,) = await replies.of(ticket)
    assert isinstance(refused, Refused)


async def test_an_engine_that_cannot_start_is_tried_ever_more_slowly_and_its_frames_refused(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.02)
    # time.sleep refuses so long a wait with an OverflowError: a bug of the engine, not of the settings.
    async with running("fake:load_s=1e300") as (engine, replies):
        began = time.monotonic()
        ticket = replies.submit()
        (refused,) = await replies.of(ticket)
        assert isinstance(refused, Refused)
        assert refused.code == "engine_lost"
        assert "failed to start 3 times" in refused.reason
        assert time.monotonic() - began >= 0.04 + 0.08
        assert engine.state == "restarting"


async def test_pings_bring_the_engines_counters():
    async with running(heartbeat_s=0.05) as (engine, replies):
        await replies.of(replies.submit(steps=3))
        await until(lambda: engine.stats.get("done", 0) == 1)
        assert engine.stats["steps"] == 3


async def test_a_slow_start_is_no_hang():
    async with running("fake:load_s=0.8", heartbeat_s=0.02) as (engine, _):
        await until(lambda: engine.state == "ready")
        assert engine.restarts == 0


async def test_the_cpu_engine_gets_the_settings_glibc_reads_only_at_start(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    given = child.environment(Settings(model="embedded", device="cpu", threads=2))
    assert given["MALLOC_MMAP_THRESHOLD_"] == str(4 << 30)
    assert given["OMP_NUM_THREADS"] == "3", "what the user has set wins"
    assert "MALLOC_TOP_PAD_" not in child.environment(Settings(model="embedded", device="cuda"))
