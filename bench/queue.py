"""The queue: what a submit and a poll cost beside the least that could be one, and what live frames notice.

The peer inserts the same body into one SQLite table with the same promise (a flushed WAL) and does nothing
else. Ours does, in the same request, what a queue is made of: keys, tenants, limits, priorities, positions.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from bench.conditions import after, conditions
from bench.figures import Frame, percentile, spread, summary
from bench.load import Load, offer, run, uncollected
from bench.report import Bar, Plot, Result, Table, cdf
from bench.server import Server, bare_queue, ours

Tick = Callable[[str, float], None]

BARE, OURS = "Starlette and SQLite alone", "ours"
APP = "/fal-ai/lcm"
QUEUE = "/__h/queue.fal.run"
# Four seconds a picture: the engine sleeps, and the queue only grows.
ASLEEP = "fake:base_ms=1000,row_ms=0,vae_ms=0"
# A small model on two cores, four steps of 12 ms and 3 ms for each row of a call.
DRAWING = "fake:base_ms=12,row_ms=3,vae_ms=3"
ASK = {
    "prompt": "a red circle on a table, a photograph by daylight",
    "image_size": {"width": 128, "height": 128},
    "num_inference_steps": 4,
    "sync_mode": True,
}
WAITING = 500  # requests in a full queue when live frames begin; more than are drawn meanwhile
LIMITS = {"queue_max": 1_000_000, "key_queued": 0, "queue_at_once": 4}


def figures(quick: bool, tick: Tick) -> Result:
    """`python -m bench queue`."""
    given = conditions()
    seconds, turns = (0.7, 2) if quick else (1.5, 3)
    with ours(ASLEEP, **LIMITS) as server, bare_queue() as bare:
        peers = {OURS: Peer(server, QUEUE), BARE: Peer(bare, "")}
        submits = side_by_side(peers, "submit", (1, 8, 64), seconds, turns, tick)
        polls = side_by_side(peers, "poll", (8, 64), seconds, turns, tick)
        waiting = run(depth(server))
    live = live_frames(4.0 if quick else 12.0, 2 if quick else 3, tick)
    return Result(
        "queue",
        after(given),
        _bars(live),
        [
            _closed_table("Submits, each on the answer to the last", submits),
            _closed_table(f"Polls of the status, {waiting:,} requests waiting at the end", polls),
            _live_table(live),
        ],
        [
            Plot(
                "queue",
                "Live frames while the queue is empty and while it is full",
                "milliseconds",
                "share of frames at or under",
                {state: cdf([frame.latency for frame in one.answered]) for state, one in live.items()},
            )
        ],
        {
            "submit": submits,
            "poll": polls,
            "live": {state: one.summary | {"queued_done": one.queued} for state, one in live.items()},
        },
    )


# ---- submits and polls ----


@dataclass(frozen=True)
class Peer:
    server: Server
    prefix: str


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request in flight, kept alive: a client that costs little beside the server it measures.

    `answered(status, body)` is called for each answer and sends the next request.
    """

    def __init__(self, answered: Callable[[Connection, int, bytes], None]) -> None:
        self._answered = answered
        self._buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, method: str, path: str, body: bytes = b"") -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) >= length:
            self._buffer = rest[length:]
            self._answered(self, int(head[9:12]), rest[:length])


@dataclass
class Turn:
    """One peer for some seconds."""

    count: int
    seconds: float
    took: list[float]  # of each answer, seconds


async def turn(peer: Peer, what: str, connections: int, seconds: float, ids: list[str]) -> Turn:
    """Every connection asks again when it is answered. `ids`: of requests, added to and polled."""
    took: list[float] = []
    began: dict[Connection, float] = {}
    chosen = random.Random(connections)
    going = True

    def ask(connection: Connection) -> None:
        began[connection] = time.monotonic()
        if what == "submit":
            # No two are equal, as with people.
            body = json.dumps(ASK | {"seed": chosen.getrandbits(40)}).encode()
            connection.send("POST", peer.prefix + APP, body)
        else:
            connection.send("GET", f"{peer.prefix}{APP}/requests/{chosen.choice(ids)}/status?logs=0")

    def answered(connection: Connection, status: int, body: bytes) -> None:
        took.append(time.monotonic() - began[connection])
        if status not in (200, 202):
            raise ValueError(f"{status} {body[:200]!r}")
        if what == "submit":
            ids.append(json.loads(body)["request_id"])
        if going:
            ask(connection)

    loop = asyncio.get_running_loop()
    open_ = [
        (await loop.create_connection(lambda: Connection(answered), "127.0.0.1", peer.server.port))[1]
        for _ in range(connections)
    ]
    with uncollected():
        for connection in open_:
            ask(connection)
        await asyncio.sleep(0.2)
        took.clear()
        start = time.monotonic()
        await asyncio.sleep(seconds)
        measured, spent = len(took), time.monotonic() - start
        going = False
        await asyncio.sleep(0.1)
    for connection in open_:
        connection.transport.close()
    return Turn(measured, spent, took[:measured])


def side_by_side(
    peers: dict[str, Peer], what: str, counts: tuple[int, ...], seconds: float, turns: int, tick: Tick
) -> list[dict[str, Any]]:
    """Both in turn: the machine's noise, and its disk's, hits both alike."""
    rows = []
    for connections in counts:
        taken: dict[str, list[Turn]] = {name: [] for name in peers}
        for number, (name, peer) in itertools.product(range(turns), peers.items()):
            tick(f"{what}, {connections} connections, {name}", number / turns)
            ids = IDS.setdefault(name, [])
            taken[name].append(run(turn(peer, what, connections, seconds, ids)))
        for name, runs in taken.items():
            rows.append(
                {
                    "connections": connections,
                    "server": name,
                    "per_s": statistics.median(one.count / one.seconds for one in runs),
                    "p50_ms": statistics.median(percentile(one.took, 0.50) * 1e3 for one in runs),
                    "p95_ms": statistics.median(percentile(one.took, 0.95) * 1e3 for one in runs),
                }
            )
    return rows


IDS: dict[str, list[str]] = {}  # of requests each server has accepted


async def depth(server: Server) -> int:
    """How many wait in our queue."""
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def answered(connection: Connection, status: int, body: bytes) -> None:
        answer.set_result(int(json.loads(body)["queue_position"]))
        connection.transport.close()

    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", server.port)
    connection.send("POST", QUEUE + APP, json.dumps(ASK).encode())
    return await asyncio.wait_for(answer, 20)


# ---- live frames meanwhile ----


@dataclass(frozen=True)
class Live:
    summary: dict[str, Any]
    answered: list[Frame]
    queued: int  # requests of the queue that were drawn meanwhile


def live_frames(seconds: float, turns: int, tick: Tick) -> dict[str, Live]:
    """The same frames, in turn with an empty and with a full queue, on one server each."""
    load = Load(sessions=10, rate_hz=2, seconds=seconds, arrivals="poisson", slo_s=0.5)
    taken: dict[str, list[Frame]] = {"empty": [], "full": []}
    drawn = {"empty": 0, "full": 0}
    with ours(DRAWING, **LIMITS) as empty, ours(DRAWING, **LIMITS) as full:
        servers = {"empty": empty, "full": full}
        for number, (state, server) in itertools.product(range(turns), servers.items()):
            before = run(filled(server, WAITING)) if state == "full" else 0
            frames = run(
                offer(
                    load, server.port, lambda share, state=state: tick(f"live frames, queue {state}", share)
                )
            )
            # Numbered on from turn to turn: their order is looked at.
            later = number * len(frames)
            taken[state] += [
                replace(frame, number=frame.number + later) for frame in frames if not frame.warm
            ]
            if state == "full":
                drawn[state] += before - run(depth(server))
    return {
        state: Live(
            summary(frames, sessions=load.sessions, seconds=seconds * turns, slo_s=load.slo_s),
            [frame for frame in frames if frame.answered],
            drawn[state],
        )
        for state, frames in taken.items()
    }


async def filled(server: Server, count: int) -> int:
    """Queue what is missing to so many; how many wait then, for some are drawn on the way."""
    await fill(server, max(0, count - await depth(server)))
    return await depth(server)


async def fill(server: Server, count: int) -> None:
    """Queue so many requests."""
    left = count
    done = asyncio.Event()
    seeds: Iterator[int] = itertools.count(int(time.time() * 1e6))

    def ask(connection: Connection) -> None:
        nonlocal left
        left -= 1
        connection.send("POST", QUEUE + APP, json.dumps(ASK | {"seed": next(seeds)}).encode())

    def answered(connection: Connection, status: int, body: bytes) -> None:
        if status != 200:
            raise ValueError(f"{status} {body[:200]!r}")
        if left > 0:
            ask(connection)
        else:
            done.set()

    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(min(16, count)):
        _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", server.port)
        connections.append(connection)
        ask(connection)
    if connections:
        await asyncio.wait_for(done.wait(), 60)
        await asyncio.sleep(0.2)
    for connection in connections:
        connection.transport.close()


# ---- the report ----


def _bars(live: dict[str, Live]) -> list[Bar]:
    empty, full = (live[state].summary["latency"]["p99_ms"] for state in ("empty", "full"))
    errors = sum(sum(one.summary["frames"]["errors"].values()) for one in live.values())
    return [
        Bar("live p99, queue full to queue empty", full / empty, 1.1, "x"),
        Bar("errors of live frames", errors, 0, "frames"),
        Bar("queued requests drawn meanwhile", live["full"].queued, 1, "requests", True),
    ]


def _closed_table(title: str, rows: list[dict[str, Any]]) -> Table:
    said: list[list[Any]] = []
    for mine, bare in zip(rows[::2], rows[1::2], strict=True):
        measures = ("per_s", "p50_ms", "p95_ms")
        said += [
            [row["server"], row["connections"], *(round(row[key], 2) for key in measures)]
            for row in (mine, bare)
        ]
        said.append(["ratio", mine["connections"], *(round(mine[key] / bare[key], 2) for key in measures)])
    return Table(
        title,
        ["server", "connections", "per second", "p50 ms", "p95 ms"],
        said,
        "Closed loop, medians of turns taken alternately; the client shares the cores. Both flush the disk "
        "before they answer a submit: one flush each there, one for all that wait here.",
    )


def _live_table(live: dict[str, Live]) -> Table:
    return Table(
        "Live frames, 10 sessions x 2 Hz, four calls of 12 ms + 3 ms a row; ms from the intended send time",
        ["queue", "p50", "p95", "p99", "max", "answered", "superseded", "queued drawn"],
        [
            [
                state,
                *spread([frame.latency for frame in one.answered]).values(),
                one.summary["frames"]["answered"],
                one.summary["frames"]["superseded"],
                one.queued,
            ]
            for state, one in live.items()
        ],
        f"At the start of each turn {WAITING} requests of the same size wait, four of them with the engine "
        "at any time; in the end many still do.",
    )
