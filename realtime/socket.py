"""The realtime endpoint: one WebSocket from its handshake to its close.

A frame goes the whole way in two calls, with no task between: `received` reads, admits, plans and submits
it; the engine's reply answers and writes it. What must wait, waits elsewhere, and in order:

* for a picture to be fetched or decoded, or for the engine to be known: the opener, a task;
* for credit: in the mailbox of `Session`, until an answer is written;
* for large pictures to become text: the encoder, a task with a thread; the answers behind it;
* for the peer to read: as an outcome, not a picture in text form, until the transport has room again.

Bounded: the mailbox and the credit of `Session`, and nothing is read while `UNSENT` errors are unread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from engines.messages import Done, Dropped, Job
from realtime import log, wire
from realtime.answer import is_large
from realtime.apps import App
from realtime.apps import Request as Wanted
from realtime.errors import BadFrame, Draining, Failure, Internal, InvalidInput, TooMuch, of_engine
from realtime.protocol import Close, Connection
from realtime.service import Caller
from realtime.session import BUFFERING, Session, Slot
from realtime.transport import Frames

if TYPE_CHECKING:
    from realtime.gateway import Gateway

UNSENT = 32  # errors a peer may leave unread before it is not read any more
MAX_HELD = 512 * 1024 * 1024  # bytes of unanswered frames of all sockets; pictures are in them

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Transmit = Callable[[Message], Awaitable[None]]

logger = log.get("realtime.socket")


@dataclass(slots=True, eq=False)
class Frame:
    """A valid request on its way through the gateway, with the seconds it has cost so far."""

    request_id: str
    binary: bool  # came as msgpack, to be answered so
    wanted: Wanted
    received: float  # monotonic, last byte
    receive_s: float  # first byte to last byte
    decode_s: float  # bytes to a valid request
    job: Job | None = None
    prepare_s: float = 0.0  # opening pictures, choosing sizes; waiting in the mailbox is not in it


class Socket:
    """`transport.Listener` of its frames."""

    def __init__(
        self,
        gateway: Gateway,
        app: App,
        frames: Frames,
        receive: Receive,
        *,
        name: str,
        buffering: int,
        caller: Caller,
    ) -> None:
        self._gateway = gateway
        self._engine = gateway.engine
        self._app = app
        self._frames = frames
        self._receive = receive
        self.name = name
        self.caller = caller
        self._meter = gateway.limits.meter(caller.key_id)  # of all sockets of this key
        self._media = gateway.media.seen_by(caller)
        self._flow = gateway.metrics.flow(app.id)
        settings = gateway.settings
        self._send_timeout_s = settings.send_timeout_s
        self._connection = Connection(now=monotonic(), idle_s=settings.idle_s)
        self._outputs = self._connection.outputs
        self._session: Session[Frame, Done | Failure] = Session(buffering, 2 * settings.max_frame_bytes)
        # The engine lets a late frame give way to a newer one; who asks for a longer line wants it drawn.
        self._deadline_s = settings.target_s if buffering <= BUFFERING else None
        self._released: deque[Slot[Frame, Done | Failure]] = deque()
        self._opener: asyncio.Task[None] | None = None  # of the last frame taken; the next ones wait
        self._encoder: asyncio.Task[None] | None = None  # of a large answer; those behind it wait
        self._idle: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None  # running while the peer leaves something unread
        self._held = 0  # bytes, as last added to the gateway's sum
        self.ended_by = "client"

    @property
    def unanswered(self) -> int:
        return self._session.unanswered

    async def run(self) -> None:
        """Until the socket is closed by either side. Raises nothing but cancellation."""
        self._watch()
        self._frames.listen(self)
        try:
            while (await self._receive())["type"] != "websocket.disconnect":
                pass
        finally:
            # First of all: nobody waits for these pictures any more.
            self._flow.abandoned += self._session.unanswered
            self._engine.cancel(self._session.close())
            self._weigh()
            self._connection.drop()
            self._released.clear()
            for timer in (self._idle, self._stalled):
                if timer is not None:
                    timer.cancel()
            tasks = [task for task in (self._opener, self._encoder) if task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.gather(*tasks, return_exceptions=True)

    def close(self, code: int, by: str) -> None:
        """Close from our side, after what is already due."""
        if not self._connection.closed:
            self.ended_by = by
            self._connection.close(code)
            self._write()

    def expel(self, failure: Failure) -> None:
        """Close from our side because of `failure`, saying so; frames under way are not answered."""
        if not self._connection.closed:
            self.ended_by = failure.error_type
            self._gateway.refusals.tell("socket", failure.error_type, failure.status, app=self._app.id)
            self._connection.refuse(failure)
            self._write()

    def leave(self) -> None:
        """The server is going down: close as soon as every admitted frame is answered."""
        if not self._session.unanswered:
            self.close(1012, by="drain")

    def abort(self, by: str) -> None:
        """Cut the connection at once, whatever is still to be written."""
        self.ended_by = by
        self._connection.drop()
        self._frames.abort()

    # ---- in ----

    def received(self, message: bytes | str, at: float, took_s: float) -> None:
        flow = self._flow
        flow.messages += 1
        flow.received_bytes += len(message)
        try:
            self._take_in(message, at, took_s)
        except Exception:
            logger.exception("socket.read", session=self.name, app=self._app.id)
            self.abort("error")
            return
        if self._outputs or self._released:
            self._write()
            self._frames.hold(len(self._outputs) > UNSENT)

    def _take_in(self, message: bytes | str, received: float, receive_s: float) -> None:
        gateway = self._gateway
        start = monotonic()
        request = self._connection.receive(message, start)
        if request is None:
            if message:
                self._flow.bad_messages += 1
                self._told(BadFrame, "", received)
            return
        try:
            self._meter.take(start)
            if gateway.draining or gateway.held_bytes + request.size > MAX_HELD:
                raise _unwelcome(gateway)
            wanted = self._app.parse(request.payload)
        except InvalidInput as failure:
            self._flow.bad_messages += 1
            self._fail(failure, request.request_id, received)
            return
        except Failure as failure:
            self._flow.refused += 1
            self._fail(failure, request.request_id, received)
            return
        except Exception:
            self._flow.refused += 1
            self._fail(self._internal("frame.parse"), request.request_id, received)
            return
        decode_s = monotonic() - start
        frame = Frame(request.request_id, request.binary, wanted, received, receive_s, decode_s)
        self._flow.superseded += self._session.offer(frame, request.size)
        self._weigh()
        self._prepare()

    def _weigh(self) -> None:
        """Keep the gateway's sum of what all sockets hold."""
        held = self._session.bytes
        self._gateway.held_bytes += held - self._held
        self._held = held

    # ---- to the engine and back ----

    def _prepare(self) -> None:
        """Submit what waits and has credit, in order of arrival; behind one that must wait, all wait."""
        while self._opener is None and (slot := self._session.take()) is not None:
            start = monotonic()
            try:
                job = self._app.plan_at_once(slot.request.wanted, self._engine.models)
                if job is None:
                    self._opener = asyncio.create_task(self._open(slot), name=f"open {self.name}")
                else:
                    self._submit(slot, job, monotonic() - start)
            except Failure as failure:
                self._settle(slot, failure)
            except Exception:
                self._settle(slot, self._internal("frame.prepare"))

    async def _open(self, slot: Slot[Frame, Done | Failure]) -> None:
        """Plan a frame that has to wait for it, submit it, and let the next ones follow."""
        try:
            await self._gateway.engine_known.wait()
            start = monotonic()
            job = await self._app.plan(slot.request.wanted, self._media, self._engine.models)
            self._submit(slot, job, monotonic() - start)
        except Failure as failure:
            self._settle(slot, failure)
        except Exception:
            self._settle(slot, self._internal("frame.prepare"))
        self._opener = None
        self._prepare()
        self._write()

    def _submit(self, slot: Slot[Frame, Done | Failure], job: Job, prepare_s: float) -> None:
        frame = slot.request
        frame.job, frame.prepare_s = job, prepare_s
        slot.ticket = self._engine.submit(
            session=self.name,
            received=frame.received,
            job=job,
            buffering=self._session.buffering,
            deadline_s=self._deadline_s,
            weight=1.0,
            on_reply=partial(self._on_reply, slot),
        )

    def _on_reply(self, slot: Slot[Frame, Done | Failure], reply: Any) -> None:
        if isinstance(reply, Done):
            self._released += self._session.settle(slot, reply)
        elif isinstance(reply, Dropped):
            self._settle(slot, None)
        else:
            self._settle(slot, of_engine(reply.code, reply.reason, reply.field))
        self._write()

    def _settle(self, slot: Slot[Frame, Done | Failure], outcome: Done | Failure | None) -> None:
        """What comes of a frame is known: None if a newer one took its place. `_write` is for the caller."""
        self._released += self._session.settle(slot, outcome)
        if outcome is None:
            self._flow.superseded += 1
            self._freed()

    def _freed(self) -> None:
        """A frame has gone, and its credit is there for the next."""
        self._weigh()
        if self._session.waiting:
            self._prepare()
        if self._gateway.draining:
            self.leave()

    # ---- out ----

    def room(self) -> None:
        self._write()
        self._frames.hold(len(self._outputs) > UNSENT)

    def _write(self) -> None:
        """Errors and the close first, then results, for as long as the peer takes them."""
        frames, outputs, released = self._frames, self._outputs, self._released
        wrote = False
        try:
            while (outputs or (released and self._encoder is None)) and frames.ready:
                if not outputs:
                    self._answer(released.popleft())
                    if not outputs:
                        continue
                output = outputs.popleft()
                if isinstance(output, Close):
                    frames.close(output.code, output.reason)
                else:
                    frames.write(output)
                    self._flow.sent_bytes += len(output)
                wrote = True
        except Exception:
            logger.exception("socket.write", session=self.name, app=self._app.id)
            self.abort("error")
            return
        due = bool(outputs or (released and self._encoder is None))  # by the peer's fault
        if self._stalled is not None and (wrote or not due):
            self._stalled.cancel()
            self._stalled = None
        if due and self._stalled is None:
            self._stalled = asyncio.get_running_loop().call_later(self._send_timeout_s, self._stall)

    def _answer(self, slot: Slot[Frame, Done | Failure]) -> None:
        """The oldest outcome, now that it can be written, becomes a message, and its frame is gone.

        A large one does so later, in its turn.
        """
        frame, outcome = slot.request, slot.outcome
        if isinstance(outcome, Done):
            if is_large(outcome, binary=frame.binary):
                self._encoder = asyncio.create_task(self._encode(frame, outcome), name=f"encode {self.name}")
                return
            try:
                self._connection.answer(self._body(frame, outcome), binary=frame.binary)
                self._arrived(frame)
            except Exception:
                outcome = self._internal("frame.answer")
        self._answered(frame, outcome)

    async def _encode(self, frame: Frame, done: Done) -> None:
        """A large answer becomes a message while others are served; those behind it follow."""
        outcome: Done | Failure = done
        try:
            self._connection.answer_large(await asyncio.to_thread(self._large, frame, done))
            self._arrived(frame)
        except Exception:
            outcome = self._internal("frame.answer")
        self._encoder = None
        self._answered(frame, outcome)
        self._write()

    def _large(self, frame: Frame, done: Done) -> list[wire.Fragment]:
        return wire.encode_large(self._body(frame, done), binary=frame.binary)

    def _arrived(self, frame: Frame) -> None:
        seconds = monotonic() - frame.received
        self._flow.answer(seconds)
        self._gateway.refusals.timed("frame", seconds, frame.request_id, app=self._app.id, session=self.name)

    def _answered(self, frame: Frame, outcome: Done | Failure | None) -> None:
        if isinstance(outcome, Failure):
            self._fail(outcome, frame.request_id, frame.received)
            self._flow.refused += 1
        self._session.written()
        self._freed()

    def _body(self, frame: Frame, done: Done) -> dict[str, Any]:
        assert frame.job is not None
        body = self._app.answer(frame.wanted, frame.job, done, binary=frame.binary)
        body["request_id"] = frame.request_id
        body["timings"] = {
            "receive": frame.receive_s,
            "decode": frame.decode_s,
            "prepare": frame.prepare_s,
            **done.timings,
            "send": max(monotonic() - done.finished, 0.0),
        }
        return body

    # ---- time, counting and our own bugs ----

    def _fail(self, failure: Failure, request_id: str, received: float) -> None:
        """An error frame, and a line of why. received: the last byte of what it answers."""
        self._connection.fail(failure, request_id)
        self._told(failure, request_id, received)

    def _told(self, failure: Failure | type[Failure], request_id: str, received: float) -> None:
        about = {"app": self._app.id, "session": self.name, "seconds": round(monotonic() - received, 3)}
        self._gateway.refusals.tell("frame", failure.error_type, failure.status, request_id, **about)

    def _stall(self) -> None:
        logger.warning("socket.stalled", session=self.name, seconds=self._send_timeout_s)
        self.abort("timeout")

    def _internal(self, event: str) -> Internal:
        """Log the exception at hand; what the client is told of it."""
        logger.exception(event, session=self.name, app=self._app.id)
        return Internal("the server failed on this request; the details are in its log")

    def _watch(self) -> None:
        if self._connection.closed:
            return
        now = monotonic()
        self._connection.tick(now, busy=self._session.unanswered > 0)
        if self._connection.closed:
            self.ended_by = "idle"
            self._write()
            return
        # One timer per socket whatever its messages: it looks again when it fires.
        delay_s = max(self._connection.wake_at() - now, 0.01)
        self._idle = asyncio.get_running_loop().call_later(delay_s, self._watch)


def _unwelcome(gateway: Gateway) -> Failure:
    """Why no frame is taken now."""
    if gateway.draining:
        return Draining("the server is going down; reconnect in a moment")
    return TooMuch(f"unanswered frames fill {MAX_HELD >> 20} MiB of this server; send again in a moment")
