"""The arithmetic of the lab: percentiles, fairness, and what a run of frames amounts to.

Nothing here measures; everything here can be checked with planted data (tests/bench/test_figures.py).
Times are seconds on one monotonic clock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Frame:
    """One request of the load, from the moment it was *meant* to leave to what became of it."""

    session: int
    number: int  # 0, 1, 2... within the session
    due: float  # when the arrival process says it leaves, whether or not the generator was on time
    warm: bool = False  # offered before the measured time: no figure, but its picture is throughput
    sent: float = math.nan
    arrived: float = math.nan  # last byte of its answer; nan = no answer
    error: str = ""  # code of an x-fal-error, "" if none
    engine: float = math.nan  # seconds the engine says it held the frame
    batch: float = math.nan  # mean batch over its UNet calls
    timings: dict[str, Any] = field(default_factory=dict)  # as the server says, seconds
    data: bytes = b""  # the picture, for a check after the clock has stopped
    prompt: str = ""
    seed: int = 0

    @property
    def answered(self) -> bool:
        return not math.isnan(self.arrived) and not self.error

    @property
    def latency(self) -> float:
        """From the intended send time: a stalled generator or a blocked socket counts against the server,
        never hides it (coordinated omission; Gil Tene, "How NOT to measure latency")."""
        return self.arrived - self.due


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least `share` (0..1] of the sample at or below it; nan of nothing.

    Nearest rank, so that a p99 is a latency some frame really had.
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def jain(shares: Iterable[float]) -> float:
    """Jain's fairness index of what each session got: 1 = all equal, 1/n = one took everything.

    Source: Jain, Chiu, Hawe 1984, DEC-TR-301.
    """
    got = list(shares)
    squares = sum(share * share for share in got)
    return 1.0 if squares == 0 else sum(got) ** 2 / (len(got) * squares)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    cuts = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {f"{name}_ms": round(percentile(values, share) * 1e3, 2) for name, share in cuts.items()}


def misplaced(numbers: Iterable[int]) -> int:
    """How many of one session's answers came after a later one."""
    newest, late = -1, 0
    for number in numbers:
        late += number < newest
        newest = max(newest, number)
    return late


def summary(frames: Sequence[Frame], *, sessions: int, seconds: float, slo_s: float) -> dict[str, Any]:
    """What a run amounts to. `frames`: all that were offered, in any order; `seconds`: those measured."""
    start = min((frame.due for frame in frames if not frame.warm), default=0.0)
    # A rate counts what came while the clock ran: what a queue gives up afterwards is no throughput.
    arrived = sum(frame.answered and start <= frame.arrived <= start + seconds for frame in frames)
    frames = [frame for frame in frames if not frame.warm]
    sent = [frame for frame in frames if not math.isnan(frame.sent)]
    answered = [frame for frame in frames if frame.answered]
    asked = Counter(frame.session for frame in frames)
    in_time = [frame for frame in answered if frame.latency <= slo_s]
    by_session: list[list[Frame]] = [[] for _ in range(sessions)]
    for frame in sorted(answered, key=lambda frame: frame.arrived):
        by_session[frame.session].append(frame)
    added = [frame.latency - frame.engine for frame in answered if not math.isnan(frame.engine)]
    batches = [frame.batch for frame in answered if not math.isnan(frame.batch)]
    errors = Counter(frame.error for frame in frames if frame.error)
    return {
        "frames": {
            "offered": len(frames),
            "sent": len(sent),
            "answered": len(answered),
            "superseded": len(sent) - len(answered) - sum(errors.values()),
            "errors": dict(errors),
            "out_of_order": sum(misplaced(frame.number for frame in mine) for mine in by_session),
        },
        "offered_per_s": round(len(frames) / seconds, 1),
        "images_per_s": round(arrived / seconds, 1),
        "goodput_per_s": round(len(in_time) / seconds, 1),
        "in_time_share": round(len(in_time) / len(answered), 4) if answered else 0.0,
        "slo_ms": round(slo_s * 1e3, 1),
        "latency": spread([frame.latency for frame in answered]),
        "added": spread(added),
        "engine": spread([frame.engine for frame in answered if not math.isnan(frame.engine)]),
        "generator_lag": spread([frame.sent - frame.due for frame in sent]),
        "mean_batch": round(sum(batches) / len(batches), 2) if batches else None,
        # Of the share of its own demand each session got: Poisson sessions do not ask for the same number.
        "jain": round(jain([len(mine) / asked[s] for s, mine in enumerate(by_session) if asked[s]]), 4),
    }


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """The interval that covers a share 95 % of the time, honest at 0 and 1 too; (0, 1) of nothing.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    if asked == 0:
        return 0.0, 1.0
    share, squared = right / asked, z * z / asked
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / asked + squared / (4 * asked)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, ties sharing their mean rank; nan where either is constant or shorter than two."""
    ranks = [_ranks(first), _ranks(second)]
    means = [sum(rank) / len(rank) if rank else 0.0 for rank in ranks]
    a, b = ([value - mean for value in rank] for rank, mean in zip(ranks, means, strict=True))
    spread = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / spread if spread else math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    first = {value: at for at, value in reversed(list(enumerate(ordered)))}
    return [first[value] + (ordered.count(value) - 1) / 2 for value in values]
