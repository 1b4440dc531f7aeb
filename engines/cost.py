"""What work costs, and who has been served how much. Pure arithmetic; times in seconds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

WARMING = 4  # observations of a size that may be slower than the work is
STALE = 40  # observations of other sizes
FADING = 0.05  # of the excess, per observation of a larger size


@dataclass(slots=True)
class _Seen:
    seconds: float
    times: int = 0
    last: int = 0  # turn


class Cost:
    """Predicted seconds of a piece of work of a given size, an average of what it took lately.

    A `work` is a name: a lane's UNet call, its VAE decode. In doubt it is an optimist, because a wrong
    hope is tried and corrected while a wrong fear is never tried: nothing seen yet predicts 0, the first
    observations count by the fastest (the rest is warming up), a stall counts as twice the average, and
    what was seen of a size long ago fades towards its share of the larger calls seen since.
    """

    def __init__(self, rate: float = 0.2) -> None:
        self.rate = rate  # weight of the newest observation
        self._sizes: dict[str, dict[int, _Seen]] = {}
        self._turn: dict[str, int] = {}  # observations of a work
        self._spread: dict[str, float] = {}
        self._cache: dict[tuple[str, int], float] = {}

    def observe(self, work: str, size: int, seconds: float) -> None:
        sizes = self._sizes.setdefault(work, {})
        turn = self._turn[work] = self._turn.get(work, 0) + 1
        seen = sizes.setdefault(size, _Seen(seconds))
        seen.last = turn
        seen.times += 1
        if seen.times <= WARMING:
            seen.seconds = min(seen.seconds, seconds)
        else:
            error = min(seconds, 2 * seen.seconds + 1e-3) - seen.seconds
            spread = self.spread(work)
            self._spread[work] = spread + self.rate / 2 * (abs(error) / (seen.seconds + 1e-3) - spread)
            seen.seconds += self.rate * error
        for smaller, other in sizes.items():
            if smaller < size and turn - other.last > STALE:
                excess = other.seconds - seen.seconds * smaller / size
                other.seconds -= max(0.0, FADING * excess)
        self._cache.clear()

    def predict(self, work: str, size: int) -> float:
        """Seconds; grows with size, and at most as fast: a batch is never dearer than its parts in turn.

        That bound is also what lets one slow outlier at a large size be tried again.
        """
        known = self._cache.get((work, size))
        if known is None:
            known = self._cache[work, size] = self._estimate(work, size)
        return known

    def spread(self, work: str) -> float:
        """How far off a prediction is on average, as a part of it, 0..1: the margin a promise needs."""
        return self._spread.get(work, 0.0)

    def slowest(self) -> float:
        """The dearest single piece of work known: how long the loop may be deaf."""
        return max((seen.seconds for sizes in self._sizes.values() for seen in sizes.values()), default=0.0)

    def _estimate(self, work: str, size: int) -> float:
        """On the chords between the known sizes, once what was seen has been made a possible curve."""
        seen = {at: was.seconds for at, was in sorted(self._sizes.get(work, {}).items())}
        curve = {0: 0.0}
        for known in seen:
            cheapest = min(seconds for s, seconds in seen.items() if s >= known)
            curve[known] = min([cheapest, *(seconds * known / s for s, seconds in curve.items() if s)])
        low = max(s for s in curve if s <= size)
        high = min((s for s in curve if s >= size), default=None)
        if high is None:
            return curve[low] * size / low if low else 0.0
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
        served, floor = self._served, self.floor
        for name in active:
            if served.get(name, -1.0) < floor:
                served[name] = floor
        self.floor = min(map(served.__getitem__, active), default=floor)
        if len(self._served) > 2 * len(active) + 64:
            owing = sorted(self._served.keys() - set(active), key=self._served.__getitem__)
            for name in owing[: -len(active) - 32]:
                del self._served[name]

    def charge(self, name: str, seconds: float, weight: float) -> None:
        self._served[name] = max(self._served.get(name, 0.0), self.floor) + seconds / weight

    def ahead(self, name: str) -> float:
        """Seconds (per weight) this name has had more than the least served."""
        return max(self._served.get(name, 0.0) - self.floor, 0.0)
