"""The scheduler against a virtual clock: discrete events, made-up sessions, a cost model for the device.

The policy under test is the very `Schedule` that serves; only time and pictures are simulated, so a
minute of hundreds of sessions takes seconds. Rates are per second, times are seconds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from engines.cost import Cost
from engines.mailbox import Request
from engines.outlook import Outlook, Row, vae
from engines.schedule import Schedule

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Load:
    """Sessions that send frames at random (Poisson) instants, whatever the answers do: an open loop."""

    sessions: int
    rate: float  # frames a second and session
    slo: float  # a picture later than this after its frame is worth nothing
    seconds: float = 60.0
    steps: Sequence[int] = (4,)  # drawn from evenly
    buffering: int = 1
    lanes: int = 1  # session i draws in lane i % lanes
    flood: float = 0.0  # frames a second of one further session, "flood"
    seed: int = 0

    def frames(self) -> list[Request]:
        """In order of time."""

        def session(name: str, rate: float, lane: int) -> Iterator[tuple[float, str, str, int]]:
            draw = random.Random(f"{self.seed}/{name}")
            now = draw.expovariate(rate)
            while now < self.seconds:
                yield now, name, str(lane), draw.choice(self.steps)
                now += draw.expovariate(rate)

        sessions = [session(str(n), self.rate, n % self.lanes) for n in range(self.sessions)]
        if self.flood:
            sessions.append(session("flood", self.flood, 0))
        return [
            Request(ticket, name, now, lane, steps, buffering=self.buffering, deadline=now + self.slo)
            for ticket, (now, name, lane, steps) in enumerate(heapq.merge(*sessions))
        ]


@dataclass(frozen=True)
class Device:
    """Seconds of a UNet call of bucket B: base + row * B, times log-normal noise of `jitter`.

    One call in a hundred stalls for `stall` more: another process had the cores. With `warm` the schedule
    knows the costs from the start; without, it has to find out.
    """

    base: float
    row: float
    vae: float = 0.0  # per picture
    jitter: float = 0.0  # standard deviation of the logarithm
    stall: float = 0.0
    warm: bool = True
    buckets: Sequence[int] = BUCKETS

    def call(self, bucket: int) -> float:
        return self.base + self.row * bucket


@dataclass
class Outcome:
    offered: int = 0
    superseded: int = 0
    calls: int = 0
    rows: int = 0
    latencies: list[float] = field(default_factory=list)
    by_session: dict[str, int] = field(default_factory=dict)  # pictures
    slo: float = math.inf

    @property
    def made(self) -> int:
        return len(self.latencies)

    @property
    def good(self) -> int:
        return sum(latency <= self.slo for latency in self.latencies)

    @property
    def batch(self) -> float:
        """Mean rows of a call."""
        return self.rows / self.calls if self.calls else 0.0

    @property
    def jain(self) -> float:
        """Fairness over pictures per session: 1 is even, 1/n is one session having it all."""
        counts = list(self.by_session.values())
        squares = len(counts) * sum(count * count for count in counts)
        return sum(counts) ** 2 / squares if squares else 1.0

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else math.nan


def simulate(
    load: Load, device: Device, make: Callable[[Cost, Sequence[int]], Schedule] = Schedule
) -> Outcome:
    """Run `load` through a schedule on `device` until every frame is answered or superseded."""
    cost, draw = Cost(), random.Random(load.seed)
    for lane in range(load.lanes if device.warm else 0):
        for bucket in device.buckets:
            cost.observe(str(lane), bucket, device.call(bucket))
        cost.observe(vae(str(lane)), 1, device.vae)
    schedule = make(cost, device.buckets)
    frames = load.frames()
    out = Outcome(slo=load.slo, offered=len(frames), by_session={frame.session: 0 for frame in frames})
    now, arrived = 0.0, 0
    while True:
        while arrived < len(frames) and frames[arrived].received <= now:
            out.superseded += len(schedule.submit(frames[arrived]))
            arrived += 1
        out.superseded += len(schedule.admit(now).superseded)
        call = schedule.call()
        if call is None:
            if arrived == len(frames):
                return out
            now = frames[arrived].received
            continue
        seconds = device.call(call.bucket) * draw.lognormvariate(0.0, device.jitter)
        seconds += device.stall * (draw.random() < 0.01)
        now += seconds
        out.calls += 1
        out.rows += len(call.rows)
        finished = schedule.stepped(call)
        schedule.took(call, seconds)
        for ticket, _ in finished:
            now += device.vae
            out.latencies.append(now - frames[ticket].received)
            out.by_session[frames[ticket].session] += 1


class Greedy(Schedule):
    """What most servers do: newest wins, then whoever came first joins while there is a place."""

    def _outlook(self, now: float) -> Outlook:
        return _Rosy(now, super()._outlook(now).rows, self.cost, self.buckets)


class _Rosy(Outlook):
    def welcome(self, row: Row) -> bool:
        return True
