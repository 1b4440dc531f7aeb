"""What draws the queue: claims what waits, a few at a time, and ends each exactly once.

A run that fails by no fault of its request (an engine lost, a full disk) waits and is tried again, as fal
does; what this process leaves behind when it is killed, the next one takes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from realtime import log
from realtime.apps import App, find
from realtime.errors import Busy, Internal, NoSpace, TooMuch, UnknownApp
from realtime.queue import owner
from realtime.queue.desk import Desk
from realtime.queue.ledger import Ledger
from realtime.queue.news import News, either
from realtime.queue.records import CANCELLED, Claim, Ending, Note
from realtime.run import OFF_LOOP, answer
from realtime.service import Caller
from realtime.storage.lifecycle import Acl
from realtime.work import Line, Outcome, failed, line

if TYPE_CHECKING:
    from realtime.gateway import Gateway

IDLE_S = 0.5  # another process may have put something into the same queue; start times pass
PAUSE_S = 1.0  # after the disk refused
SWEEP_S = 30.0
AGAIN = frozenset({429, 502, 503, 507})  # another try may end better
LONGEST_PAUSE_S = 60.0
DISK = (NoSpace, Busy, TooMuch)  # what a write can fail with: later it may succeed

logger = log.get("realtime.queue")


class Worker:
    def __init__(
        self,
        gateway: Gateway,
        desk: Desk,
        news: News,
        me: str,
        *,
        ended: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """me: as `owner.own`. ended: called whenever requests have ended (their webhooks are due)."""
        self._gateway = gateway
        self._settings = gateway.settings
        self._most = self._settings.queue_at_once * self._settings.engines
        self._desk, self._news, self._me, self._ended, self._clock = desk, news, me, ended, clock
        self._drawing: dict[str, asyncio.Task[Outcome] | None] = {}  # None: claimed, not drawn yet
        self._more = asyncio.Event()

    def nudge(self) -> None:
        """There may be something to do. While nothing fits, looking would only cost the disk."""
        if len(self._drawing) < self._most:
            self._more.set()

    def stop(self, id: str) -> None:
        """A client wants this one cancelled; nothing happens if it is not drawn here."""
        if (task := self._drawing.get(id)) is not None:
            task.cancel()

    async def run(self) -> None:
        """Until cancelled; what is drawn then waits again."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._renew()  # before anything is claimed: what was first stays first
                group.create_task(self._keep(), name="queue leases")
                group.create_task(self._forget(), name="queue age")
                while True:
                    self._more.clear()
                    claims = await self._claim()
                    for claim in claims:
                        self._drawing[claim.order.id] = None
                        group.create_task(self._end(claim), name=f"queue {claim.order.id}")
                    await either(self._more, IDLE_S)
        finally:
            await asyncio.shield(self._release())

    # ---- one request ----

    async def _claim(self) -> list[Claim]:
        """What may be drawn now, and on the way the end of what waited too long."""
        gateway = self._gateway
        free = self._most - len(self._drawing)
        if gateway.draining or not gateway.engine_known.is_set():
            free = 0
        now, until = self._clock(), time.monotonic() + self._settings.queue_lease_s

        def write(ledger: Ledger) -> tuple[list[str], list[Claim]]:
            return ledger.expire(now), ledger.claim(self._me, free, now, until) if free > 0 else []

        try:
            expired, claims = await self._desk.write(write)
        except DISK:
            await asyncio.sleep(PAUSE_S)
            return []
        if expired:
            self._ended()
        for id in (*expired, *(claim.order.id for claim in claims)):
            self._news.tell(id)
        return claims

    async def _end(self, claim: Claim) -> None:
        """Draw it and write down how that ended."""
        id = claim.order.id
        try:
            try:
                ending, again = await self._drawn(claim)
            except Exception:
                logger.exception("queue.draw", request_id=id, app=claim.order.endpoint)
                ending, again = await _ending(failed(Internal("Internal Server Error"))), False
            pause_s = min(2.0**claim.lost, LONGEST_PAUSE_S) if again and claim.order.retry else None
            if pause_s is not None:
                self._gateway.metrics.tried_again.inc()
                self._say(claim, line("WARN", f"{ending.error}; tried again in {pause_s:g} s"))
            while not await self._write_end(claim, ending, pause_s):  # noqa: ASYNC110
                await asyncio.sleep(PAUSE_S)  # a full disk: the picture is kept here, and the lease with it
        finally:
            self._drawing.pop(id, None)
            self._news.tell(id)
            if claim.order.webhook:
                self._ended()
            self.nudge()

    async def _drawn(self, claim: Claim) -> tuple[Ending, bool]:
        """How it ended, and whether another try may end better."""
        order = claim.order
        app = find(order.endpoint)
        if app is None:  # a server of another version took it in
            return await _ending(failed(UnknownApp(f'Application "{order.endpoint[:100]}" not found'))), False
        task = self._drawing[order.id] = asyncio.ensure_future(self._draw(app, claim))
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()  # if it was us who were cancelled
            await asyncio.gather(task, return_exceptions=True)
        if task.cancelled():
            return CANCELLED, False
        outcome = task.result()
        return await _ending(outcome), outcome.status in AGAIN

    async def _draw(self, app: App, claim: Claim) -> Outcome:
        order = claim.order
        start_s = None if order.start_by is None else max(order.start_by - self._clock(), 0.001)
        began = time.monotonic()
        payload = await _read(order.body)
        return await self._gateway.work.draw(
            app,
            payload,
            decode_s=time.monotonic() - began,
            request_id=order.id,
            caller=Caller(order.tenant),
            base=order.base,
            lane="queue",
            start_timeout_s=start_s,
            lifetime_s=order.lifetime_s,
            acl=Acl.model_validate_json(order.acl) if order.acl else None,
            on_line=lambda line: self._say(claim, line),
        )

    async def _write_end(self, claim: Claim, ending: Ending, pause_s: float | None) -> bool:
        """False: the disk refused."""
        now = self._clock()

        def write(ledger: Ledger) -> bool:
            if pause_s is None:
                return ledger.complete(claim, ending, now)
            return ledger.retry(claim, ending, now, now + pause_s)

        try:
            if not await self._desk.write(write):
                logger.warning("queue.lease_lost", request_id=claim.order.id)
        except DISK:
            return False
        return True

    def _say(self, claim: Claim, line: Line) -> None:
        note = Note(line.level, line.message, line.timestamp)
        self._desk.note(
            lambda ledger: ledger.note(claim.seq, [note]), then=lambda: self._news.tell(claim.order.id)
        )

    # ---- leases and age ----

    async def _keep(self) -> None:
        while True:
            await self._count()
            await asyncio.sleep(self._settings.queue_lease_s / 3)
            await self._renew()

    async def _count(self) -> None:
        metrics = self._gateway.metrics
        try:
            depth = await self._desk.read(Ledger.depth)
        except DISK:
            return
        metrics.queued.labels("waiting").set(depth.waiting)
        metrics.queued.labels("running").set(depth.running)
        metrics.webhooks_owed.set(depth.deliveries)

    async def _renew(self) -> None:
        """Keep our leases, take back what others left."""
        lease_s, now, moment = self._settings.queue_lease_s, self._clock(), time.monotonic()

        def write(ledger: Ledger) -> tuple[list[str], int]:
            cancelled = ledger.renew(self._me, moment + lease_s)
            return cancelled, ledger.recover(self._me, owner.gone, now, moment, lease_s)

        try:
            cancelled, lost = await self._desk.write(write)
        except DISK:
            return  # said in the log; the next turn tries again
        for id in cancelled:
            self.stop(id)
        if lost:
            logger.warning("queue.recovered", requests=lost)
            self._ended()
            self.nudge()

    async def _forget(self) -> None:
        pause_s = min(SWEEP_S, self._settings.queue_keep_s / 4)
        while True:
            await asyncio.sleep(pause_s)
            with contextlib.suppress(*DISK):
                while await self._desk.write(lambda ledger: ledger.sweep(self._clock())):
                    pass

    async def _release(self) -> None:
        with contextlib.suppress(*DISK):  # whoever comes next sees that we are gone
            await self._desk.write(lambda ledger: ledger.release(self._me))


async def _read(body: bytes) -> dict[str, Any]:
    payload: dict[str, Any]
    payload = await asyncio.to_thread(json.loads, body) if len(body) > OFF_LOOP else json.loads(body)
    return payload


async def _ending(outcome: Outcome) -> Ending:
    """What a run would have been answered, to be kept."""
    error = error_type = ""
    if outcome.status >= 400:
        detail = outcome.body.get("detail")
        error = detail if isinstance(detail, str) else f"Invalid status code: {outcome.status}"
        error_type = outcome.error_type or ""
    body = bytes((await answer(outcome)).body)
    return Ending(outcome.status, outcome.headers, body, outcome.inference_s, error, error_type)
