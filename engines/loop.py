"""The engine process: one thread that steps, and the threads that keep it from waiting.

    reader thread   link -> inbox; end of file ends the process at once
    step loop       inbox -> schedule -> rows -> UNet call -> VAE decode      (the main thread)
    decoder         rows -> VAE decode, in the loop's place, where the device does it beside the next call
    intake          pictures of a job -> pixels; and on to rows, in the loop's place, where the device makes
                    them beside the next call
    pool            drawn pixels -> JPEG, PNG, WebP
    previewer       rows between two steps -> VAE decode -> JPEG, for those who asked
    writer thread   outbox -> link, what the gateway did not read at once

Decoder, pool and outbox are bounded: a gateway that does not read stops the loop and does not grow the
memory, and pictures that are nearly finished are not left behind for new ones.

A `Fault` refuses one ticket. Any other exception, on any thread, is written to stderr once and ends
the process: its memory is not trusted any more, and the gateway sees the end of file in milliseconds.

Pong.stats: steps, rows, slots (UNet calls, the rows in them, the places these had), occupancy
(rows' places / slots), busy_s (in calls and decodes, which may be at once), step_s (the dearest call known),
tiny_vae, full_vae (pictures asked of either decoder), waiting, running, ahead (requests with
rows before their turn), done, again and settled (live frames that asked for what the session was shown last:
just so; through another decoder, and only decoded), refused, superseded, cancelled, and what the pipeline
counts.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from engines.cost import Cost
from engines.drawing import Drawing
from engines.inbox import Inbox
from engines.link import LinkError, pack
from engines.mailbox import Request
from engines.messages import (
    Cancel,
    Done,
    Dropped,
    Message,
    Ping,
    Pong,
    Progress,
    Ready,
    Refused,
    Started,
    Submit,
)
from engines.outbox import Outbox
from engines.outlet import Decoded, Finished, Outlet
from engines.outlook import vae
from engines.pipeline import Fault, Pipeline, Unloadable
from engines.pool import Pool
from engines.previews import Previews
from engines.recorder import Recorder
from engines.schedule import Call
from engines.shown import Shown
from engines.tiers import Tiers

MAX_HELD = 4096  # requests in this process; more are refused
AHEAD = 64  # requests whose rows are made before their turn: they lie in the device's memory
TRANSIT_S = 0.010  # of a reply from here through the gateway to a client nearby
REPLY = "reply"  # the work of making one out of pixels
ENDS = ("done", "again", "settled", "refused", "superseded", "cancelled")  # of a request


@dataclass(frozen=True, slots=True)
class _Prepared:
    """From the pool to the loop: what came of a job's image and mask, and its rows if they are made ahead."""

    ticket: int
    seconds: float
    inputs: Any = None  # of Pipeline.decode_inputs
    rows: list[Any] | None = None
    fault: Fault | None = None


class Loop:
    pipeline: Pipeline
    schedule: Tiers
    shown: Shown
    outlet: Outlet
    previews: Previews

    def __init__(
        self, make: Callable[[], Pipeline], sock: socket.socket, recorder: Recorder, *, pool: int = 2
    ) -> None:
        """`make` imports and constructs; it runs when the link is already watched."""
        self.make = make
        self.recorder = recorder
        self.sock = sock
        self.inbox, self.outbox = Inbox(sock), Outbox(sock)
        self.cost = Cost()
        self.intake = Pool(pool, "intake", self._fatal)
        self.pool = pool
        self._drawings: dict[int, Drawing] = {}
        self._settling: deque[Drawing] = deque()  # through another decoder or as another file, and only that
        self._ahead: set[int] = set()  # tickets with rows before their turn, made or being made
        self._counts = dict.fromkeys(("steps", "rows", "slots", "taken", "tiny_vae", "full_vae", *ENDS), 0)
        self._busy_s = 0.0
        self._reply_cost = Cost()

    def run(self) -> None:
        """Load, say Ready, draw until the link ends. Does not return."""
        for name, work in (("reader", self.inbox.run), ("writer", self.outbox.run)):
            threading.Thread(target=self._fatal(self._link), args=(work,), name=name, daemon=True).start()
        self._fatal(self._serve)()

    # ---- the step loop ----

    def _serve(self) -> None:
        try:
            started_s = self._load()
        except (Unloadable, ValueError) as error:  # what was asked for, not what went wrong
            print(f"engine: {error}", file=sys.stderr, flush=True)
            os._exit(os.EX_CONFIG)
        gc.collect()
        gc.freeze()  # looking for garbage in torch and all it loads would stop the steps for 0.3 s
        self._send(Ready(os.getpid(), self.pipeline.models, started_s))
        working = False
        while True:
            self._take(wait=not working)
            working = self._boundary()

    def _load(self) -> dict[str, float]:
        """Seconds by stage."""
        began = time.monotonic()
        self._send(Progress("import", 0, 1, ""))
        self.pipeline = self.make()
        imported = time.monotonic()
        self.pipeline.load(lambda *progress: self._send(Progress(*progress)))
        self.schedule = Tiers(self.cost, self.pipeline.buckets)
        self.shown = Shown(self.pipeline)
        out = (self._send, self._fatal)
        self.previews = Previews(self.pipeline, *out)
        self.outlet = Outlet(self.pipeline, self.cost, self.shown, self.inbox, *out, pool=self.pool)
        return {"import": imported - began, "load": time.monotonic() - imported}

    def _boundary(self) -> bool:
        """One step boundary and the call after it. False when there is nothing to draw.

        Of the frames that only settle, one: a session can ask for them as fast as they are answered.
        """
        for ticket in self.schedule.prepare():
            self.recorder.begin(ticket)
            ahead = self.pipeline.overlaps and len(self._ahead) < AHEAD
            if ahead:
                self._ahead.add(ticket)
            self.intake.submit(self._prepare, self._drawings[ticket], ahead)
        admission = self.schedule.admit(time.monotonic())
        self._supersede(admission.superseded)
        for ticket in admission.begin:
            self._begin(ticket)
        call = self.schedule.call()
        if call is not None:
            finished = self._step(call)
            self.outlet.leave([(self._drawings[ticket], image) for ticket, image in finished])
        settled = self._settle()
        return call is not None or settled

    def _settle(self) -> bool:
        """The frame that has waited longest for a decoder alone, if there is one."""
        while self._settling:
            drawing = self._settling.popleft()
            if drawing.over:
                continue
            drawing.begun = time.monotonic()
            self.recorder.begin(drawing.submit.ticket)
            self.outlet.leave([(drawing, image) for image in range(drawing.submit.job.count)])
            return True
        return False

    def _begin(self, ticket: int) -> None:
        drawing = self._drawings[ticket]
        drawing.begun = time.monotonic()
        self.recorder.begin(ticket)
        self._ahead.discard(ticket)
        if not drawing.ahead:
            try:
                drawing.rows = list(self.pipeline.rows(drawing.submit.job, drawing.inputs))
            except Fault as fault:
                self._refuse(ticket, fault)
        drawing.inputs = None
        if drawing.submit.watch and drawing.rows:
            self._send(Started(ticket))

    def _step(self, call: Call) -> list[tuple[int, int]]:
        """One UNet call. Returns the (ticket, image) that are finished and not at fault."""
        drawings = [self._drawings[ticket] for ticket, _ in call.rows]
        rows = [drawing.rows[image] for drawing, (_, image) in zip(drawings, call.rows, strict=True)]
        faulty: Fault | None = None
        began = time.monotonic()
        try:
            self.pipeline.step(rows, call.bucket)
        except Fault as fault:
            faulty = fault
        seconds = time.monotonic() - began
        said: dict[str, float] = {"seconds": seconds, "batch": len(rows)}
        for drawing in set(drawings):
            drawing.stepped(said)
        self._busy_s += seconds
        for name, more in (("steps", 1), ("rows", len(rows)), ("slots", call.bucket), ("taken", call.slots)):
            self._counts[name] += more
        finished = self.schedule.stepped(call, seconds)
        if faulty is not None:
            at_fault = {id(row) for row in faulty.rows or rows}
            for (ticket, _), row in zip(call.rows, rows, strict=True):
                if id(row) in at_fault:
                    self._refuse(ticket, faulty)
        for drawing, (_, image) in zip(drawings, call.rows, strict=True):
            if drawing.submit.watch == "steps":
                self.previews.after_step(drawing, image)
        return [(ticket, image) for ticket, image in finished if ticket in self._drawings]

    # ---- what comes in ----

    def _take(self, wait: bool) -> None:
        for message in self.inbox.take(wait):
            match message:
                case Submit():
                    self._submit(message)
                case Cancel():
                    self._cancel(message.tickets)
                case Ping():
                    self._send(Pong(message.number, self._stats()))
                case _Prepared():
                    self._ready(message)
                case Decoded():
                    self._busy_s += message.seconds
                    self._counts[f"{message.vae}_vae"] += message.count
                    each = message.seconds / message.count
                    self.cost.observe(vae(message.lane, message.vae), 1, each)
                case Finished():
                    self._finish(message)
                case _:
                    raise LinkError(f"{type(message).__name__} is no message to an engine")

    def _submit(self, submit: Submit) -> None:
        job = submit.job
        if job.vae == "auto":  # the picture in the hand is soon replaced by the next one
            job = replace(job, vae="tiny" if submit.buffering else "full")
            submit = replace(submit, job=job)
        match self.shown.answer(submit):
            case Done() as done:
                self._counts["again"] += 1
                self._send(done)
                return
            case Drawing() as drawing:
                self._counts["settled"] += 1
                self._drawings[submit.ticket] = drawing
                self._settling.append(drawing)
                return
        self._drawings[submit.ticket] = Drawing(submit)
        try:
            if len(self._drawings) > MAX_HELD:
                raise Fault("out_of_memory", f"the engine holds {MAX_HELD} requests; come back later")
            lane, steps, slots = self.pipeline.lane(job)
        except Fault as fault:
            self._refuse(submit.ticket, fault)
            return
        request = Request(
            ticket=submit.ticket,
            session=submit.session,
            received=submit.received,
            lane=lane,
            steps=steps,
            slots=slots,
            count=job.count,
            buffering=submit.buffering,
            deadline=self._deadline(submit),
            weight=submit.weight,
            account=submit.account,
            background=submit.background,
            vae=job.vae,
        )
        ready = job.image is None and (not self.pipeline.overlaps or self.pipeline.knows(job))
        self._supersede(self.schedule.submit(request, ready=ready))

    def _deadline(self, submit: Submit) -> float:
        """By when it must be decoded for its reply to arrive in time; admission fills all that is allowed."""
        if submit.deadline_s is None:
            return math.inf
        reply = self._reply_cost.predict(REPLY, 1) * (1.0 + self._reply_cost.spread(REPLY)) + TRANSIT_S
        allowed = min(reply, submit.deadline_s / 5)  # one slow reply is no rule
        return submit.received + submit.deadline_s - allowed

    def _ready(self, prepared: _Prepared) -> None:
        ticket = prepared.ticket
        self.recorder.end(ticket)
        drawing = self._drawings.get(ticket)
        if drawing is None:
            return
        drawing.prepared_s = prepared.seconds
        if prepared.fault is not None:
            self._refuse(ticket, prepared.fault)
            return
        drawing.inputs = prepared.inputs
        drawing.prepared = ("vae_encode",) if self.pipeline.overlaps else ()
        if prepared.rows is not None:
            drawing.rows, drawing.ahead = prepared.rows, True
            drawing.prepared = ("text", "vae_encode")
        self._supersede(self.schedule.ready(ticket))

    def _finish(self, finished: Finished) -> None:
        ticket = finished.drawing.submit.ticket
        self.recorder.end(ticket)
        if finished.fault is not None:
            self._refuse(ticket, finished.fault)
        elif self._gone(ticket) is not None:
            self._counts["done"] += 1
            self._reply_cost.observe(REPLY, 1, finished.seconds)

    def _cancel(self, tickets: Iterable[int]) -> None:
        tickets = [ticket for ticket in tickets if ticket in self._drawings]
        self._counts["cancelled"] += len(tickets)
        self.schedule.cancel(tickets)
        for ticket in tickets:
            self.recorder.end(ticket)
            if (drawing := self._gone(ticket)) is not None:
                drawing.close()

    def _supersede(self, tickets: Iterable[int]) -> None:
        for ticket in tickets:
            if (drawing := self._gone(ticket)) is not None:
                drawing.close()
            self._counts["superseded"] += 1
            self._send(Dropped(ticket, "superseded"))

    def _refuse(self, ticket: int, fault: Fault) -> None:
        drawing = self._gone(ticket)
        self.schedule.cancel([ticket])
        self.recorder.end(ticket)
        if drawing is not None and drawing.close():
            self._counts["refused"] += 1
            self._send(Refused(ticket, fault.code, fault.reason, fault.field))

    def _gone(self, ticket: int) -> Drawing | None:
        self._ahead.discard(ticket)
        return self._drawings.pop(ticket, None)

    # ---- on the pool ----

    def _prepare(self, drawing: Drawing, ahead: bool) -> None:
        """ahead: its rows as well."""
        began, job = time.monotonic(), drawing.submit.job
        inputs = rows = fault = None
        try:
            if not drawing.over:
                inputs = self.pipeline.decode_inputs(job)
            if ahead and not drawing.over:
                rows = list(self.pipeline.rows(job, inputs, ahead=True))
        except Fault as found:
            fault = found
        self.inbox.put(_Prepared(drawing.submit.ticket, time.monotonic() - began, inputs, rows, fault))

    # ---- the link ----

    def _link(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            work()
        os._exit(0)  # the gateway is gone, and with it everybody who could want a picture

    def _send(self, message: Message) -> None:
        """Blocks while the gateway has much to read. Any thread."""
        try:
            self.outbox.send(pack(message))
        except OSError:
            os._exit(0)

    def _stats(self) -> dict[str, float]:
        counts = {name: float(count) for name, count in self._counts.items()}
        taken = counts.pop("taken")
        return counts | {
            "occupancy": taken / counts["slots"] if counts["slots"] else 0.0,
            "busy_s": self._busy_s,
            "step_s": self.cost.slowest(),
            "waiting": float(self.schedule.waiting),
            "running": float(self.schedule.running),
            "ahead": float(len(self._ahead)),
            **self.pipeline.stats(),
        }

    @staticmethod
    def _fatal(work: Callable[..., None]) -> Callable[..., None]:
        """`work`, such that an exception out of it ends the process, with one traceback on stderr."""

        def guarded(*given: Any) -> None:
            try:
                work(*given)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(70)

        return guarded
