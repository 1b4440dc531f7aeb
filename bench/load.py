"""Open-loop load over the real wire: many sessions offer frames whether or not the server keeps up.

Arrivals are drawn before the run from a seed, and latency counts from the drawn time, so a slow server
cannot slow the generator down and look fast (coordinated omission). Answers are only stamped while the
clock runs; they are decoded, matched by `request_id` and checked afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack
from PIL import Image

from bench.client import TEXT, Socket, connect
from bench.conditions import after, conditions
from bench.drawings import drawing
from bench.figures import Frame, spread, summary
from bench.report import Result, Table
from bench.server import Server, ours
from engines.fake import colour_of

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
    pictures: int = 0  # different ones per session, over and over; 0 = every frame is new
    drawn: bool = False  # every frame brings a new drawing, as a canvas does
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
            which = number % load.pictures if load.pictures else number
            prompt = f"a {COLOURS[which % len(COLOURS)]} circle, {session}/{which}"
            planned.append(Frame(session, number, due, due < load.warm_s, prompt=prompt, seed=which))
    return sorted(planned, key=lambda frame: frame.due)


def payload(load: Load, frame: Frame) -> bytes:
    """The request as @fal-ai/client sends it: one msgpack map."""
    picture = {}
    if load.drawn:
        file = base64.b64encode(drawing(load.size, frame.session, frame.number)).decode()
        picture = {"image_url": f"data:image/jpeg;base64,{file}", "strength": 0.7}
    request: bytes = msgpack.packb(
        picture
        | {
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
    """Run the load against 127.0.0.1:`port`; the frames with what became of them.

    `due` becomes a time of the monotonic clock. tick(share of the run done) is called a few times a second.
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
        await _quiet(stamped, at_least_s=min(max(1.0, load.slo_s), 3.0), at_most_s=6.0)
    for session, socket in enumerate(sockets):
        code = await socket.close()
        if code not in (1000, 1005):
            lost = json.dumps({"error": f"closed {code}"}).encode()
            stamped.append((time.monotonic(), session, TEXT, lost))
    _match(planned, stamped)
    return planned


async def _send(load: Load, planned: list[Frame], sockets: list[Socket]) -> None:
    for frame in planned:
        data = payload(load, frame)
        while (wait := frame.due - time.monotonic()) > 0:  # noqa: ASYNC110 (uvloop rounds to 1 ms)
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
    frame.timings = timings
    image = answer["images"][0]
    frame.data = image.get("content") or base64.b64decode(image["url"].partition(",")[2])


def wrong(taken: list[Frame]) -> int:
    """How many pictures of the fake engine are not the one that was asked for."""
    bad = 0
    for frame in taken:
        if frame.answered:
            pixel = Image.open(io.BytesIO(frame.data)).convert("RGB").getpixel((5, 5))
            expected = colour_of(frame.prompt, frame.seed)
            bad += any(abs(got - asked) > 6 for got, asked in zip(pixel, expected, strict=True))
    return bad


def stage_times(taken: list[Frame]) -> dict[str, dict[str, float]]:
    """Percentiles of what the server says each stage took, for the stages that are numbers."""
    answered = [frame.timings for frame in taken if frame.answered and not frame.warm]
    names = [name for name, value in answered[0].items() if isinstance(value, float)] if answered else []
    return {name: spread([timings[name] for timings in answered]) for name in names}


async def one_picture(server: Server) -> str:
    """The data URI a server answers with."""
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    socket = await connect(server.port, server.path, lambda opcode, data: arrived.set_result(data))
    size = {"width": 128, "height": 128}
    socket.send(msgpack.packb({"prompt": "a red circle", "seed": 1, "image_size": size}))
    answer = await asyncio.wait_for(arrived, 20)
    await socket.close()
    return str(msgpack.unpackb(answer)["images"][0]["url"])


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while the clock runs: a pause here would be charged to the server."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """On uvloop where there is one: the generator's own cost is halved."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(coroutine)


def figures(load: Load, model: str, port: int, tick: Callable[[str, float], None]) -> Result:
    """`python -m bench load`: one run against a server of its own on `model`, or the one at `port`."""
    given = conditions()
    what = f"{load.sessions} sessions at {load.rate_hz:g} Hz"

    def against(server_port: int) -> list[Frame]:
        return run(offer(load, server_port, lambda share: tick(what, share)))

    if port:
        taken = against(port)
    else:
        with ours(model) as server:
            taken = against(server.port)
    figures = summary(taken, sessions=load.sessions, seconds=load.seconds, slo_s=load.slo_s)
    if model.startswith("fake") and not port:
        figures["wrong_pictures"] = wrong(taken)
    latencies = [name for name in figures if isinstance(figures[name], dict) and "p50_ms" in figures[name]]
    counts = figures["frames"] | {"errors": sum(figures["frames"]["errors"].values())}
    plain = {name: value for name, value in figures.items() if name not in latencies and name != "frames"}
    return Result(
        "load",
        after(given),
        tables=[
            Table(
                f"{what} ({load.arrivals}), {model}", ["", "value"], [*map(list, (counts | plain).items())]
            ),
            Table(
                "Milliseconds from the intended send time",
                ["", "p50", "p95", "p99", "max"],
                [[name, *figures[name].values()] for name in latencies],
            ),
        ],
        raw=figures,
    )
