"""The gateway by itself: what it adds to a frame, what a socket and a flood cost, fal's SDK beside it.

The engine is the fake one throughout (a timing model, no torch), so everything measured here is ours.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from bench.client import BINARY, Socket, connect
from bench.conditions import after, conditions
from bench.figures import Frame, summary
from bench.load import Load, offer, one_picture, run, stage_times, uncollected, wrong
from bench.memory import MiB, flood, idle
from bench.report import Bar, Plot, Result, Table, cdf
from bench.server import Server, fal_sdk, ours

Tick = Callable[[str, float], None]

# One frame alone takes four calls of 5 ms. Every call has 64 places and costs the same however many are
# taken: 1,000 frames a second of 20 ms each are 20 at a time, more than a real engine's 16 places, and the
# end of the device is not what is looked for here.
TWENTY_MS = "fake:base_ms=5,row_ms=0,vae_ms=0,places=64"
ZERO_MS = "fake:base_ms=0,row_ms=0,vae_ms=0"
CLOSED_LOOP = {
    "prompt": "a red circle",
    "seed": 1,
    "image_size": {"width": 128, "height": 128},
    "request_id": "x",
}
FAL, ALONE, WHOLE = "fal SDK", "ours, no-op in the gateway", "ours, engine process"


def figures(quick: bool, tick: Tick) -> Result:
    """`python -m bench gateway`."""
    given = conditions()
    seconds = 4.0 if quick else 12.0
    with ours(TWENTY_MS) as server:
        added = {
            arrivals: added_latency(server, arrivals, seconds, tick) for arrivals in ("regular", "poisson")
        }
    with ours(TWENTY_MS) as server:
        sockets = {"ours": run(idle(server, 500 if quick else 2000, tick))}
    size, limit_s = (30 if quick else 300) * MiB, 10 if quick else 30
    floods = {}
    for reads in (True, False):
        with ours(TWENTY_MS) as server:
            floods[WHOLE, reads] = flood(server, size, limit_s, reads, tick)
    with ours(ZERO_MS) as server:
        picture = run(one_picture(server))
    for reads in (True, False):
        with fal_sdk(picture, 0.02) as server:
            floods[FAL, reads] = flood(server, size, limit_s, reads, tick)
    turn_s, turns = (0.5, 2) if quick else (1.0, 5)
    with ours(ZERO_MS) as whole, ours(ZERO_MS, entry="bench.noop") as alone, fal_sdk(picture) as fal:
        noop = side_by_side({FAL: fal, ALONE: alone, WHOLE: whole}, turn_s, turns, tick)
        sockets[FAL] = run(idle(fal, 500 if quick else 2000, tick))
    with ours(TWENTY_MS) as whole, fal_sdk(picture, 0.02) as fal:
        drawing = side_by_side({FAL: fal, WHOLE: whole}, turn_s, 2, tick, steps=4)
    return Result(
        "gateway",
        after(given),
        _bars(added["regular"], sockets["ours"], floods, noop),
        [
            *(_latency_table(one) for one in added.values()),
            *_memory_tables(sockets, floods),
            *_closed_tables(noop, drawing),
        ],
        [
            Plot(
                "gateway",
                "200 sessions at 5 Hz, 20 ms frames: added latency",
                "milliseconds",
                "share of frames at or under",
                {
                    f"{arrivals} arrivals": cdf([frame.latency - frame.engine for frame in one.answered])
                    for arrivals, one in added.items()
                },
            )
        ],
        {
            "added": {arrivals: one.summary | {"stages": one.stages} for arrivals, one in added.items()},
            "idle": sockets,
            "flood": {
                f"{name}, {'reads' if reads else 'does not read'}": cost
                for (name, reads), cost in floods.items()
            },
            "closed_loop": {"no-op": noop, "20 ms": drawing},
        },
    )


# ---- added latency ----


@dataclass(frozen=True)
class Added:
    load: Load
    summary: dict[str, Any]
    stages: dict[str, dict[str, float]]  # by the server's own clock
    answered: list[Frame]  # of the measured time


def added_latency(server: Server, arrivals: str, seconds: float, tick: Tick) -> Added:
    """200 sessions at 5 Hz. A frame's latency less the time its own calls took is what the rest added."""
    # Four pictures a session: the fake engine keeps their files, so that JPEG is not what is measured, and
    # an answer that went astray still has the wrong colour.
    load = Load(sessions=200, rate_hz=5, seconds=seconds, arrivals=arrivals, slo_s=0.05, pictures=4)
    taken = run(offer(load, server.port, lambda share: tick(f"200 sessions at 5 Hz, {arrivals}", share)))
    summed = summary(taken, sessions=load.sessions, seconds=load.seconds, slo_s=load.slo_s)
    answered = [frame for frame in taken if frame.answered and not frame.warm]
    return Added(load, summed | {"wrong_pictures": wrong(taken)}, stage_times(taken), answered)


# ---- closed loop, side by side ----


async def closed_loop(
    server: Server, sockets: int, seconds: float, steps: int = 1
) -> tuple[int, dict[str, float]]:
    """Frames answered in `seconds` when every socket sends its next frame on the answer to the last.

    Also CPU seconds by process: under other load the machine's clock lies, its CPU accounting does not.
    """
    request = msgpack.packb(CLOSED_LOOP | {"num_inference_steps": steps})
    count, going = 0, True
    open_: list[Socket] = []

    def receiver(index: int) -> Callable[[int, bytes], None]:
        def receive(opcode: int, data: bytes) -> None:
            nonlocal count
            if opcode != BINARY:
                raise ValueError(f"the server answered {data[:200]!r}")
            count += 1
            if going:
                open_[index].send(request)

        return receive

    for index in range(sockets):
        open_.append(await connect(server.port, server.path, receiver(index)))
    with uncollected():
        for one in open_:
            one.send(request)
        await asyncio.sleep(0.2)
        count, before, start = 0, server.cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        took, answered, spent = time.monotonic() - start, count, server.cpu_s()
        going = False
    for one in open_:
        await one.close()
    return round(answered / took * seconds), {name: spent[name] - before[name] for name in spent}


def side_by_side(
    peers: dict[str, Server], seconds: float, rounds: int, tick: Tick, steps: int = 1
) -> list[dict[str, Any]]:
    """Every peer at 1, 8 and 64 sockets, in turn, `rounds` times: noise of the machine hits all alike."""
    rows = []
    for sockets in (1, 8, 64):
        taken: dict[str, list[tuple[int, dict[str, float]]]] = {name: [] for name in peers}
        for turn in range(rounds):
            for name, server in peers.items():
                tick(f"closed loop, {sockets} sockets, {name}", turn / rounds)
                taken[name].append(run(closed_loop(server, sockets, seconds, steps)))
        for name, runs in taken.items():
            cpu_ms = {
                process: statistics.median(spent[process] / max(1, n) * 1e3 for n, spent in runs)
                for process in runs[0][1]
            }
            per_s = [n / seconds for n, _ in runs]
            rows.append({"sockets": sockets, "server": name, "frames_per_s": statistics.median(per_s)})
            rows[-1] |= {"runs": per_s, "cpu_ms": cpu_ms}
    return rows


# ---- the report ----


def _bars(added: Added, sockets: dict[str, float], floods: Any, noop: list[Any]) -> list[Bar]:
    frames = added.summary["frames"]
    bars = [
        Bar("added latency p99, 200 sessions at 5 Hz, regular", added.summary["added"]["p99_ms"], 10.0, "ms"),
        Bar("errors", sum(frames["errors"].values()), 0, "frames"),
        Bar("out of order", frames["out_of_order"], 0, "frames"),
        Bar("wrong pictures", added.summary["wrong_pictures"], 0, "frames"),
        Bar(f"memory per idle socket, of {sockets['sockets']:,}", sockets["connected_kib"], 40.0, "KiB"),
        Bar("flood, client reads: gateway grows by", floods[WHOLE, True]["grown_mib"], 10.0, "MiB"),
        Bar("flood, client does not read: gateway grows by", floods[WHOLE, False]["grown_mib"], 10.0, "MiB"),
    ]
    rate = {(row["sockets"], row["server"]): row["frames_per_s"] for row in noop}
    for name in (ALONE, WHOLE):
        for count in (1, 8, 64):
            ratio = rate[count, name] / rate[count, FAL]
            bars.append(Bar(f"no-op frames/s to fal's SDK, {count} sockets, {name}", ratio, 1.0, "x", True))
    return bars


def _latency_table(added: Added) -> Table:
    load, summed = added.load, added.summary
    frames = summed["frames"]
    spreads = {
        "latency from the intended send time": summed["latency"],
        "added: latency - timings.inference": summed["added"],
        "inference (calls and decode)": summed["engine"],
        "the generator's own lag, in both of the first": summed["generator_lag"],
        **{f"server says: {name}": spread for name, spread in added.stages.items() if spread["max_ms"]},
    }
    return Table(
        f"{load.sessions} sessions x {load.rate_hz:g} Hz, {load.arrivals} arrivals, 20 ms a frame; ms",
        ["", "p50", "p95", "p99", "max"],
        [[name, *spread.values()] for name, spread in spreads.items()],
        f"{frames['offered']:,} frames in {load.seconds:g} s: {frames['answered']:,} answered, "
        f"{frames['superseded']:,} superseded, {sum(frames['errors'].values())} errors, "
        f"{frames['out_of_order']} out of order, {summed['wrong_pictures']} wrong pictures; "
        f"{summed['images_per_s']:g} images/s, mean batch {summed['mean_batch']}, Jain {summed['jain']}. "
        "`queue` holds the wait for the next step boundary, up to one call of 5 ms; with Poisson arrivals "
        "also a session's wait for its own frame before, which one in eight meets.",
    )


def _memory_tables(sockets: Any, floods: Any) -> list[Table]:
    keys = ("sent_mib", "seconds", "before_mib", "grown_mib")
    return [
        Table(
            "Memory of the gateway process, KiB a socket",
            ["server", "sockets", "connected", "after one answered frame each"],
            [
                [name, cost["sockets"], cost["connected_kib"], cost["used_kib"]]
                for name, cost in sockets.items()
            ],
        ),
        Table(
            "Flood by one client: valid image-to-image frames of 42 KB as fast as the socket takes them",
            ["server (20 ms a frame)", "client", "MiB taken", "seconds", "RSS before, MiB", "grown by, MiB"],
            [
                [name, "reads" if reads else "does not read", *(cost[key] for key in keys)]
                for (name, reads), cost in floods.items()
            ],
            "fal's SDK with its default `buffering=None`; with `buffering=n` it keeps n.",
        ),
    ]


def _closed_tables(noop: list[dict[str, Any]], drawing: list[dict[str, Any]]) -> list[Table]:
    def rows(measured: list[dict[str, Any]]) -> list[list[Any]]:
        said = []
        for row in measured:
            cpu_ms = row["cpu_ms"]
            said.append([row["server"], row["sockets"], row["frames_per_s"], cpu_ms["gateway"]])
            said[-1].append(cpu_ms.get("engine"))
        return said

    columns = ["server", "sockets", "frames/s", "CPU ms a frame: gateway", "engine"]
    return [
        Table(
            "Closed loop, one frame in flight per socket, an app that does nothing",
            columns,
            rows(noop),
            "The same request, picture bytes, uvicorn, websockets and uvloop on both sides; median of "
            "turns taken alternately, the client on the same cores. fal's SDK validates nine inputs, "
            "calls an async function and packs its dict. Ours validates all documented inputs, plans a "
            "job, keeps order, deadline and newest-wins per session, counts and times; with an engine "
            "process every frame also crosses a process border twice and a scheduler, and its JPEG is "
            "written by a thread pool.",
        ),
        Table("The same with 20 ms of drawing a frame", columns, rows(drawing)),
    ]
