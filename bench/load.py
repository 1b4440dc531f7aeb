"""Open-loop load over the real wire: many sessions offer frames whether or not the server keeps up.

Arrivals are drawn before the run from a seed, and latency counts from the drawn time, so a slow server
cannot slow the generator down and look fast (coordinated omission). Answers are only stamped while the
clock runs; they are decoded, matched by `request_id` and checked afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack

from bench.client import TEXT, Socket, connect
from bench.figures import Frame, summary

T = TypeVar("T")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")


@dataclass(frozen=True)
class Load:
    """What is offered. `rate_hz` is per session."""

    sessions: int = 8
    rate_hz: float = 5.0
    seconds: float = 10.0  # measured
    warm_s: float = 2.0  # offered before that, not measured
    arrivals: str = "poisson"  # poisson | regular (each session with its own phase)
    seed: int = 0
    slo_s: float = 0.25
    path: str = "/fal-ai/lcm/realtime"
    steps: tuple[int, ...] = (4,)  # drawn per frame
    size: int = 128  # pixels, square
    buffering: int | None = None  # max_buffering of the connection; None = the server's default

    @property
    def url(self) -> str:
        return self.path + (f"?max_buffering={self.buffering}" if self.buffering else "")


def times(load: Load, rng: random.Random) -> Iterator[float]:
    """When one session's frames are due, seconds from the start of the warm-up."""
    period = 1.0 / load.rate_hz
    poisson = load.arrivals == "poisson"
    at = rng.expovariate(load.rate_hz) if poisson else rng.uniform(0.0, period)
    while at < load.warm_s + load.seconds:
        yield at
        at += rng.expovariate(load.rate_hz) if poisson else period


def frames(load: Load) -> list[Frame]:
    """Every frame of the run in order of `due`, counted from 0. The same load is the same frames."""
    planned = []
    for session in range(load.sessions):
        rng = random.Random(f"{load.seed}/{session}")
        for number, due in enumerate(times(load, rng)):
            prompt = f"a {rng.choice(COLOURS)} circle, {session}/{number}"
            planned.append(Frame(session, number, due, prompt=prompt, seed=rng.randrange(2**31)))
    return sorted(planned, key=lambda frame: frame.due)


def payload(load: Load, frame: Frame) -> bytes:
    """The request as @fal-ai/client sends it: one msgpack map."""
    request: bytes = msgpack.packb(
        {
            "prompt": frame.prompt,
            "seed": frame.seed,
            "num_inference_steps": load.steps[frame.seed % len(load.steps)],
            "image_size": {"width": load.size, "height": load.size},
            "sync_mode": True,
            "request_id": f"{frame.session}/{frame.number}",
        }
    )
    return request


async def offer(load: Load, port: int, tick: Callable[[float], None] = lambda share: None) -> list[Frame]:
    """Run the load against 127.0.0.1:`port`; the frames with what became of them, `due` on the monotonic clock.

    tick(share of the run done) is called a few times a second.
    """
    planned = frames(load)
    stamped: list[tuple[float, int, int, bytes]] = []  # (arrived, session, opcode, payload)

    def receiver(session: int) -> Callable[[int, bytes], None]:
        return lambda opcode, data: stamped.append((time.monotonic(), session, opcode, data))

    sockets = [await connect(port, load.url, receiver(session)) for session in range(load.sessions)]
    with uncollected():
        start = time.monotonic() + 0.05
        for frame in planned:
            frame.due += start
        ticker = asyncio.create_task(_tick(tick, start, load.warm_s + load.seconds))
        await _send(load, planned, sockets)
        ticker.cancel()
        await _quiet(stamped, at_least_s=max(1.0, load.slo_s), at_most_s=max(5.0, 4 * load.slo_s))
    for session, socket in enumerate(sockets):
        code = await socket.close()
        if code not in (1000, 1005):
            stamped.append(
                (time.monotonic(), session, TEXT, json.dumps({"error": f"closed {code}"}).encode())
            )
    _match(planned, stamped)
    return [frame for frame in planned if frame.due >= start + load.warm_s]


async def _send(load: Load, planned: list[Frame], sockets: list[Socket]) -> None:
    for frame in planned:
        data = payload(load, frame)
        while (wait := frame.due - time.monotonic()) > 0:  # uvloop's timers round to a millisecond
            await asyncio.sleep(wait)
        socket = sockets[frame.session]
        if not socket.closed.done():
            frame.sent = time.monotonic()
            socket.send(data)
        if wait < -0.001:  # late: let answers be stamped before the next one leaves
            await asyncio.sleep(0)


async def _tick(tick: Callable[[float], None], start: float, seconds: float) -> None:
    while True:
        await asyncio.sleep(0.5)
        tick(min(1.0, (time.monotonic() - start) / seconds))


async def _quiet(stamped: list[Any], *, at_least_s: float, at_most_s: float) -> None:
    """Until nothing has arrived for `at_least_s`: frames still queued in the server belong to the run."""
    end = time.monotonic() + at_most_s
    seen = -1
    while seen != len(stamped) and time.monotonic() < end:
        seen = len(stamped)
        await asyncio.sleep(at_least_s)


def _match(planned: list[Frame], stamped: list[tuple[float, int, int, bytes]]) -> None:
    waiting = {f"{frame.session}/{frame.number}": frame for frame in planned}
    for arrived, session, opcode, data in stamped:
        answer = json.loads(data) if opcode == TEXT else msgpack.unpackb(data)
        if answer.get("type") == "x-fal-message":
            continue
        frame = waiting.pop(answer.get("request_id", ""), None)
        if frame is None:  # an error without a request: charge it to the session's oldest open frame
            key = next((key for key, open_ in waiting.items() if open_.session == session), None)
            if key is None:
                continue
            frame = waiting.pop(key)
        fill(frame, arrived, answer)


def fill(frame: Frame, arrived: float, answer: dict[str, Any]) -> None:
    """What one answer says about its frame."""
    frame.arrived = arrived
    if "error" in answer:
        frame.error = str(answer["error"])
        return
    timings = answer.get("timings", {})
    steps = timings.get("steps") or []
    frame.batch = sum(step["batch"] for step in steps) / len(steps) if steps else math.nan
    frame.engine = timings.get("inference", math.nan)
    image = answer["images"][0]
    frame.data = image.get("content") or base64.b64decode(image["url"].partition(",")[2])


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while the clock runs: a pause here would be charged to the server."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measure(load: Load, port: int, tick: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """Run the load and sum it up."""
    taken = run(offer(load, port, tick))
    return summary(taken, sessions=load.sessions, seconds=load.seconds, slo_s=load.slo_s)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """On uvloop where there is one: the generator's own cost is halved."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(coroutine)
