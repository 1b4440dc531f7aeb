"""Twice what the engine can draw, through the real server: how many of the pictures made arrive in time.

Two runs of the same frames. Ours: newest-wins per session and deadline-feasible admission. FIFO: what a
server without either does; the same process with a deadline nothing misses and mailboxes of 60, the most
fal's clients may ask for, so that every frame waits its turn and batches are as full as they can be.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.client import Socket, connect
from bench.conditions import ROOT, after, conditions
from bench.figures import Frame, summary
from bench.load import Load, offer, payload, run, uncollected
from bench.model import SIDE, random_model
from bench.report import Bar, Plot, Result, Table, cdf
from bench.server import Server, ours

SESSIONS = 8
SLO_S, SLO_ALONE = 0.5, 4
TARGET = 0.9  # of the SLO is the engine's deadline: the JPEG, the wire and the client need the rest
STEPS = (4, 4, 4, 4, 2, 8)  # mostly the default, some previews, some careful ones
# What a small model took on two cores: a call of B rows 8 + 15 B ms. It only sleeps, so its figures hold on
# a busy machine too.
TIMING = "fake:base_ms=8,row_ms=15,vae_ms=10"
Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class Comparison:
    """Ours and FIFO on one model, at multiples of its capacity."""

    name: str
    alone_s: float  # one frame of four steps on the idle server, from send to answer
    capacity: float  # images per second
    slo_s: float
    runs: dict[tuple[str, float], tuple[dict[str, Any], list[Frame]]]  # (policy, multiple) -> summary, frames

    def in_time(self, policy: str) -> float:
        """Percent of the images made that arrive inside the SLO, at twice the capacity."""
        return 100 * float(self.runs[policy, 2.0][0]["in_time_share"])


def figures(quick: bool, tick: Tick) -> Result:
    """`python -m bench goodput`."""
    given = conditions()
    from engines.embedded import WEIGHTS

    trained = (WEIGHTS / "model_index.json").is_file()
    model = "embedded" if trained else str(random_model(ROOT / "build" / "random-model"))
    name = "the embedded model" if trained else "random weights (10.9 M UNet)"
    real = compare(model, name, (2.0,) if quick else (1.0, 2.0), 5 if quick else 8, tick)
    timed = compare(
        TIMING, "a timing model of it", (2.0,) if quick else (0.5, 1.0, 2.0), 5 if quick else 6, tick
    )
    share = "pictures made that arrive inside the SLO, 2x capacity"
    return Result(
        "goodput",
        after(given),
        [Bar(f"{share}, {one.name}", one.in_time("ours"), 85.0, "%", True) for one in (real, timed)],
        [_table(real), _table(timed)],
        _plots(real, timed),
        {
            one.name: {"capacity_per_s": one.capacity, "alone_s": one.alone_s, "slo_s": one.slo_s}
            | {f"{policy}, {multiple:g}x": summed for (policy, multiple), (summed, _) in one.runs.items()}
            for one in (real, timed)
        },
    )


def compare(model: str, name: str, multiples: tuple[float, ...], seconds: float, tick: Tick) -> Comparison:
    """Both policies take turns at each multiple, so that a change of the machine hits both."""
    load = Load(sessions=SESSIONS, seconds=seconds, warm_s=3, steps=STEPS, size=SIDE)
    with ours(model) as server:
        alone_s = run(alone(server, load))
        slo_s = max(SLO_S, SLO_ALONE * alone_s)
    load = dataclasses.replace(load, slo_s=slo_s)
    runs = {}
    with ours(model, target_s=TARGET * slo_s) as feasible, ours(model, target_s=3600) as fifo:
        capacity = run(saturated(feasible, load, 6, tick))
        for multiple in multiples:
            rate_hz = multiple * capacity / SESSIONS
            for policy, server, buffering in (("ours", feasible, None), ("FIFO", fifo, 60)):
                offered = dataclasses.replace(load, rate_hz=rate_hz, buffering=buffering)
                what = f"{name}, {multiple:g}x capacity, {policy}"
                taken = run(offer(offered, server.port, lambda done, what=what: tick(what, done)))
                summed = summary(taken, sessions=SESSIONS, seconds=seconds, slo_s=slo_s)
                runs[policy, multiple] = summed, taken
    return Comparison(name, alone_s, capacity, slo_s, runs)


async def alone(server: Server, load: Load) -> float:
    """Seconds from sending one frame of four steps to its answer on an idle server: median of seven."""
    arrived = asyncio.Event()
    socket = await connect(server.port, server.path, lambda opcode, data: arrived.set())
    took = []
    for seed in range(9):
        start = time.monotonic()
        socket.send(payload(load, Frame(0, seed, 0.0, prompt=f"a red circle {seed}", seed=6 * seed)))
        await asyncio.wait_for(arrived.wait(), 30)
        arrived.clear()
        took.append(time.monotonic() - start)
    await socket.close()
    return statistics.median(took[2:])


async def saturated(server: Server, load: Load, seconds: float, tick: Tick) -> float:
    """Images per second when every session has three frames in flight, and sends one for each answered."""
    count = 0
    open_: list[Socket] = []

    def receiver(session: int) -> Callable[[int, bytes], None]:
        sent = 0

        def receive(opcode: int, data: bytes) -> None:
            nonlocal count, sent
            count, sent = count + 1, sent + 1
            open_[session].send(payload(load, Frame(session, sent, 0.0, prompt="a red circle", seed=sent)))

        return receive

    for session in range(load.sessions):
        # 60 may wait: newest-wins must not eat what keeps the engine full
        open_.append(await connect(server.port, f"{server.path}?max_buffering=60", receiver(session)))
    for session, socket in enumerate(open_):
        for seed in range(3):
            socket.send(payload(load, Frame(session, 0, 0.0, prompt="a red circle", seed=seed)))
    with uncollected():
        for at in range(round(seconds)):
            if at == 2:  # the first two seconds warm caches and teach the scheduler its costs
                count, start = 0, time.monotonic()
            tick("capacity", at / seconds)
            await asyncio.sleep(1)
        per_s = count / (time.monotonic() - start)
    for socket in open_:
        await socket.close()
    return per_s


def _table(one: Comparison) -> Table:
    columns = ["", "offered/s", "made/s", "in time/s", "of made", "p50 ms", "p95 ms", "mean batch", "Jain"]
    rows = []
    for (policy, multiple), (summed, _) in one.runs.items():
        rows.append([f"{policy}, {multiple:g}x", summed["offered_per_s"], summed["images_per_s"]])
        rows[-1] += [summed["goodput_per_s"], f"{100 * summed['in_time_share']:.0f} %"]
        rows[-1] += [summed["latency"]["p50_ms"], summed["latency"]["p95_ms"]]
        rows[-1] += [summed["mean_batch"], summed["jain"]]
    return Table(
        f"{SESSIONS} sessions on {one.name}, {SIDE} px, one thread; capacity {one.capacity:.1f} images/s",
        columns,
        rows,
        f"SLO {one.slo_s * 1e3:.0f} ms from the intended send time to the last byte: {SLO_S * 1e3:g} ms, or "
        f"{SLO_ALONE}x one frame alone ({one.alone_s * 1e3:.0f} ms here) on a slower machine. Poisson "
        f"arrivals; steps from {STEPS}. Capacity: what this server answers when each session always "
        f"has three frames in flight. The engine's deadline is {TARGET:g} of the SLO. Frames not made "
        "were superseded by newer ones (ours) or still waiting when the run ended (FIFO).",
    )


def _plots(real: Comparison, timed: Comparison) -> list[Plot]:
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for (policy, _), (summed, _) in timed.runs.items():
        xs, ys = lines.setdefault(policy, ([], []))
        xs.append(summed["offered_per_s"])
        ys.append(summed["goodput_per_s"])
    latencies = {
        policy: cdf([frame.latency for frame in taken if frame.answered and not frame.warm])
        for (policy, multiple), (_, taken) in real.runs.items()
        if multiple == 2.0
    }
    latencies["the SLO"] = ([real.slo_s * 1e3] * 2, [0.0, 1.0])
    offered, in_time = "frames offered/s", f"in {timed.slo_s:.2f} s, per s"
    return [
        Plot("goodput", f"Goodput against offered load, {timed.name}", offered, in_time, lines),
        Plot(
            "goodput-latency", f"Latency at 2x, {real.name}", "milliseconds", "share at or under", latencies
        ),
    ]
