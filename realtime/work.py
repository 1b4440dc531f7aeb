"""The one way to draw over HTTP, for runs, streams and the queue: from a payload to an answer to replay."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from engines.messages import Done, Dropped, Job, Picture, Preview, Refused, Started
from realtime import log
from realtime.answer import is_large
from realtime.apps import App
from realtime.apps import Request as Wanted
from realtime.errors import (
    BadFrame,
    EngineLost,
    Failure,
    Internal,
    RunTimeout,
    StartTimeout,
    TooMuch,
    of_engine,
)
from realtime.places import Place, Places
from realtime.service import Caller
from realtime.storage.lifecycle import Acl

if TYPE_CHECKING:
    from realtime.gateway import Gateway

Lane = Literal["run", "queue"]

START_TIMEOUTS = ("x-fal-request-start-timeout", "x-fal-request-timeout")  # the second is the old name
BILLED = {"x-fal-billable-units": "1"}

logger = log.get("realtime.work")


@dataclass(frozen=True, slots=True)
class Line:
    """What was done for a request, in words for the one who asked."""

    level: str  # DEBUG | INFO | WARN | ERROR
    message: str
    timestamp: str  # ISO 8601, UTC, microseconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, success and failure alike, ready to be sent now and replayed later."""

    status: int  # HTTP
    body: dict[str, Any]  # JSON
    headers: dict[str, str]  # lower case; not those of the transport
    inference_s: float = 0.0  # what the model took for it

    @property
    def error_type(self) -> str | None:
        return self.headers.get("x-fal-error-type")


@dataclass(frozen=True, slots=True)
class _Order:
    """One request on its way, and who wants to know what becomes of it."""

    app: App
    payload: Mapping[str, Any]
    request_id: str
    caller: Caller
    base: str
    lane: Lane
    start_timeout_s: float | None
    lifetime_s: float | None
    acl: Acl | None
    on_line: Callable[[Line], None] | None
    on_preview: Callable[[Preview], None] | None
    on_start: Callable[[], None] | None
    receive_s: float
    decode_s: float

    def say(self, level: str, message: str) -> None:
        if self.on_line is not None:
            self.on_line(line(level, message))


class Work:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._places: dict[tuple[Lane, str], Places] = {}

    async def draw(
        self,
        app: App,
        payload: Mapping[str, Any],
        *,
        request_id: str,
        caller: Caller,
        base: str,
        lane: Lane,
        start_timeout_s: float | None = None,
        lifetime_s: float | None = None,
        acl: Acl | None = None,
        on_line: Callable[[Line], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        on_start: Callable[[], None] | None = None,
        receive_s: float = 0.0,
        decode_s: float = 0.0,
    ) -> Outcome:
        """Draws what `payload` asks of `app`. Raises nothing but cancellation, which takes the job back.

        base: what URLs of kept pictures start with. start_timeout_s: seconds until the model must have
        begun. lifetime_s: of kept pictures, None for as long as the server keeps any. acl: who may fetch
        them, None for whoever has the URL. on_preview: what steps have made of a picture. on_start: the
        model begins; again, if an engine died and another one begins anew. All of these are called on the
        event loop. receive_s, decode_s: what it took until `payload` was read and was a map, for the answer's
        timings; nothing is received for what has waited in the queue.
        """
        order = _Order(
            app,
            payload,
            request_id,
            caller,
            base,
            lane,
            start_timeout_s,
            lifetime_s,
            acl,
            on_line,
            on_preview,
            on_start,
            receive_s,
            decode_s,
        )
        began, status = time.monotonic(), "cancelled"
        held = sum(len(value) for value in payload.values() if isinstance(value, str | bytes))
        self._gateway.held_bytes += held
        try:
            outcome = await self._outcome(order)
            status = str(outcome.status)
        finally:
            self._gateway.held_bytes -= held
            seconds = time.monotonic() - began
            self._gateway.metrics.ran(app.id, "stream" if on_preview else lane, status, seconds)
            logger.debug("work.end", app=app.id, request_id=request_id, status=status, seconds=seconds)
        if lane == "queue" and outcome.status != 200:  # what waits for any other tells of it
            about = {"app": app.id, "seconds": round(seconds, 3)}
            self._gateway.refusals.tell(
                "queue", outcome.error_type or "", outcome.status, request_id, **about
            )
        return outcome

    async def _outcome(self, order: _Order) -> Outcome:
        # Nobody waits at the other end of the queue; what is stuck there is found by the engine's heartbeat.
        limit_s = self._gateway.settings.run_s if order.lane == "run" else None
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await self._made(order)
        except Failure as raised:
            failure = raised
        except Exception:
            if limit.expired():
                failure = RunTimeout(f"not done in {limit_s:g} s, the most a request is given here")
            else:
                logger.exception("work.draw", app=order.app.id, request_id=order.request_id)
                failure = Internal("Internal Server Error")
        order.say("ERROR", failure.reason)
        return failed(failure)

    async def _made(self, order: _Order) -> Outcome:
        app, began = order.app, time.monotonic()
        wanted = app.parse(order.payload)
        decode_s = order.decode_s + time.monotonic() - began
        job, prepare_s, done = await self._drawn(order, wanted)
        urls = None if wanted.inline else [await self._kept(order, picture) for picture in done.pictures]
        answer = partial(app.answer, wanted, job, done, binary=False, urls=urls)
        large = wanted.inline and is_large(done, binary=False)
        body = await asyncio.to_thread(answer) if large else answer()
        # As in a socket's answers, but for `send`: an answer that is kept and replayed is not sent yet.
        body["timings"] = {
            "receive": order.receive_s,
            "decode": decode_s,
            "prepare": prepare_s,
            **done.timings,
        }
        order.say("INFO", _account(done))
        return Outcome(200, body, BILLED, done.timings["inference"])

    async def _kept(self, order: _Order, picture: Picture) -> str:
        """The URL of a picture."""
        return order.base + await self._gateway.storage.keep(
            picture.data,
            picture.content_type,
            caller=order.caller,
            lifetime_s=order.lifetime_s,
            acl=order.acl,
        )

    async def _drawn(self, order: _Order, wanted: Wanted) -> tuple[Job, float, Done]:
        """(job, seconds to plan it, what came of it). Raises Failure. Cancelled, it takes the job back."""
        gateway, engine = self._gateway, self._gateway.engine
        reply: asyncio.Future[Done | Dropped | Refused] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(order.start_timeout_s) as patience, self._place(order) as place:
                if engine.state != "ready":
                    order.say("INFO", f"waiting for the engine, which is {engine.state}")
                await gateway.engine_known.wait()
                began = time.monotonic()
                job = await order.app.plan(wanted, gateway.media.seen_by(order.caller), engine.models)
                prepare_s = time.monotonic() - began
                for warning in wanted.warnings:
                    order.say("WARN", warning)
                ticket = engine.submit(
                    session=place.session,
                    received=time.monotonic(),
                    job=job,
                    buffering=0,
                    deadline_s=None,
                    weight=1.0,
                    account=place.account,
                    background=order.lane == "queue",
                    on_reply=lambda answer: None if reply.done() else reply.set_result(answer),
                    watch="steps" if order.on_preview else "start",
                    on_news=partial(_told, order, job, patience),
                )
                try:
                    answer = await reply
                finally:
                    engine.cancel([ticket])
        except TimeoutError:
            reason = f"the model had not begun after {order.start_timeout_s:g} s, the request's own limit"
            raise StartTimeout(reason) from None
        match answer:
            case Done():
                return job, prepare_s, answer
            case Refused():
                raise of_engine(answer.code, answer.reason, answer.field)
            case _:
                raise EngineLost("the engine dropped this request")

    @asynccontextmanager
    async def _place(self, order: _Order) -> AsyncIterator[Place]:
        key = order.lane, order.caller.key_id
        places = self._places.get(key)
        if places is None:
            engines = self._gateway.settings.engines
            places = self._places[key] = Places(f"{order.lane}:{order.caller.key_id}", engines)
        most = self._gateway.settings.max_runs
        if order.lane == "run" and places.wanted >= most:
            raise TooMuch(f"{most} runs of this key are being drawn or wait, the most it may have")
        try:
            async with places.place() as place:
                yield place
        finally:
            if not places.wanted:
                self._places.pop(key, None)


def _told(order: _Order, job: Job, patience: asyncio.Timeout, news: Started | Preview) -> None:
    """What the engine says on the way."""
    if isinstance(news, Preview):
        if order.on_preview is not None:
            order.on_preview(news)
        return
    if patience.expired():
        return
    patience.reschedule(None)
    pictures = "a picture" if job.count == 1 else f"{job.count} pictures"
    order.say(
        "INFO",
        f"drawing {pictures} of {job.width}x{job.height} in {job.steps} steps, seed {job.seed}"
        + (f", on {job.model}" if job.model else ""),
    )
    if order.on_start is not None:
        order.on_start()


def failed(failure: Failure) -> Outcome:
    return Outcome(failure.status, failure.body(), failure.headers)


def line(level: str, message: str) -> Line:
    """Said now."""
    return Line(level, message, datetime.now(UTC).isoformat(timespec="microseconds"))


def start_timeout_of(headers: Mapping[str, str]) -> float | None:
    """Seconds in which the model must have begun, as the caller says in a header. Raises BadFrame."""
    for name in START_TIMEOUTS:
        if (text := headers.get(name)) is not None:
            try:
                seconds = float(text)
            except ValueError:
                seconds = 0.0
            if not 0 < seconds < math.inf:
                raise BadFrame(f"{name} must be a number of seconds above 0")
            return seconds
    return None


def _account(done: Done) -> str:
    """Where the time went."""
    timings = done.timings
    steps = [step["seconds"] for step in timings["steps"]]
    drawn = sum(steps) / max(len(steps), 1)
    return (
        f"done: {timings['queue']:.2f} s waiting, {len(steps)} steps of {drawn * 1e3:.0f} ms, "
        f"{timings['vae'] * 1e3:.0f} ms decoding, {timings['encode'] * 1e3:.0f} ms writing the file"
    )
