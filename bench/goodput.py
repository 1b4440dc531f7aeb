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
STEPS = (4, 4, 4, 4, 2, 8)  # mostly the default, some previews, some careful ones
Tick = Callable[[str, float], None]


def figures(quick: bool, tick: Tick) -> Result:
    """`python -m bench goodput`."""
    given = conditions()
    from engines.embedded import WEIGHTS

    trained = (WEIGHTS / "model_index.json").is_file()
    model = "embedded" if trained else str(random_model(ROOT / "build" / "random-model"))
    base = Load(sessions=SESSIONS, seconds=6 if quick else 15, warm_s=3, steps=STEPS, size=SIDE)
    runs: dict[str, tuple[dict[str, Any], list[Frame]]] = {}
    with ours(model) as server:
        alone_s = run(alone(server, base))
        capacity = run(saturated(server, base, 4 if quick else 8, tick))
    slo_s = max(SLO_S, SLO_ALONE * alone_s)
    base = dataclasses.replace(base, slo_s=slo_s)
    with ours(model, target_s=slo_s) as server:
        offered = (2.0,) if quick else (0.5, 1.0, 2.0)
        for factor in offered:
            runs[f"ours, {factor:g}x"] = _at(server, base, factor * capacity, None, tick)
    with ours(model, target_s=3600) as server:
        for factor in offered:
            runs[f"FIFO, {factor:g}x"] = _at(server, base, factor * capacity, 60, tick)
    name = "the embedded model" if trained else "random weights (10.9 M UNet)"
    kept = runs["ours, 2x"][0]["in_time_share"]
    return Result(
        "goodput",
        after(given),
        [Bar("pictures made that arrive inside the SLO, 2x capacity", 100 * kept, 85.0, "%", True)],
        [
            Table(
                f"{SESSIONS} sessions on {name}, {SIDE} px, one thread; capacity {capacity:.1f} images/s",
                [
                    "",
                    "offered/s",
                    "made/s",
                    "in time/s",
                    "of made in time",
                    "p50 ms",
                    "p95 ms",
                    "mean batch",
                    "Jain",
                ],
                [_row(name, figures) for name, (figures, _) in runs.items()],
                f"SLO {slo_s * 1e3:.0f} ms from the intended send time to the last byte: {SLO_S * 1e3:g} ms, "
                f"or {SLO_ALONE}x one frame alone ({alone_s * 1e3:.0f} ms here) on a slower machine. "
                f"Poisson arrivals; steps from {STEPS}. Capacity: what this server answers when "
                "each session always has three frames in flight. Frames not made were superseded by "
                "newer ones (ours) or still waiting when the run ended (FIFO).",
            )
        ],
        _plots(runs, slo_s),
        {"capacity_per_s": capacity, "alone_s": alone_s}
        | {name: figures for name, (figures, _) in runs.items()},
    )


def _at(
    server: Server, base: Load, total_hz: float, buffering: int | None, tick: Tick
) -> tuple[dict[str, Any], list[Frame]]:
    load = dataclasses.replace(base, rate_hz=total_hz / base.sessions, buffering=buffering)
    what = f"{total_hz:.0f} frames/s, {'FIFO' if buffering else 'ours'}"
    taken = run(offer(load, server.port, lambda share: tick(what, share)))
    return summary(taken, sessions=load.sessions, seconds=load.seconds, slo_s=load.slo_s), taken


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


def _row(name: str, figures: dict[str, Any]) -> list[Any]:
    return [
        name,
        figures["offered_per_s"],
        figures["images_per_s"],
        figures["goodput_per_s"],
        f"{100 * figures['in_time_share']:.0f} %",
        figures["latency"]["p50_ms"],
        figures["latency"]["p95_ms"],
        figures["mean_batch"],
        figures["jain"],
    ]


def _plots(runs: dict[str, tuple[dict[str, Any], list[Frame]]], slo_s: float) -> list[Plot]:
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for name, (figures, _) in runs.items():
        xs, ys = lines.setdefault(name.split(",")[0], ([], []))
        xs.append(figures["offered_per_s"])
        ys.append(figures["goodput_per_s"])
    latencies = {
        name: cdf([frame.latency for frame in taken if frame.answered])
        for name, (_, taken) in runs.items()
        if name.endswith("2x")
    }
    latencies["the SLO"] = ([slo_s * 1e3] * 2, [0.0, 1.0])
    return [
        Plot("goodput", "Goodput against offered load", "frames offered/s", f"in {slo_s:g} s, per s", lines),
        Plot("goodput-latency", "Latency at 2x capacity", "milliseconds", "share at or under", latencies),
    ]
