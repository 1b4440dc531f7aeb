"""Several engine processes under one gateway: one for each GPU, or for each core that is free.

A session stays with its engine while it has something there, so that order and newest-wins are kept where
its frames are. One that has nothing there goes where the least work is ahead: to its own engine, where its
prompt and pictures are warm, unless another has clearly less to do. An engine that dies takes nobody with
it: what only waited there goes to the others at once, and what it was drawing is tried again alone when it
is back (engine.py), with no other session waiting for that.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec.structs import replace

from engines.messages import Job, Model, Progress
from realtime.engine import Engine, News, Reply
from realtime.settings import Settings

HOMES = 8192  # sessions whose last engine is remembered
LAST_S = 5.0  # for the other engines to end, when one cannot be run at all
STAY = 2.0  # times a frame's own work that its engine may have ahead of the idlest


@dataclass(slots=True, eq=False)
class _Frame:
    given: dict[str, Any]  # as to Engine.submit
    work: float
    at: int = 0  # number of the engine
    ticket: int = 0  # that engine's


@dataclass(slots=True, eq=False)
class _Home:
    at: int
    frames: int = 0  # unanswered


class Fleet:
    """As `Engine`, by many."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self._on_change = on_change
        self.engines = [
            Engine(_own(settings, at), clock=clock, on_change=partial(self._changed, at))
            for at in range(settings.engines)
        ]
        self._last_ticket = 0
        self._frames: dict[int, _Frame] = {}  # unanswered, by our tickets
        self._work = [0.0] * len(self.engines)  # of what is unanswered there
        self._homes: OrderedDict[str, _Home] = OrderedDict()  # by session, the longest quiet first
        self._sessions = [0] * len(self.engines)  # whose home it is

    # ---- for the gateway ----

    @property
    def models(self) -> list[Model]:
        return next((engine.models for engine in self.engines if engine.models), [])

    @property
    def state(self) -> str:
        """The best of theirs."""
        states = {engine.state for engine in self.engines}
        return next(state for state in ("ready", "starting", "restarting", "stopped") if state in states)

    @property
    def progress(self) -> Progress | None:
        return next((engine.progress for engine in self.engines if engine.progress), None)

    @property
    def restarts(self) -> int:
        return sum(engine.restarts for engine in self.engines)

    @property
    def stats(self) -> dict[str, float]:
        """Of all together: counts in sum, the dearest step, occupancy over all slots."""
        told = [engine.stats for engine in self.engines if engine.stats]
        total: dict[str, float] = {}
        for stats in told:
            for name, value in stats.items():
                total[name] = total.get(name, 0.0) + value
        if total:
            total["step_s"] = max(stats["step_s"] for stats in told)
            taken = sum(stats["occupancy"] * stats["slots"] for stats in told)
            total["occupancy"] = taken / total["slots"] if total["slots"] else 0.0
        return total

    def submit(self, **given: Any) -> int:
        """As Engine.submit."""
        self._last_ticket += 1
        frame = self._frames[self._last_ticket] = _Frame(given, work(given["job"]))
        self._place(self._last_ticket, frame, self._choose(given["session"], frame.work))
        return self._last_ticket

    def cancel(self, tickets: Iterable[int]) -> None:
        for ticket in tickets:
            frame = self._frames.pop(ticket, None)
            if frame is not None:
                self._leave(frame)
                self.engines[frame.at].cancel([frame.ticket])

    async def run(self) -> None:
        """Keep all engines running until `stop` or cancellation. Raises as Engine.run."""
        tasks = [
            asyncio.create_task(engine.run(), name=f"engine {at}") for at, engine in enumerate(self.engines)
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            await self.stop(LAST_S)  # a supervisor that is cancelled while it buries leaves a process behind
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self, timeout_s: float) -> None:
        await asyncio.gather(*(engine.stop(timeout_s) for engine in self.engines))

    # ---- who goes where ----

    def _choose(self, session: str, more: float) -> int:
        """The engine for a session's next frame, which takes so much work."""
        home = self._homes.get(session)
        if home is not None and home.frames:
            return home.at
        ready = [at for at, engine in enumerate(self.engines) if engine.state == "ready"]
        least = min(
            ready or range(len(self.engines)), key=lambda at: (self._work[at], self._sessions[at], at)
        )
        if home is None or (ready and home.at not in ready):
            return least
        return home.at if self._work[home.at] <= self._work[least] + STAY * more else least

    def _place(self, ticket: int, frame: _Frame, at: int) -> None:
        given = frame.given
        home = self._homes.get(given["session"])
        if home is None:
            home = self._homes[given["session"]] = _Home(at)
            self._sessions[at] += 1
        elif home.at != at:
            self._sessions[home.at] -= 1
            self._sessions[at] += 1
            home.at = at
        home.frames += 1
        self._homes.move_to_end(given["session"])
        frame.at = at
        self._work[at] += frame.work
        told = {"on_reply": partial(self._answered, ticket)}
        if given.get("on_news") is not None:
            told["on_news"] = partial(self._told, ticket)
        frame.ticket = self.engines[at].submit(**given | told)
        self._forget_some()

    def _leave(self, frame: _Frame) -> None:
        self._work[frame.at] -= frame.work
        self._homes[frame.given["session"]].frames -= 1

    def _forget_some(self) -> None:
        """The homes of those that were quiet for the longest time, but never of those who wait."""
        while len(self._homes) > HOMES:
            session, home = next(iter(self._homes.items()))
            if home.frames:
                self._homes.move_to_end(session)
                if all(other.frames for other in self._homes.values()):
                    return
                continue
            del self._homes[session]
            self._sessions[home.at] -= 1

    def _answered(self, ticket: int, reply: Reply) -> None:
        frame = self._frames.pop(ticket, None)
        if frame is not None:
            self._leave(frame)
            frame.given["on_reply"](replace(reply, ticket=ticket))

    def _told(self, ticket: int, news: News) -> None:
        frame = self._frames.get(ticket)
        if frame is not None:
            frame.given["on_news"](replace(news, ticket=ticket))

    # ---- when one dies ----

    def _changed(self, at: int) -> None:
        if self.engines[at].state == "restarting":
            # Not at once: who is under suspicion is found out when this call is over.
            asyncio.get_running_loop().call_soon(self._move, at)
        if self._on_change is not None:
            self._on_change()

    def _move(self, at: int) -> None:
        """What waits for an engine that is not there goes to others that are, a session's frames together."""
        if not any(engine.state == "ready" for engine in self.engines):
            return
        waiting = set(self.engines[at].unsuspected())
        moved = [
            (ticket, frame)
            for ticket, frame in self._frames.items()
            if frame.at == at and frame.ticket in waiting
        ]
        for _, frame in moved:
            self._leave(frame)
        self.engines[at].cancel([frame.ticket for _, frame in moved])
        to: dict[str, int] = {}
        for ticket, frame in moved:
            session = frame.given["session"]
            if session not in to:
                ready = [n for n, engine in enumerate(self.engines) if engine.state == "ready"]
                to[session] = min(ready, key=lambda n: (self._work[n], self._sessions[n], n))
            self._place(ticket, frame, to[session])


Engines = Engine | Fleet


def work(job: Job) -> float:
    """How much a job is to draw, in steps of a megapixel; decoding it is about one of them."""
    return job.count * (job.steps + 1) * job.width * job.height / 1e6


def _own(settings: Settings, at: int) -> Settings:
    """One GPU each; CPUs are shared."""
    return settings.model_copy(update={"device": f"cuda:{at}"}) if settings.device == "cuda" else settings
