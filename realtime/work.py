"""The one way to draw over HTTP, for runs, streams and the queue: from a payload to an answer to replay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from engines.messages import Done, Dropped, Job, Refused
from realtime import log
from realtime.apps import App
from realtime.errors import Draining, Failure, Internal, RunTimeout, StartTimeout, of_engine
from realtime.service import Caller

if TYPE_CHECKING:
    from realtime.gateway import Gateway

logger = log.get("realtime.work")


@dataclass(frozen=True, slots=True)
class Line:
    """What the engine did for a request, in words for the one who asked."""

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


def failed(failure: Failure) -> Outcome:
    return Outcome(failure.status, failure.body(), failure.headers)


class Work:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._numbers = 0

    async def draw(
        self,
        app: App,
        payload: Mapping[str, Any],
        *,
        request_id: str,
        caller: Caller,
        base: str,
        lane: Literal["run", "queue"],
        start_timeout_s: float | None = None,
        lifetime_s: float | None = None,
        on_line: Callable[[Line], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> Outcome:
        """Draws what `payload` asks of `app`. Raises nothing but cancellation, which takes the job back.

        base: what URLs of kept pictures start with. start_timeout_s: seconds until the model must have
        begun. lifetime_s: of kept pictures, None for as long as the server keeps any.
        """
        say = on_line or (lambda line: None)
        try:
            async with asyncio.timeout(self._gateway.settings.run_s):
                return await self._draw(
                    app, payload, caller, base, lane, start_timeout_s, lifetime_s, say, on_start
                )
        except TimeoutError:
            failure: Failure = RunTimeout(
                f"the picture was not done in {self._gateway.settings.run_s:g} s, the limit of this server"
            )
        except Failure as known:
            failure = known
        except Exception:
            logger.exception("work.draw", app=app.id, request_id=request_id)
            failure = Internal("Internal Server Error")
        say(line("ERROR", failure.reason))
        return failed(failure)

    async def _draw(
        self,
        app: App,
        payload: Mapping[str, Any],
        caller: Caller,
        base: str,
        lane: str,
        start_timeout_s: float | None,
        lifetime_s: float | None,
        say: Callable[[Line], None],
        on_start: Callable[[], None] | None,
    ) -> Outcome:
        gateway = self._gateway
        wanted = app.parse(payload)
        try:
            async with asyncio.timeout(start_timeout_s):
                await gateway.engine_known.wait()
                job = await app.plan(wanted, gateway.media, gateway.engine.models)
        except TimeoutError:
            raise StartTimeout(f"not begun in the {start_timeout_s:g} s the request gave") from None
        done = await self._drawn(job, lane, on_start)
        urls = None
        if not wanted.inline:
            urls = [
                base
                + await gateway.storage.keep(
                    picture.data, picture.content_type, caller=caller, lifetime_s=lifetime_s
                )
                for picture in done.pictures
            ]
        body = app.answer(wanted, job, done, binary=False, urls=urls)
        say(line("INFO", f"drew {len(done.pictures)} in {done.timings['inference']:.2f} s"))
        return Outcome(200, body, {"x-fal-billable-units": "1"}, done.timings["inference"])

    async def _drawn(self, job: Job, lane: str, on_start: Callable[[], None] | None) -> Done:
        """Raises Failure. Cancelled, it takes the job back."""
        engine = self._gateway.engine
        reply: asyncio.Future[Done | Dropped | Refused] = asyncio.get_running_loop().create_future()
        self._numbers += 1
        ticket = engine.submit(
            session=f"{lane}{self._numbers}",
            received=time.monotonic(),
            job=job,
            buffering=0,
            deadline_s=None,
            weight=1.0,
            on_reply=partial(_settle, reply),
        )
        try:
            answer = await reply
        finally:
            engine.cancel([ticket])
        if isinstance(answer, Refused):
            raise of_engine(answer.code, answer.reason, answer.field)
        if isinstance(answer, Dropped):
            raise Draining("the server is going down")
        return answer


def line(level: str, message: str) -> Line:
    """Said now."""
    return Line(level, message, datetime.now(UTC).isoformat(timespec="microseconds"))


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    if not future.done():
        future.set_result(reply)
