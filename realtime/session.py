"""The frames of one socket between arrival and answer: which wait, which are drawn, which comes back next.

Pure bookkeeping, no I/O and no clock. A frame is

    waiting   in the mailbox; at most `buffering` of them and `max_bytes`, the newest win
    taken     being prepared or in the engine, or answered but not written yet; `max_bytes` again
    gone      written, or superseded

and results are released strictly in the order of arrival, whatever order the engine finishes in: fal's
clients pair a result with its frame by nothing but order and an optional `request_id`.

fal's server SDK keeps `deque(maxlen=buffering)` and drops the oldest silently. Here the engine holds the
same number and drops by the same rule, so the gateway hands it `buffering + 2` frames (one being drawn, one
being encoded) and the mailbox only fills while the engine or the reader of the socket is behind.
A frame keeps its credit until its result is *written*: a client that reads slowly is sent new pictures late,
not old ones, and costs no memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

BUFFERING = 2  # default of the `max_buffering` query parameter
MAX_BUFFERING = 60  # fal's clients throw outside 1..60

R = TypeVar("R")  # request
O = TypeVar("O")  # outcome  # noqa: E741


@dataclass(slots=True, eq=False)
class Slot(Generic[R, O]):
    """One frame on its way. `outcome` None: not known yet."""

    number: int  # of arrival in its session, from 1
    request: R
    size: int  # bytes
    ticket: int | None = None  # in the engine
    outcome: O | None = None
    superseded: bool = False


class Session(Generic[R, O]):
    def __init__(self, buffering: int = BUFFERING, max_bytes: int = 32 * 1024 * 1024) -> None:
        self.buffering = min(max(buffering, 1), MAX_BUFFERING)
        self.max_bytes = max_bytes
        self.credit = self.buffering + 2
        self.superseded = 0
        self.closed = False
        self.bytes = 0  # of the unanswered frames
        self._arrived = 0
        self._waiting: deque[Slot[R, O]] = deque()
        self._waiting_bytes = 0
        self._taken: deque[Slot[R, O]] = deque()  # in order of arrival, until released
        self._unwritten: deque[Slot[R, O]] = deque()  # released

    def offer(self, request: R, size: int) -> int:
        """A frame arrived. Older waiting ones go if there are too many; the newest always stays.

        Returns how many went.
        """
        if self.closed:
            return 0
        superseded = self.superseded
        self._arrived += 1
        self._waiting.append(Slot(self._arrived, request, size))
        self._waiting_bytes += size
        self.bytes += size
        while len(self._waiting) > self.buffering or (
            self._waiting_bytes > self.max_bytes and len(self._waiting) > 1
        ):
            dropped = self._waiting.popleft().size
            self._waiting_bytes -= dropped
            self.bytes -= dropped
            self.superseded += 1
        return self.superseded - superseded

    def take(self) -> Slot[R, O] | None:
        """The oldest waiting frame, if there is credit for it."""
        if not self._waiting or len(self._taken) + len(self._unwritten) >= self.credit:
            return None
        taken = self.bytes - self._waiting_bytes
        if taken and taken + self._waiting[0].size > self.max_bytes:
            return None
        slot = self._waiting.popleft()
        self._waiting_bytes -= slot.size
        self._taken.append(slot)
        return slot

    def settle(self, slot: Slot[R, O], outcome: O | None) -> list[Slot[R, O]]:
        """The outcome of a taken frame, None if the engine superseded it.

        Returns what may be sent now, in order.
        A second outcome of one frame, or one after `close`, is nothing.
        """
        if self.closed or slot.superseded or slot.outcome is not None:
            return []
        slot.ticket = None
        if outcome is None:
            slot.superseded = True
            self.superseded += 1
        else:
            slot.outcome = outcome
        released: list[Slot[R, O]] = []
        while self._taken and (self._taken[0].superseded or self._taken[0].outcome is not None):
            head = self._taken.popleft()
            if head.superseded:
                self.bytes -= head.size
            else:
                released.append(head)
        self._unwritten.extend(released)
        return released

    def written(self) -> None:
        """The oldest released outcome is on the wire: its credit is free again."""
        if not self.closed:
            self.bytes -= self._unwritten.popleft().size

    def close(self) -> list[int]:
        """The socket is gone. Returns the tickets nobody waits for any more."""
        if self.closed:
            return []
        self.closed = True
        tickets = [slot.ticket for slot in self._taken if slot.ticket is not None]
        for line in (self._waiting, self._taken, self._unwritten):
            line.clear()
        self._waiting_bytes = self.bytes = 0
        return tickets

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def unanswered(self) -> int:
        """Frames whose outcome is not on the wire: waiting, drawn, or about to be written."""
        return len(self._waiting) + len(self._taken) + len(self._unwritten)
