"""The realtime endpoint: one ASGI WebSocket from its handshake to its close.

Three tasks per socket that is in use, none of which waits for another's party:

* the reader (the ASGI call itself) always reads. uvicorn stops reading after one unconsumed message, and a
  socket that waits for the engine then misses its pongs and is closed 1011;
* the preparer opens pictures (which may mean fetching a URL) and submits, in order of arrival;
* the writer writes, and is the only one that waits for the peer.

Bounded: the mailbox and the credit of `Session`, and the reader stops while `UNSENT` errors are unread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from engines.messages import Done, Dropped, Job
from realtime import log
from realtime.apps import App
from realtime.apps import Request as Wanted
from realtime.errors import Draining, Failure, Internal, InvalidInput, TooMuch, of_engine
from realtime.protocol import Close, Connection, Request, Send
from realtime.service import Caller
from realtime.session import BUFFERING, Session, Slot

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

    request: Request
    wanted: Wanted
    received: float  # monotonic, last byte
    receive_s: float  # first byte to last byte
    decode_s: float  # bytes to a valid request
    job: Job | None = None
    prepare_s: float = 0.0  # opening pictures, choosing sizes; waiting in the mailbox is not in it


class Socket:
    def __init__(
        self,
        gateway: Gateway,
        app: App,
        receive: Receive,
        transmit: Transmit,
        cut: Callable[[], None],
        writable: Callable[[], bool],
        *,
        name: str,
        buffering: int,
        caller: Caller,
    ) -> None:
        self._gateway = gateway
        self._engine = gateway.engine
        self._app = app
        self._receive = receive
        self._transmit = transmit
        self._cut = cut
        self._writable = writable
        self.name = name
        self.caller = caller
        self._meter = gateway.limits.meter(caller.key_id)  # of all sockets of this key
        self._media = gateway.media.seen_by(caller)
        self._outcomes = gateway.metrics.outcomes(app.id)
        self._latency = gateway.metrics.latency.labels(app.id)
        settings = gateway.settings
        self._send_timeout_s = settings.send_timeout_s
        self._connection = Connection(now=time.monotonic(), idle_s=settings.idle_s)
        self._session: Session[Frame, Done | Failure] = Session(buffering, 2 * settings.max_frame_bytes)
        # The engine lets a late frame give way to a newer one; who asks for a longer line wants it drawn.
        self._deadline_s = settings.target_s if buffering <= BUFFERING else None
        self._released: deque[Slot[Frame, Done | Failure]] = deque()
        self._to_prepare = asyncio.Event()
        self._to_write = asyncio.Event()
        self._room = asyncio.Event()  # set unless too much is unsent
        # Started with the first frame: an idle socket is a reader and nothing else.
        self._preparer: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._held = 0  # bytes, as last added to the gateway's sum
        self.ended_by = "client"

    @property
    def unanswered(self) -> int:
        return self._session.unanswered

    async def run(self) -> None:
        """Until the socket is closed by either side. Raises nothing but cancellation."""
        self._watch()
        try:
            await self._read()
        finally:
            # First of all: nobody waits for these pictures any more.
            self._count("abandoned", self._session.unanswered)
            self._engine.cancel(self._session.close())
            self._weigh()
            self._connection.drop()
            if self._idle is not None:
                self._idle.cancel()
            tasks = [task for task in (self._preparer, self._writer) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self, code: int, by: str) -> None:
        """Close from our side, after what is already due."""
        if not self._connection.closed:
            self.ended_by = by
            self._connection.close(code)
            self._write_soon()

    def expel(self, failure: Failure) -> None:
        """Close from our side because of `failure`, saying so; frames under way are not answered."""
        if not self._connection.closed:
            self.ended_by = failure.error_type
            self._connection.refuse(failure)
            self._write_soon()

    def leave(self) -> None:
        """The server is going down: close as soon as every admitted frame is answered."""
        if not self._session.unanswered:
            self.close(1012, by="drain")

    def abort(self, by: str) -> None:
        """Cut the connection at once, whatever is still to be written."""
        self.ended_by = by
        self._connection.drop()
        self._cut()

    # ---- reading ----

    async def _read(self) -> None:
        metrics = self._gateway.metrics
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            if data is None:
                data = message.get("text", "")
            metrics.messages.inc()
            metrics.received_bytes.inc(len(data))
            received = message.get("received", time.monotonic())
            self._take_in(data, received, received - message.get("started", received))
            del message, data  # or a socket at rest would hold its last frame
            if self._connection.unsent:
                self._write_soon()
                while self._connection.unsent > UNSENT:
                    self._room.clear()
                    await self._room.wait()
            # A queue that is never empty never yields: let the others run after each message.
            await asyncio.sleep(0)

    def _take_in(self, data: bytes | str, received: float, receive_s: float) -> None:
        start = time.monotonic()
        request = self._connection.receive(data, start)
        if request is None:
            if data:
                self._gateway.metrics.bad_messages.inc()
            return
        try:
            self._meter.take(start)
            self._admit(request)
            wanted = self._app.parse(request.payload)
        except InvalidInput as failure:
            self._gateway.metrics.bad_messages.inc()
            self._connection.fail(failure, request)
            return
        except Failure as failure:
            self._count("refused", 1)
            self._connection.fail(failure, request)
            return
        except Exception:
            self._count("refused", 1)
            self._connection.fail(self._internal("frame.parse"), request)
            return
        # The payload is in `wanted` now; a waiting frame must not hold its pictures twice.
        request = Request({}, request.request_id, request.binary, request.size)
        decode_s = time.monotonic() - start
        superseded = self._session.superseded
        self._session.offer(Frame(request, wanted, received, receive_s, decode_s), request.size)
        self._count("superseded", self._session.superseded - superseded)
        self._weigh()
        if self._preparer is None:
            self._preparer = asyncio.create_task(self._prepare(), name=f"prepare {self.name}")
        self._prepare_soon()

    def _admit(self, request: Request) -> None:
        if self._gateway.draining:
            raise Draining("the server is going down; reconnect in a moment")
        if self._gateway.held_bytes + request.size > MAX_HELD:
            raise TooMuch(
                f"unanswered frames fill {MAX_HELD >> 20} MiB of this server; send again in a moment"
            )

    def _weigh(self) -> None:
        """Keep the gateway's sum of what all sockets hold."""
        held = self._session.bytes
        self._gateway.held_bytes += held - self._held
        self._held = held

    # ---- preparing ----

    def _prepare_soon(self) -> None:
        if self._session.waiting:
            self._to_prepare.set()

    async def _prepare(self) -> None:
        while True:
            slot = self._session.take()
            if slot is None:
                self._to_prepare.clear()
                await self._to_prepare.wait()
                continue
            frame = slot.request
            try:
                await self._gateway.engine_known.wait()
                start = time.monotonic()
                frame.job = await self._app.plan(frame.wanted, self._media, self._engine.models)
                frame.prepare_s = time.monotonic() - start
                slot.ticket = self._engine.submit(
                    session=self.name,
                    received=frame.received,
                    job=frame.job,
                    buffering=self._session.buffering,
                    deadline_s=self._deadline_s,
                    weight=1.0,
                    on_reply=partial(self._on_reply, slot),
                )
            except Failure as failure:
                self._settle(slot, failure)
            except Exception:
                self._settle(slot, self._internal("frame.prepare"))

    def _on_reply(self, slot: Slot[Frame, Done | Failure], reply: Any) -> None:
        if isinstance(reply, Done):
            self._settle(slot, reply)
        elif isinstance(reply, Dropped):
            self._settle(slot, None)
        else:
            self._settle(slot, of_engine(reply.code, reply.reason, reply.field))

    def _settle(self, slot: Slot[Frame, Done | Failure], outcome: Done | Failure | None) -> None:
        if outcome is None:
            self._count("superseded", 1)
        self._released.extend(self._session.settle(slot, outcome))
        self._weigh()
        self._prepare_soon()
        if self._released:
            self._write_soon()
        elif self._gateway.draining:
            self.leave()

    # ---- writing ----

    def _write_soon(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name=f"write {self.name}")
        self._to_write.set()

    async def _write(self) -> None:
        try:
            while not self._connection.closed or self._connection.unsent:
                await self._to_write.wait()
                self._to_write.clear()
                while await self._write_one():
                    pass
                self._room.set()
        except TimeoutError:
            logger.warning("socket.stalled", session=self.name, seconds=self._send_timeout_s)
            self.abort("timeout")
        except OSError:
            self._connection.drop()  # the peer is gone: the reader is about to see the disconnect
        except Exception:
            logger.exception("socket.write", session=self.name, app=self._app.id)
            self.abort("error")
        finally:
            self._room.set()

    async def _write_one(self) -> bool:
        """Control frames and errors first, then the next result. False if there is nothing to write."""
        if (output := self._connection.data_to_send()) is not None:
            await self._put(output)
            return True
        if self._released:
            self._answer(self._released.popleft())
            while (output := self._connection.data_to_send()) is not None:
                await self._put(output)
            self._session.written()
            self._weigh()
            self._prepare_soon()
            if self._gateway.draining:
                self.leave()
            return True
        return False

    def _answer(self, slot: Slot[Frame, Done | Failure]) -> None:
        frame, outcome = slot.request, slot.outcome
        if isinstance(outcome, Failure):
            self._connection.fail(outcome, frame.request)
            self._count("refused", 1)
            return
        assert isinstance(outcome, Done)
        assert frame.job is not None
        try:
            body = self._app.answer(frame.wanted, frame.job, outcome, binary=frame.request.binary)
        except Exception:
            self._connection.fail(self._internal("frame.answer"), frame.request)
            self._count("refused", 1)
            return
        body["request_id"] = frame.request.request_id
        now = time.monotonic()
        body["timings"] = {
            "receive": frame.receive_s,
            "decode": frame.decode_s,
            "prepare": frame.prepare_s,
            **outcome.timings,
            "send": max(now - outcome.finished, 0.0),
        }
        self._connection.answer(frame.request, body)
        self._count("answered", 1)
        self._latency.observe(max(now - frame.received, 0.0))

    async def _put(self, output: Send | Close) -> None:
        if isinstance(output, Close):
            message: Message = {"type": "websocket.close", "code": output.code, "reason": output.reason}
        elif isinstance(output.data, bytes):
            message = {"type": "websocket.send", "bytes": output.data}
        else:
            message = {"type": "websocket.send", "text": output.data}
        if self._writable():  # nobody is waited for, and a timeout for that would cost 6 us
            await self._transmit(message)
        else:
            async with asyncio.timeout(self._send_timeout_s):
                await self._transmit(message)
        if isinstance(output, Send):
            self._gateway.metrics.sent_bytes.inc(len(output.data))

    # ---- time, counting and our own bugs ----

    def _internal(self, event: str) -> Internal:
        """Log the exception at hand; what the client is told of it."""
        logger.exception(event, session=self.name, app=self._app.id)
        return Internal("the server failed on this request; the details are in its log")

    def _watch(self) -> None:
        if self._connection.closed:
            return
        now = time.monotonic()
        self._connection.tick(now, busy=self._session.unanswered > 0)
        if self._connection.closed:
            self.ended_by = "idle"
            self._write_soon()
            return
        # One timer per socket whatever its messages: it looks again when it fires.
        delay_s = max(self._connection.wake_at() - now, 0.01)
        self._idle = asyncio.get_running_loop().call_later(delay_s, self._watch)

    def _count(self, outcome: str, frames: int) -> None:
        if frames:
            self._outcomes[outcome].inc(frames)
