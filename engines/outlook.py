"""When the rows that draw now will be finished, with and without one more. Pure; seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.cost import Cost


@dataclass(frozen=True, slots=True)
class Row:
    lane: str
    left: int  # UNet calls to go
    slots: int
    deadline: float  # absolute; infinity binds nobody


class Outlook:
    """Predicts from the cost of every coming call: rows leave as they finish, and nobody else joins."""

    def __init__(self, now: float, rows: Sequence[Row], cost: Cost, buckets: Sequence[int]) -> None:
        self.now, self.rows, self.cost, self.buckets = now, rows, cost, buckets
        self._ends = self._finish(rows)
        self._taken: dict[str, int] = {}
        for row in rows:
            self._taken[row.lane] = self._taken.get(row.lane, 0) + row.slots
        self._ends_with: dict[tuple[str, int, int], float | None] = {}

    def fits(self, lane: str, slots: int) -> bool:
        """Is there a place in the lane's call?"""
        taken = self._taken.get(lane, 0)
        return taken == 0 or taken + slots <= self.buckets[-1]

    def welcome(self, lane: str, steps: int, slots: int, deadline: float) -> bool:
        """With such a newcomer in, is everyone in time who is without it, and the newcomer too?"""
        kind = (lane, steps, slots)  # all of one kind have one end
        if kind not in self._ends_with:
            *ends, own = self._finish([*self.rows, Row(lane, steps, slots, deadline)])
            harmless = all(
                end <= row.deadline or alone > row.deadline
                for row, alone, end in zip(self.rows, self._ends, ends, strict=True)
            )
            self._ends_with[kind] = own if harmless else None
        end = self._ends_with[kind]
        return end is not None and end <= deadline

    def _finish(self, rows: Sequence[Row]) -> list[float]:
        """The end of each row. Lanes share the time evenly: each has one call in `len(lanes)`."""
        ends = [self.now] * len(rows)
        lanes = {row.lane for row in rows}
        for lane in lanes:
            order = sorted(
                (at for at, row in enumerate(rows) if row.lane == lane), key=lambda at: rows[at].left
            )
            slots = sum(rows[at].slots for at in order)
            decode = self.cost.predict(vae(lane), 1)
            margin = 1.0 + self.cost.spread(lane)
            end, calls = self.now, 0
            for at in order:
                row = rows[at]
                if row.left > calls:
                    call = self.cost.predict(lane, bucket(slots, self.buckets))
                    end += (row.left - calls) * call * len(lanes) * margin
                    calls = row.left
                end += decode
                slots -= row.slots
                ends[at] = end
        return ends


def bucket(slots: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds so many; a single row may need two places of an engine that has one."""
    return next((size for size in buckets if size >= slots), slots)


def vae(lane: str) -> str:
    """The name under which `Cost` knows the decoding of one picture of a lane."""
    return f"{lane} vae"
