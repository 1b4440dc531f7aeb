"""The calls that a device has been given: the one that runs, and the next one, given shortly before its turn.

A device that overlaps would stand still between two calls, for as long as it takes to say what is finished,
who joins, and where their tensors lie. So the next call is given to it while it works on the last, but no
sooner than needed: whoever arrives after that waits for one call more. And only while it works on the last:
where launching takes as long as the work, kernel by kernel, nothing is gained by being early.

    one call:   ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇
    the host:                       boundary, launch        lead, measured
    the next:                           ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇

Pure; stamps of one clock, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

MOST = 2  # calls given and not done
LEADS = 1.5  # times what a boundary and a launch take on average: some take longer
WAKE_S = 0.0005  # until a thread that sleeps has a core and the interpreter
RATE = 0.1  # weight of the newest boundary

Given = TypeVar("Given")


class Line(Generic[Given]):
    def __init__(self) -> None:
        self._calls: deque[tuple[Given, float]] = deque()  # and the seconds each takes
        self._free = 0.0  # when it will have done them all, as far as is known
        self._lead = 0.0  # seconds from the beginning of a boundary to its launch, on average

    def starts(self, now: float) -> float:
        """When a call would begin that is given now."""
        return max(now, self._free) if self._calls else now

    def rest(self, now: float) -> float:
        """Seconds until the next boundary; infinity until a call is `done`."""
        if not self._calls:
            return 0.0
        if len(self._calls) >= MOST or now >= self._free:  # its end is a message that is on its way
            return math.inf
        return max(0.0, self._free - now - LEADS * self._lead - WAKE_S)

    def give(self, call: Given, began: float, launched: float, now: float, seconds: float) -> None:
        """Launched from then until now, by a boundary that began before. seconds: it will take, as far as is
        known; nothing is given after a call of which that is 0 before its end."""
        self._free = self.starts(launched) + seconds
        took = min(now - began, 2 * self._lead + 1e-3)  # one that stalled is no rule
        self._lead += RATE * (took - self._lead)
        self._calls.append((call, seconds))

    def done(self, ended: float) -> Given:
        """The one that was given first has ended, then."""
        call, _ = self._calls.popleft()
        if self._calls:  # what lies between calls is in no call's seconds, and would add up
            self._free = ended + self._calls[0][1]
        return call
