"""Who waits before whom, for those who ask often: every waiting client polls for its place."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable

OLD_S = 1e-6  # for each one that waits: counting them takes a tenth of that, so a tenth of a thread at most


class Line:
    """Places by one connection: as new as the file, or OLD_S for each that waits (10 ms of 10,000)."""

    def __init__(self, db: sqlite3.Connection, clock: Callable[[], float]) -> None:
        """clock: seconds, monotonic."""
        self._db, self._clock = db, clock
        self._normal: list[int] = []  # their seq, rising
        self._low: list[int] = []
        self._version = (-1, -1)
        self._counted = 0.0

    def before(self, seq: int, low: bool) -> int:
        """How many are drawn before this one."""
        self._count()
        if not low:
            return bisect_left(self._normal, seq)
        return len(self._normal) + bisect_left(self._low, seq)

    def _count(self) -> None:
        now = self._clock()
        if now - self._counted < OLD_S * (len(self._normal) + len(self._low)):
            return
        # The first changes when others write, the second when this connection does.
        (others,) = self._db.execute("PRAGMA data_version").fetchone()
        version = (others, self._db.total_changes)
        if version == self._version:
            return
        waiting = "SELECT seq FROM requests WHERE state = 0 AND low = ? ORDER BY seq"
        self._normal, self._low = ([seq for (seq,) in self._db.execute(waiting, (low,))] for low in (0, 1))
        self._version, self._counted = version, now
