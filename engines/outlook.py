"""When the rows that draw now will be finished, with and without one more. Pure; seconds."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from engines.cost import Cost


class Row(Struct, frozen=True, gc=False):
    lane: str
    left: int  # UNet calls to go
    slots: int
    deadline: float  # absolute; infinity binds nobody
    vae: str = ""  # the decoder it leaves through


class Outlook:
    """Predicts from the cost of every coming call: rows leave as they finish, and nobody else joins."""

    def __init__(
        self,
        now: float,
        rows: Sequence[Row],
        cost: Cost,
        buckets: Sequence[int],
        ends: Sequence[float] | None = None,
    ) -> None:
        """`ends`: of each row, where they are known."""
        self.now, self.rows, self.cost, self.buckets = now, rows, cost, buckets
        self._ends = self._finish(rows) if ends is None else ends
        self._taken: dict[str, int] = {}
        for row in rows:
            self._taken[row.lane] = self._taken.get(row.lane, 0) + row.slots
        self._ends_with: dict[tuple[str, int, int, str], list[float]] = {}
        self._harmless: dict[tuple[str, int, int, str], bool] = {}

    def joined(self, row: Row) -> Outlook:
        """The outlook when this newcomer is in."""
        return type(self)(self.now, [*self.rows, row], self.cost, self.buckets, self._with(row))

    def fits(self, lane: str, slots: int) -> bool:
        """Is there a place in the lane's call?"""
        taken = self._taken.get(lane, 0)
        return taken == 0 or taken + slots <= self.buckets[-1]

    def welcome(self, row: Row) -> bool:
        """With this newcomer in, is everyone in time who is without it, and the newcomer too?"""
        kind = (row.lane, row.left, row.slots, row.vae)
        *ends, own = self._with(row)
        if kind not in self._harmless:
            self._harmless[kind] = all(
                end <= row.deadline or alone > row.deadline
                for row, alone, end in zip(self.rows, self._ends, ends, strict=True)
            )
        return self._harmless[kind] and own <= row.deadline

    def all_welcome(self, rows: Sequence[Row]) -> bool:
        """Is there a place for these newcomers together, and is each welcome, in whatever order they come?

        One more row makes no other end sooner, so whoever is in time with all of them in is so with some.
        """
        slots = dict(self._taken)
        for row in rows:
            slots[row.lane] = slots.get(row.lane, 0) + row.slots
        if not rows or max(slots.values()) > self.buckets[-1]:
            return False
        ends = self._finish([*self.rows, *rows])
        for row, alone, end in zip(self.rows, self._ends, ends, strict=False):
            if end > row.deadline >= alone:
                return False
        return all(end <= row.deadline for row, end in zip(rows, ends[len(self.rows) :], strict=True))

    def _with(self, row: Row) -> list[float]:
        """The ends of all rows and of this newcomer: the same for all of one kind."""
        kind = (row.lane, row.left, row.slots, row.vae)
        if kind not in self._ends_with:
            self._ends_with[kind] = self._finish([*self.rows, row])
        return self._ends_with[kind]

    def _finish(self, rows: Sequence[Row]) -> list[float]:
        """The end of each row. Lanes share the time evenly: each has one call in `len(lanes)`."""
        ends = [self.now] * len(rows)
        lanes: dict[str, list[int]] = {}
        for at, row in enumerate(rows):
            lanes.setdefault(row.lane, []).append(at)
        left = [row.left for row in rows]
        for lane, order in lanes.items():
            order.sort(key=left.__getitem__)
            slots = sum(rows[at].slots for at in order)
            margin = 1.0 + self.cost.spread(lane)
            decode: dict[str, float] = {}  # seconds, by decoder
            end, calls = self.now, 0
            for at in order:
                row = rows[at]
                if left[at] > calls:
                    call = self.cost.predict(lane, bucket(slots, self.buckets))
                    end += (left[at] - calls) * call * len(lanes) * margin
                    calls = left[at]
                if row.vae not in decode:
                    decode[row.vae] = self.cost.predict(vae(lane, row.vae), 1)
                end += decode[row.vae]
                slots -= row.slots
                ends[at] = end
        return ends


def bucket(slots: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds so many; a single row may need two places of an engine that has one."""
    return next((size for size in buckets if size >= slots), slots)


def vae(lane: str, which: str = "") -> str:
    """The name under which `Cost` knows the decoding of one picture of a lane by a decoder."""
    return f"{lane} vae {which}"
