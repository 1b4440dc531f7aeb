"""Several supervised engine processes as one: who goes where, and what is left when one dies."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections import Counter
from typing import Any

import psutil
import pytest
from msgspec.structs import replace
from PIL import Image

from engines.fake import colour_of
from engines.messages import Done, Job, Model, Picture, Started
from realtime import child, fleet
from realtime.engine import Unloadable
from realtime.fleet import Fleet, work
from realtime.settings import Settings
from tests.engine import running, until

JOB = Job("a fox", 1, 64, 64)


class Stub:
    """An engine that does as the test says."""

    def __init__(self) -> None:
        self.state = "ready"
        self.frames: dict[int, dict[str, Any]] = {}
        self.suspects: set[int] = set()
        self.stats: dict[str, float] = {}
        self.models: list[Model] = []
        self.progress, self.restarts = None, 0
        self._last = 100

    def submit(self, **given: Any) -> int:
        self._last += 1
        self.frames[self._last] = given
        return self._last

    def cancel(self, tickets: list[int]) -> None:
        for ticket in tickets:
            self.frames.pop(ticket)

    def unsuspected(self) -> list[int]:
        return [ticket for ticket in self.frames if ticket not in self.suspects]

    def answer(self) -> None:
        """The oldest of its frames."""
        ticket = next(iter(self.frames))
        picture = Picture(b"", "image/png", 64, 64, False)
        self.frames.pop(ticket)["on_reply"](Done(ticket, [picture], 1, [64, 64], {}, 0.0))


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> tuple[Fleet, list[Stub]]:
    stubs = [Stub() for _ in range(3)]
    made = Fleet(Settings(model="fake", engines=3))
    monkeypatch.setattr(made, "engines", stubs)
    return made, stubs


def submit(many: Fleet, session: str, answers: list[Any] | None = None, **job: Any) -> int:
    told = answers.append if answers is not None else (lambda reply: None)
    return many.submit(session=session, job=replace(JOB, **job), on_reply=told)


def sessions(stubs: list[Stub]) -> list[list[str]]:
    return [[given["session"] for given in stub.frames.values()] for stub in stubs]


def test_sessions_spread_over_idle_engines_and_come_back_to_their_own(many: Any) -> None:
    ours, stubs = many
    homes = []
    for _ in range(2):
        for name in "abcdef":
            submit(ours, name)
            homes.append(next(at for at, stub in enumerate(stubs) if stub.frames))
            stubs[homes[-1]].answer()
    assert homes == [0, 1, 2] * 4


def test_a_session_goes_where_its_frames_are_whatever_waits_there(many: Any) -> None:
    ours, stubs = many
    for _ in range(20):
        submit(ours, "a")
    assert sessions(stubs) == [["a"] * 20, [], []]


def test_the_least_work_ahead_is_counted_in_pixels_and_steps(many: Any) -> None:
    ours, stubs = many
    submit(ours, "large", width=1024, height=1024, steps=8, count=4)
    for name in "abcd":
        submit(ours, name)
    assert sessions(stubs) == [["large"], ["a", "c"], ["b", "d"]]
    assert (
        work(JOB) * 2
        == work(replace(JOB, count=2))
        == work(replace(JOB, steps=9))
        == work(replace(JOB, width=128))
    )


def test_a_session_leaves_an_engine_that_has_clearly_more_to_do(many: Any) -> None:
    ours, stubs = many
    for name in "abc":
        submit(ours, name)
        next(stub for stub in stubs if stub.frames).answer()
    ours.submit(session="queue", job=replace(JOB, steps=6), on_reply=print)  # at the first, as all are even
    assert sessions(stubs) == [["queue"], [], []]
    submit(ours, "a")
    assert sessions(stubs)[0] == ["queue", "a"], "not for a little: it is warm there"
    stubs[0].answer()
    stubs[0].answer()
    submit(ours, "queue", count=8)
    submit(ours, "a")
    assert "a" not in sessions(stubs)[0]


def test_replies_and_news_bear_the_ticket_that_was_given_out(many: Any) -> None:
    ours, stubs = many
    answers: list[Any] = []
    news: list[Any] = []
    tickets = [
        ours.submit(session=name, job=JOB, on_reply=answers.append, on_news=news.append, watch="start")
        for name in "abcd"
    ]
    assert tickets == [1, 2, 3, 4]
    for stub in stubs:
        ticket, given = next(iter(stub.frames.items()))
        given["on_news"](Started(ticket))
        stub.answer()
    assert [told.ticket for told in news] == [done.ticket for done in answers] == [1, 2, 3]


def test_what_is_cancelled_is_forgotten_everywhere(many: Any) -> None:
    ours, stubs = many
    ours.cancel([submit(ours, name) for name in "abcd"] + [77])
    ours.cancel([1])
    assert sessions(stubs) == [[], [], []]
    assert ours._work == [0.0] * 3
    assert not ours._frames


async def test_what_waits_for_a_dead_engine_goes_to_the_others_and_suspects_stay(many: Any) -> None:
    ours, stubs = many
    answers: list[Any] = []
    for name in "abcabca":
        submit(ours, name, answers)
    stubs[0].suspects = {next(iter(stubs[0].frames))}
    stubs[0].state = "restarting"
    ours._changed(0)
    assert len(stubs[0].frames) == 3, "not before the engine knows whom to suspect"
    await asyncio.sleep(0)
    assert sessions(stubs) == [["a"], ["b", "b", "a", "a"], ["c", "c"]]
    submit(ours, "a", answers)
    assert sessions(stubs)[1][-1] == "a", "and so do the next ones of its session"
    for stub in stubs:
        while stub.frames:
            stub.answer()
    assert sorted(done.ticket for done in answers) == list(range(1, 9))
    assert max(map(abs, ours._work)) < 1e-9


async def test_while_all_are_dead_everything_waits_where_it_is(many: Any) -> None:
    ours, stubs = many
    submit(ours, "a")
    for at, stub in enumerate(stubs):
        stub.state = "restarting"
        ours._changed(at)
    await asyncio.sleep(0)
    assert sessions(stubs) == [["a"], [], []]
    assert ours.state == "restarting"
    submit(ours, "b")
    stubs[2].state = "ready"
    assert ours.state == "ready"
    submit(ours, "c")
    assert sessions(stubs) == [["a"], ["b"], ["c"]]


def test_homes_of_quiet_sessions_are_forgotten_in_the_end(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stubs = many
    monkeypatch.setattr(fleet, "HOMES", 4)
    submit(ours, "waits")
    for n in range(20):
        submit(ours, f"s{n}")
        stubs[
            max(range(3), key=lambda at: sessions(stubs)[at] != ["waits"] and len(stubs[at].frames))
        ].answer()
    assert len(ours._homes) == 4
    assert "waits" in ours._homes
    assert sum(ours._sessions) == 4


def test_counts_are_summed_and_the_dearest_step_is_the_dearest(many: Any) -> None:
    ours, stubs = many
    assert ours.stats == {}
    stubs[0].stats = {"slots": 10.0, "occupancy": 0.5, "step_s": 0.1, "done": 3.0}
    stubs[2].stats = {"slots": 30.0, "occupancy": 1.0, "step_s": 0.3, "done": 4.0}
    assert ours.stats == {"slots": 40.0, "occupancy": 0.875, "step_s": 0.3, "done": 7.0}


# ---- processes ----


def test_each_engine_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    engines = Fleet(Settings(device="cuda", engines=3)).engines
    assert [child.environment(e.settings)["CUDA_VISIBLE_DEVICES"] for e in engines] == ["0", "1", "2"]
    assert {
        child.command(engine.settings)[child.command(engine.settings).index("--device") + 1]
        for engine in engines
    } == {"cuda"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [child.environment(e.settings)["CUDA_VISIBLE_DEVICES"] for e in engines] == ["4", "6", "2"]
    assert {e.settings.device for e in Fleet(Settings(device="cpu", engines=2)).engines} == {"cpu"}


@pytest.mark.proc
async def test_everybody_gets_their_own_picture_exactly_once_from_one_of_many() -> None:
    async with running("fake:base_ms=5,row_ms=0", engines=3, heartbeat_s=0.05) as (many, replies):
        await until(lambda: all(engine.state == "ready" for engine in many.engines))
        tickets = [replies.submit(f"user {n}", f"session {n % 9}", seed=n) for n in range(90)]
        for n, done in enumerate(await replies.of(*tickets)):
            assert isinstance(done, Done)
            assert Image.open(io.BytesIO(done.pictures[0].data)).getpixel((0, 0)) == colour_of(f"user {n}", n)
        await until(lambda: many.stats.get("done") == 90)
        assert [engine.stats["done"] for engine in many.engines] == [30, 30, 30]


@pytest.mark.proc
async def test_the_death_of_one_leaves_the_sessions_of_the_others_alone() -> None:
    async with running("fake:base_ms=20,row_ms=0,load_s=1", engines=2) as (many, replies):
        await until(lambda: all(engine.state == "ready" for engine in many.engines))
        first, second = many.engines
        tickets = [replies.submit(f"{n}", f"s{n % 4}", seed=n) for n in range(40)]
        await asyncio.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: first.state == "restarting")
        assert many.state == "ready"
        theirs = [ticket for ticket in tickets if not replies.by_ticket[ticket]]
        assert theirs
        new = [replies.submit("new", f"t{n}") for n in range(4)]
        await replies.of(*new)
        assert first.state == "restarting", "nobody waited for it"
        done = await replies.of(*tickets)
        assert Counter(type(answer) for answer in done) == {Done: 40}
        await until(lambda: first.state == "ready")
        assert (many.restarts, second.restarts) == (1, 0)


@pytest.mark.proc
async def test_a_model_that_cannot_be_loaded_ends_them_all() -> None:
    many = Fleet(Settings(model="fake:base_ms=quick", engines=2))
    with pytest.raises(Unloadable):
        await asyncio.wait_for(many.run(), 10)
    assert many.state == "stopped"
    assert not [child for child in psutil.Process().children() if "engines" in child.cmdline()]
