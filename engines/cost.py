"""What work costs, and who has been served how much. Pure arithmetic; times in seconds."""

from __future__ import annotations

import math
from collections.abc import Collection


class Cost:
    """Predicted seconds of a piece of work of a given size, an average of what it took lately.

    A `work` is a name: a lane's UNet call, its VAE decode. Nothing seen yet predicts 0: unknown work
    is worth trying, and trying it once is what teaches.
    """

    def __init__(self, rate: float = 0.2) -> None:
        self.rate = rate  # weight of the newest observation
        self._seen: dict[str, dict[int, float]] = {}
        self._spread: dict[str, float] = {}
        self._cache: dict[tuple[str, int], float] = {}

    def observe(self, work: str, size: int, seconds: float) -> None:
        seen = self._seen.setdefault(work, {})
        if size in seen:
            error = abs(seconds - seen[size]) / seen[size] if seen[size] else 0.0
            spread = self._spread.get(work, 0.0)
            self._spread[work] = min(1.0, spread + self.rate / 2 * (error - spread))
            seen[size] += self.rate * (seconds - seen[size])
        else:
            seen[size] = seconds
        self._cache.clear()

    def predict(self, work: str, size: int) -> float:
        """Seconds; grows with size, and at most as fast: a batch is never dearer than its parts in turn.

        That bound is also what lets one slow outlier at a large size be tried again.
        """
        known = self._cache.get((work, size))
        if known is None:
            known = self._cache[work, size] = self._estimate(self._seen.get(work, {}), size)
        return known

    def spread(self, work: str) -> float:
        """How far off a prediction is on average, as a part of it, 0..1: the margin a promise needs."""
        return self._spread.get(work, 0.0)

    def slowest(self) -> float:
        """The dearest single piece of work known: how long the loop may be deaf."""
        return max((seconds for seen in self._seen.values() for seconds in seen.values()), default=0.0)

    @staticmethod
    def _estimate(seen: dict[int, float], size: int) -> float:
        """On the chords between the known sizes, once what was seen has been made a possible curve."""
        curve: dict[int, float] = {}
        for known in sorted(seen):
            dearest = min((seconds * known / s for s, seconds in curve.items()), default=math.inf)
            curve[known] = max([min(seen[known], dearest), *curve.values()])
        low = max((s for s in curve if s <= size), default=None)
        high = min((s for s in curve if s >= size), default=None)
        if low is None or high is None:
            return curve[low] * size / low if low else curve[high] if high else 0.0
        share = (size - low) / (high - low) if high > low else 0.0
        return curve[low] + (curve[high] - curve[low]) * share


class Accounts:
    """Service received per name and weight, as virtual time: the least served goes first.

    Weighted deficit round robin in the form of start-time fair queueing (Goyal, Vin, Cheng 1996):
    a name that comes, or comes back, starts level with the least served one, so absence earns nothing.
    """

    def __init__(self) -> None:
        self.floor = 0.0
        self._served: dict[str, float] = {}

    def level(self, active: Collection[str]) -> None:
        """Raise the floor to the least served of `active`; forget those absentees who owe least."""
        for name in active:
            self._served[name] = max(self._served.get(name, 0.0), self.floor)
        self.floor = min((self._served[name] for name in active), default=self.floor)
        if len(self._served) > 2 * len(active) + 64:
            owing = sorted(self._served.keys() - set(active), key=self._served.__getitem__)
            for name in owing[: -len(active) - 32]:
                del self._served[name]

    def charge(self, name: str, seconds: float, weight: float) -> None:
        self._served[name] = max(self._served.get(name, 0.0), self.floor) + seconds / weight

    def ahead(self, name: str) -> float:
        """Seconds (per weight) this name has had more than the least served."""
        return max(self._served.get(name, 0.0) - self.floor, 0.0)
