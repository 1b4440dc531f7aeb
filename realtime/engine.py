"""One supervised engine process behind a socketpair.

    submit -> queue -> link ══ engine process ══ link -> on_reply, exactly once per ticket

The end of the link is the health check: a dead engine is seen as end of file in milliseconds, a hung
one by unanswered pings. Either way it is killed, started again with growing pauses, and what it had in
flight is sent once more. Those it was working on (engines/recorder.py) are suspects: each is tried again
alone, with nothing else in the engine, so that the one that kills a second time is known for certain, is
refused and remembered, and those that only shared its batch get their pictures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from engines.link import LinkError
from engines.messages import (
    Cancel,
    Done,
    Dropped,
    Job,
    Model,
    Ping,
    Pong,
    Preview,
    Progress,
    Ready,
    Refused,
    Started,
    Submit,
)
from realtime.child import Child
from realtime.poison import Poison
from realtime.settings import Settings

Reply = Done | Dropped | Refused
News = Started | Preview

MAX_QUEUED = 4096  # frames that wait for the engine to come up or to read
MAX_QUEUED_BYTES = 256 * 1024 * 1024
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0  # before a restart; doubles until the engine answers something
HOPELESS_STARTS = 3  # in a row without Ready: what waits is refused, the restarts go on
MISSED_PINGS = 5
MOST_DEATHS = 5  # of engines that had a frame waiting and never came to it
FLUSH = 128  # frames sent per turn of the event loop, some 20 us each

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Frame:
    submit: Submit
    on_reply: Callable[[Reply], None]
    on_news: Callable[[News], None] | None = None
    deaths: int = 0  # engines that ended while they had it
    suspect: bool = False

    @property
    def bytes(self) -> int:
        job = self.submit.job
        return len(job.prompt) + len(job.image or b"") + len(job.mask or b"")


class Unloadable(Exception):
    """The first engine ended because what it was asked to load cannot be; it said why on stderr."""


class Engine:
    """One supervised engine process behind a socketpair."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.models: list[Model] = []  # of the last Ready
        self.state = "starting"  # starting | ready | restarting | stopped
        self.progress: Progress | None = None
        self.stats: dict[str, float] = {}  # of the last Pong
        self.pid: int | None = None
        self.restarts = 0
        self._on_change = on_change
        self._last_ticket = 0
        self._frames: dict[int, _Frame] = {}  # every ticket that is owed a reply
        self._queue: dict[int, _Frame] = {}  # of these, not with the engine; in order of sending
        self._queued_bytes = 0
        self._sent: dict[int, _Frame] = {}  # of these, with the engine
        self._alone = False  # what is with the engine is one suspect, and nothing else may join it
        self._poison = Poison()
        self._child: Child | None = None
        self._flushing = False  # a call of _flush is on its way
        self._pings = self._pongs = 0
        self._answered = False  # this engine has answered a ticket
        self._failed_starts = 0
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()

    # ---- for the gateway ----

    def submit(
        self,
        *,
        session: str,
        received: float,
        job: Job,
        buffering: int,
        deadline_s: float | None,
        weight: float,
        on_reply: Callable[[Reply], None],
        account: str = "",
        background: bool = False,
        watch: str = "",
        on_news: Callable[[News], None] | None = None,
    ) -> int:
        """Returns a ticket. `on_reply` is called later on this event loop, once, unless it is cancelled;
        before it `on_news`, with what `watch` asks for (engines/messages.py `Submit`).

        A session's requests are drawn in order; a reply can overtake the one before it by the time that
        one's file takes to write.
        """
        self._last_ticket += 1
        ticket = self._last_ticket
        submit = Submit(
            ticket, session, received, job, buffering, deadline_s, weight, account, background, watch
        )
        frame = self._frames[ticket] = _Frame(submit, on_reply, on_news)
        refusal = self._refusal(frame)
        if refusal is not None:
            asyncio.get_running_loop().call_soon(self._settle, Refused(ticket, *refusal))
        else:
            self._enqueue(frame)
            self._flush_soon()
        return ticket

    def cancel(self, tickets: Iterable[int]) -> None:
        """Nobody waits for these any more; their `on_reply` is not called. Idempotent."""
        sent = []
        for ticket in tickets:
            self._frames.pop(ticket, None)
            self._dequeue(ticket)
            if self._sent.pop(ticket, None) is not None:
                sent.append(ticket)
        if sent and self._child is not None:
            self._child.send(Cancel(sent))
            self._flush_soon()

    def unsuspected(self) -> list[int]:
        """Tickets that are not with an engine and have ended none, in order."""
        return [ticket for ticket, frame in self._queue.items() if not frame.suspect]

    async def stop(self, timeout_s: float) -> None:
        """Close the link and reap the child, killed if it does not end. What is in flight is refused."""
        self._stopping.set()
        if self._child is not None:
            self._child.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._stopped.wait()
        except TimeoutError:
            log.warning("engine.stop_timeout", pid=self.pid)

    # ---- one engine after the other ----

    async def run(self) -> None:
        """Keep an engine running until `stop` or cancellation. Ends with the child dead and reaped.

        Raises Unloadable if none ever ran and the model is at fault: trying again would change nothing.
        """
        pause_s = FIRST_PAUSE_S
        try:
            while not self._stopping.is_set():
                self._answered = False
                await self._life()
                if self._stopping.is_set():
                    break
                pause_s = FIRST_PAUSE_S if self._answered else min(2 * pause_s, LONGEST_PAUSE_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._stopping.wait()
                self.restarts += 1
        finally:
            self._change("stopped")
            for ticket in list(self._frames):
                self._settle(Refused(ticket, "draining", "the server is going down"))
            self._stopped.set()

    async def _life(self) -> None:
        """One engine, from its start to its end."""
        child = self._child = Child(self._receive, self._flush_soon)
        code: int | None = None
        try:
            self.pid = await child.start(self.settings)
            await self._watch(child)
        except OSError as error:  # out of processes or descriptors: as an engine that dies at once
            log.error("engine.unstartable", reason=str(error))
        finally:
            ready, self._child = self.state == "ready", None
            self._failed_starts = 0 if ready else self._failed_starts + 1
            at_risk = child.at_risk()
            if ready and not self._stopping.is_set():  # at once: frames wait to be drawn again
                self._change("restarting")
                self._take_back(at_risk)
            code = await child.bury()
            self.pid = None
        if self._stopping.is_set():
            return
        if code == os.EX_CONFIG and not self.models:
            raise Unloadable
        if not ready:
            self._change("restarting")
            self._take_back(at_risk)
        log.warning("engine.lost", code=code, ready=ready, queued=len(self._queue))

    async def _watch(self, child: Child) -> None:
        """Until the link ends, or the engine is deaf."""
        self._pings = self._pongs = 0
        while not await child.ended(self.settings.heartbeat_s):
            if self.state != "ready":
                continue
            # The loop answers between two calls. On a slow machine one call outlasts many pings, and one of
            # another size takes several times as long as the dearest so far.
            call_s = 4 * self.stats.get("step_s", 0.0)
            patience = MISSED_PINGS * max(1.0, call_s / self.settings.heartbeat_s)
            if self._pings - self._pongs >= patience:
                log.error("engine.hung", pid=self.pid, missed=self._pings - self._pongs)
                return
            self._pings += 1
            child.send(Ping(self._pings))

    def _receive(self, message: Any) -> None:
        match message:
            case Done() | Dropped() | Refused():
                self._answered = True
                self._settle(message)
                self._flush_soon()
            case Started() | Preview():
                frame = self._frames.get(message.ticket)
                if frame is not None and frame.on_news is not None:
                    _guarded(frame.on_news, message)
            case Pong():
                self._pongs, self.stats = message.number, message.stats
            case Progress():
                self.progress = message
                self._change(self.state)
            case Ready():
                self.models, self.progress = message.models, None
                log.info(
                    "engine.ready", pid=message.pid, **{f"{k}_s": v for k, v in message.started_s.items()}
                )
                self._change("ready")
                self._flush_soon()
            case _:
                raise LinkError(f"{type(message).__name__} is no message to a gateway")

    def _change(self, state: str) -> None:
        self.state = state
        if self._on_change is not None:
            _guarded(self._on_change)

    # ---- frames ----

    def _refusal(self, frame: _Frame) -> tuple[str, str] | None:
        """(code, reason) if this frame is not even tried."""
        if self._stopping.is_set():
            return "draining", "the server is going down"
        if len(self._queue) >= MAX_QUEUED or self._queued_bytes + frame.bytes > MAX_QUEUED_BYTES:
            return "engine_lost", f"the engine is {self.state} and {len(self._queue)} frames wait for it"
        return None

    def _enqueue(self, frame: _Frame) -> None:
        self._queue[frame.submit.ticket] = frame
        self._queued_bytes += frame.bytes

    def _dequeue(self, ticket: int) -> None:
        frame = self._queue.pop(ticket, None)
        if frame is not None:
            self._queued_bytes -= frame.bytes

    def _flush_soon(self) -> None:
        """Not at once: a refusal must not overtake the ticket that `submit` returns."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send what waits, as fast as the engine reads; a suspect only when nothing else is with it."""
        self._flushing = False
        for _ in range(FLUSH):
            if not self._queue or self.state != "ready" or self._child is None or self._child.paused:
                return
            ticket, frame = next(iter(self._queue.items()))
            if self._sent and (frame.suspect or self._alone):
                return
            self._dequeue(ticket)
            if self._poison.has(frame.submit.job, self.clock()):
                reason = "this very request, whatever its seed, has ended two engines before"
                self._settle(Refused(ticket, "poison", reason))
                continue
            try:
                self._child.send(frame.submit)
            except LinkError as error:  # too large, or text that is no Unicode
                self._settle(Refused(ticket, "invalid", f"the engine cannot be sent this request: {error}"))
                continue
            self._sent[ticket] = frame
            self._alone = frame.suspect
        self._flush_soon()

    def _settle(self, reply: Reply) -> None:
        """The one place where a ticket gets its reply. Cancelled and answered ones are not known any more."""
        frame = self._frames.pop(reply.ticket, None)
        self._sent.pop(reply.ticket, None)
        self._dequeue(reply.ticket)
        if frame is not None:
            _guarded(frame.on_reply, reply)

    def _take_back(self, at_risk: set[int] | None) -> None:
        """An engine died working on `at_risk` (None: anything it had). Who goes to the next one, and how?"""
        sent, self._sent = self._sent, {}
        waiting, self._queue, self._queued_bytes = self._queue, {}, 0
        suspects: list[_Frame] = []
        others: list[_Frame] = []
        refused: list[Refused] = []
        for ticket, frame in sent.items():
            frame.deaths += 1
            risky = at_risk is None or ticket in at_risk
            if risky and frame.suspect:  # it was alone
                self._poison.add(frame.submit.job, self.clock())
                log.error("engine.poison", remembered=len(self._poison))
                refused.append(Refused(ticket, "poison", "this request has ended two engines"))
            elif frame.deaths > (1 if frame.suspect else MOST_DEATHS):
                reason = f"the engine ended {frame.deaths} times before this was drawn"
                refused.append(Refused(ticket, "engine_lost", reason))
            else:
                frame.suspect = risky
                (suspects if risky else others).append(frame)
        for frame in (*suspects, *others, *waiting.values()):
            self._enqueue(frame)
        if self._failed_starts >= HOPELESS_STARTS:
            reason = f"the engine has failed to start {self._failed_starts} times"
            refused += [Refused(ticket, "engine_lost", reason) for ticket in self._queue]
        for refusal in refused:
            self._settle(refusal)


def _guarded(callback: Callable[..., None], *given: Any) -> None:
    """A callback of the gateway that fails is logged; it takes no engine and no other reply with it."""
    try:
        callback(*given)
    except Exception:
        log.exception("engine.callback")
