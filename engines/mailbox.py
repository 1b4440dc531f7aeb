"""What one session has in the engine: at most one request that draws, and the newest of those that wait."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct


class Request(Struct, frozen=True, gc=False):
    ticket: int
    session: str
    received: float  # seconds, same clock as `now`
    lane: str
    steps: int  # UNet calls per image
    slots: int = 1  # places per image and call
    count: int = 1  # images
    buffering: int = 0  # waiting requests the session may hold, newest win; 0: all are kept
    deadline: float = math.inf  # absolute
    weight: float = 1.0
    account: str = ""
    background: bool = False  # it can wait for live ones: engines/tiers.py
    vae: str = ""  # which decoder it leaves through

    @property
    def payer(self) -> str:
        """Whose turn it takes: sessions of one account take turns as one."""
        return self.account or self.session


@dataclass(slots=True, eq=False)  # identity: several may look alike
class Held:
    request: Request
    ready: bool  # its inputs are decoded
    preparing: bool = False  # they are being decoded
    begun: int = 0  # images that have joined
    left: dict[int, int] = field(default_factory=dict)  # image -> UNet calls to go, for those drawing


@dataclass(slots=True, eq=False)
class Mailbox:
    waiting: deque[Held] = field(default_factory=deque)
    running: Held | None = None
    since: int | None = None  # boundary at which it last had something to admit and nothing admitted

    @property
    def empty(self) -> bool:
        return self.running is None and not self.waiting

    def next(self) -> Held | None:
        """The request whose next image could join now."""
        if self.running is not None:
            return self.running if self.running.begun < self.running.request.count else None
        return self.waiting[0] if self.waiting and self.waiting[0].ready else None

    def prepare(self) -> Held | None:
        """The request to decode the inputs of now: one at a time, so that none is decoded in vain."""
        undecoded = next((held for held in self.waiting if not held.ready), None)
        if undecoded is None or undecoded.preparing:
            return None
        undecoded.preparing = True
        return undecoded

    def supersede(self, buffering: int) -> list[Held]:
        """Newest wins: drop the oldest over `buffering`, and return them.

        Never what is being decoded, nor the newest decoded one: else a hand that is faster than the
        decoder would see nothing at all. So up to two more than `buffering` can wait.
        """
        excess = len(self.waiting) - buffering if buffering else 0
        if excess <= 0:
            return []
        *older, newest = self.waiting
        shown = next((held for held in reversed(self.waiting) if held.ready), newest)
        dropped = [held for held in older if not held.preparing and held is not shown][:excess]
        for held in dropped:
            self.waiting.remove(held)
        return dropped

    def give_way(self, late: Callable[[Request], bool]) -> list[Held]:
        """A late frame goes for a newer one that is ready, even within `buffering`. Returns those dropped."""
        dropped: list[Held] = []
        while self.running is None and len(self.waiting) > 1:
            head, newer = self.waiting[0], self.waiting[1]
            if not (head.ready and newer.ready and head.request.buffering and late(head.request)):
                break
            dropped.append(self.waiting.popleft())
        return dropped

    def join(self) -> Held:
        """One more image of `next()` draws."""
        if self.running is None:
            self.running = self.waiting.popleft()
        held = self.running
        held.left[held.begun] = held.request.steps
        held.begun += 1
        return held
