"""Live requests first; in the time they leave, and in a small share of theirs, those that can wait.

Two schedules over one device. A background row advances only between live pictures, so that a live frame
that arrives waits for at most the one background call that has begun; and while live requests are about,
that is a short one. A full queue costs live sessions little, whatever its length, and never starves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from engines.cost import Cost
from engines.mailbox import Request
from engines.schedule import Admission, Call, Schedule

SHARE = 1 / 32  # of the device, for the background while live requests would take all of it
SHORT = 1.25  # times the shortest call of its lane: a background call while live requests are about
QUIET_S = 2.0  # after the last live request nobody is about any more


class Tiers:
    """As `Schedule`, for requests of both kinds."""

    def __init__(self, cost: Cost, buckets: Sequence[int]) -> None:
        self.buckets = tuple(buckets)
        self.live, self.background = Schedule(cost, buckets), Schedule(cost, buckets)
        self._owed = 0.0  # seconds of the device, to the background
        self._now = 0.0
        self._heard = -math.inf  # when the last live request arrived

    def submit(self, request: Request, *, ready: bool = True) -> list[int]:
        if request.background:
            return self.background.submit(request, ready=ready)
        self._heard = max(self._heard, request.received)
        return self.live.submit(request, ready=ready)

    def prepare(self) -> list[int]:
        return self.live.prepare() + self.background.prepare()

    def ready(self, ticket: int) -> list[int]:
        return self._of(ticket).ready(ticket)

    def cancel(self, tickets: Iterable[int]) -> None:
        for ticket in tickets:
            self._of(ticket).cancel([ticket])

    def admit(self, now: float) -> Admission:
        self._now = now
        first, second = self.live.admit(now), self.background.admit(now)
        return Admission(first.begin + second.begin, first.superseded + second.superseded)

    def call(self) -> Call | None:
        call = self.live.call()
        behind = self.background.call(SHORT if self._now - self._heard < QUIET_S else math.inf)
        if call is None or behind is None:
            self._owed = 0.0
            return call or behind
        due = self._owed >= self.background.cost.predict(behind.lane, behind.bucket)
        return behind if due else call

    def stepped(self, call: Call) -> list[tuple[int, int]]:
        of = self._of(call.rows[0][0])
        self._charge(of, call.seconds)
        return of.stepped(call)

    def took(self, call: Call, seconds: float) -> None:
        of = self.background if call.background else self.live
        self._charge(of, seconds - call.seconds)
        of.took(call, seconds)

    def _charge(self, of: Schedule, seconds: float) -> None:
        self._owed += seconds * SHARE - (seconds if of is self.background else 0.0)

    @property
    def waiting(self) -> int:
        return self.live.waiting + self.background.waiting

    @property
    def running(self) -> int:
        return self.live.running + self.background.running

    def _of(self, ticket: int) -> Schedule:
        return self.background if ticket in self.background else self.live
