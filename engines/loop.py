"""The engine process: one thread that steps, and the threads that keep it from waiting.

    inbox      link -> messages; end of file ends the process at once       (reader thread)
    intake     pictures of a job -> pixels; and on to rows, in the loop's place, where the device makes
               them beside the next call                                    (a pool)
    loop       inbox -> schedule -> rows -> UNet call -> outlet             (the main thread)
    watcher    a UNet call that the device has been given -> its end -> outlet  (a thread)
    previews   rows between two steps -> JPEG, for those who asked          (a thread)
    outlet     rows -> VAE decode, in the loop's place, where the device does it beside the next call;
               pixels -> JPEG, PNG, WebP -> answers                         (decoder, and a pool)
    outbox     answers -> link; what the gateway did not read at once       (writer thread)

Each is a module, `tickets` the account of all requests in here, and `shown` spares steps to frames that
change nothing. Outlet and outbox are bounded, so a gateway that does not read stops the loop.

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from engines.cost import Cost
from engines.drawing import Drawing
from engines.inbox import Inbox
from engines.intake import Intake, Prepared
from engines.line import Line
from engines.link import LinkError, pack
from engines.mailbox import Request
from engines.messages import Cancel, Done, Message, Ping, Pong, Progress, Ready, Started, Submit
from engines.outbox import Outbox
from engines.outlet import Decoded, Finished, Image, Outlet
from engines.outlook import vae
from engines.pipeline import Fault, Pipeline, Running, Unloadable
from engines.pool import Pool
from engines.previews import Previews
from engines.recorder import Recorder
from engines.schedule import Call
from engines.shown import Shown
from engines.tickets import MAX_HELD, Tickets
from engines.tiers import Tiers

TRANSIT_S = 0.010  # of a reply from here through the gateway to a client nearby
REPLY = "reply"  # the work of making one out of pixels
COUNTERS = ("steps", "rows", "slots", "taken", "tiny_vae", "full_vae", "settled")


@dataclass(slots=True)
class Stepped:
    """A call, and what it finishes. To the loop, from the watcher: it has ended."""

    call: Call
    finished: list[list[Image]]  # as they leave together
    said: dict[str, float]  # its seconds and rows, in the account of every drawing that has one in it
    ended: float = 0.0  # stamp


class Loop:
    pipeline: Pipeline
    schedule: Tiers
    tickets: Tickets
    shown: Shown
    intake: Intake
    previews: Previews
    outlet: Outlet

    def __init__(
        self, make: Callable[[], Pipeline], sock: socket.socket, recorder: Recorder, *, pool: int = 2
    ) -> None:
        """`make` imports and constructs; it runs when the link is already watched."""
        self.make = make
        self.recorder = recorder
        self.sock = sock
        self.inbox, self.outbox = Inbox(sock), Outbox(sock)
        self.threads = pool
        self.cost = Cost()
        self._line: Line[Stepped] = Line()
        self._watcher = Pool(1, "watcher", self._fatal)
        self._settling: deque[Drawing] = deque()  # through another decoder or as another file, and only that
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._busy_s = 0.0
        self._reply_cost = Cost()

    def run(self) -> None:
        """Load, say Ready, draw until the link ends. Does not return."""
        for name, work in (("reader", self.inbox.run), ("writer", self.outbox.run)):
            threading.Thread(target=self._fatal(self._link), args=(work,), name=name, daemon=True).start()
        self._fatal(self._serve)()

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
            working = self._take(self._line.rest(time.monotonic()) if working else math.inf) or working
            self._prepare()
            if working and not self._line.rest(time.monotonic()):
                working = self._boundary()
                self._prepare()

    def _load(self) -> dict[str, float]:
        """Seconds by stage."""
        began = time.monotonic()
        self._send(Progress("import", 0, 1, ""))
        self.pipeline = self.make()
        imported = time.monotonic()
        self.pipeline.load(lambda *progress: self._send(Progress(*progress)))
        self.schedule = Tiers(self.cost, self.pipeline.buckets)
        self.shown = Shown(self.pipeline)
        self.intake = Intake(self.pipeline, self.inbox, self._fatal, pool=self.threads)
        self.tickets = Tickets(self.schedule, self.intake, self.recorder, self._send)
        self.previews = Previews(self.pipeline, self._send, self._fatal)
        self.outlet = Outlet(
            self.pipeline, self.cost, self.shown, self.inbox, self._send, self._fatal, pool=self.threads
        )
        return {"import": imported - began, "load": time.monotonic() - imported}

    # ---- what comes in ----

    def _take(self, wait_s: float) -> bool:
        """Whether there was anything."""
        message = None
        for message in self.inbox.take(wait_s):
            match message:
                case Submit():
                    self._submit(message)
                case Cancel():
                    self.tickets.cancel(message.tickets)
                case Ping():
                    # Behind the calls that the device has by now: if it hangs, so does the answer.
                    self._watcher.submit(self._send, Pong(message.number, self._stats()))
                case Prepared():
                    self._ready(message)
                case Stepped():
                    self._stepped(self._line.done(message.ended))
                case Decoded():
                    self._decoded(message)
                case Finished():
                    self._finish(message)
                case _:
                    raise LinkError(f"{type(message).__name__} is no message to an engine")
        return message is not None

    def _submit(self, submit: Submit) -> None:
        job = submit.job
        if job.vae == "auto":  # the picture in the hand is soon replaced by the next one
            job = replace(job, vae="tiny" if submit.buffering else "full")
            submit = replace(submit, job=job)
        match self.shown.answer(submit):
            case Done() as done:
                self.tickets.again(done)
                return
            case Drawing() as drawing:
                self._counts["settled"] += 1
                self.tickets.add(drawing)
                self._settling.append(drawing)
                return
        self.tickets.add(Drawing(submit))
        try:
            if self.tickets.full:
                raise Fault("out_of_memory", f"the engine holds {MAX_HELD} requests; come back later")
            lane, steps, slots = self.pipeline.lane(job)
        except Fault as fault:
            self.tickets.refuse(submit.ticket, fault)
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
        skips = self.intake.skips(job, idle=not self.schedule.running)
        self.tickets.supersede(self.schedule.submit(request, ready=skips))

    def _deadline(self, submit: Submit) -> float:
        """By when it must be decoded for its reply to arrive in time; admission fills all that is allowed."""
        if submit.deadline_s is None:
            return math.inf
        reply = self._reply_cost.predict(REPLY, 1) * (1.0 + self._reply_cost.spread(REPLY)) + TRANSIT_S
        allowed = min(reply, submit.deadline_s / 5)  # one slow reply is no rule
        return submit.received + submit.deadline_s - allowed

    def _ready(self, prepared: Prepared) -> None:
        ticket = prepared.drawing.submit.ticket
        self.recorder.end(ticket)
        if ticket not in self.tickets:
            return
        try:
            self.intake.hand_over(prepared)
        except Fault as fault:
            self.tickets.refuse(ticket, fault)
            return
        self.tickets.supersede(self.schedule.ready(ticket))

    def _decoded(self, decoded: Decoded) -> None:
        self._busy_s += decoded.seconds
        self._counts[f"{decoded.vae}_vae"] += decoded.count
        self.cost.observe(vae(decoded.lane, decoded.vae), 1, decoded.seconds / decoded.count)

    def _finish(self, finished: Finished) -> None:
        ticket = finished.drawing.submit.ticket
        if finished.fault is not None:
            self.tickets.refuse(ticket, finished.fault)
        elif self.tickets.done(ticket):
            self._reply_cost.observe(REPLY, 1, finished.seconds)

    # ---- one step boundary ----

    def _boundary(self) -> bool:
        """One step boundary and the call after it. False when there is nothing to draw.

        Of the frames that only settle, one: a session can ask for them as fast as they are answered.
        """
        began = time.monotonic()
        admission = self.schedule.admit(self._line.starts(began))
        self.tickets.supersede(admission.superseded)
        for ticket in admission.begin:
            self._begin(ticket)
        call = self.schedule.call()
        if call is not None:
            self._step(call, began)
        settled = self._settle()
        return call is not None or settled

    def _prepare(self) -> None:
        for ticket in self.schedule.prepare():
            self.recorder.begin(ticket)
            self.intake.prepare(self.tickets[ticket])

    def _settle(self) -> bool:
        """The frame that has waited longest for a decoder alone, if there is one."""
        while self._settling:
            drawing = self._settling.popleft()
            if drawing.over:
                continue
            drawing.begun = time.monotonic()
            self.recorder.begin(drawing.submit.ticket)
            images = [(drawing, image) for image in range(drawing.submit.job.count)]
            self.outlet.leave(self.outlet.groups(images))
            return True
        return False

    def _begin(self, ticket: int) -> None:
        drawing = self.tickets[ticket]
        drawing.begun = time.monotonic()
        self.recorder.begin(ticket)
        try:
            self.intake.enter(drawing)
        except Fault as fault:
            self.tickets.refuse(ticket, fault)
            return
        if drawing.submit.watch:
            self._send(Started(ticket))

    def _step(self, call: Call, boundary: float) -> None:
        """One UNet call, given to the device by a boundary that began then."""
        drawings = [self.tickets[ticket] for ticket, _ in call.rows]
        rows = [drawing.rows[image] for drawing, (_, image) in zip(drawings, call.rows, strict=True)]
        faulty: Fault | None = None
        running: Running | None = None
        began = time.monotonic()
        try:
            running = self.pipeline.launch(rows, call.bucket)
        except Fault as fault:
            faulty = fault
        now = time.monotonic()
        said: dict[str, float] = {"seconds": now - began, "batch": len(rows)}
        for drawing in set(drawings):
            drawing.stepped(said)
        for name, more in (("steps", 1), ("rows", len(rows)), ("slots", call.bucket), ("taken", call.slots)):
            self._counts[name] += more
        finished = self.schedule.stepped(call)
        if faulty is not None:
            at_fault = {id(row) for row in faulty.rows or rows}
            for (ticket, _), row in zip(call.rows, rows, strict=True):
                if id(row) in at_fault:
                    self.tickets.refuse(ticket, faulty)
        for drawing, (_, image) in zip(drawings, call.rows, strict=True):
            if drawing.submit.watch == "steps":
                self.previews.after_step(drawing, image)
        images = [(self.tickets[ticket], image) for ticket, image in finished if ticket in self.tickets]
        stepped = Stepped(call, self.outlet.groups(images), said)
        if running is None:
            self.outlet.leave(stepped.finished)
            self._stepped(stepped)
        else:
            self._line.give(stepped, boundary, began, now, call.seconds)
            self._watcher.submit(self._watch, stepped, running)

    def _watch(self, stepped: Stepped, running: Running) -> None:
        """On the watcher: what is finished leaves, whatever the loop does now."""
        stepped.said["seconds"] = running.wait()
        stepped.ended = time.monotonic()
        self.outlet.leave(stepped.finished)
        self.inbox.put(stepped)

    def _stepped(self, stepped: Stepped) -> None:
        """A call has ended."""
        seconds = stepped.said["seconds"]
        self._busy_s += seconds
        self.schedule.took(stepped.call, seconds)

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
        counts = {name: float(count) for name, count in (self._counts | self.tickets.ends).items()}
        taken = counts.pop("taken")
        return counts | {
            "occupancy": taken / counts["slots"] if counts["slots"] else 0.0,
            "busy_s": self._busy_s,
            "step_s": self.cost.slowest(),
            "waiting": float(self.schedule.waiting),
            "running": float(self.schedule.running),
            "ahead": float(self.intake.ahead),
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
