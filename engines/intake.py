"""The way in, before a request's turn: its pictures to pixels, and on to rows where the device makes them
beside the next call.

All is called on the step loop's thread and the work is done on the pool's; rows that were not made there
are made by the loop, at their turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engines.drawing import Drawing
from engines.inbox import Inbox
from engines.messages import Job
from engines.pipeline import Fault, Pipeline
from engines.pool import Pool, Work

AHEAD = 64  # requests whose rows are made before their turn: they lie in the device's memory


@dataclass(frozen=True, slots=True)
class Prepared:
    """To the loop: what came of a job's image and mask, and its rows if they are made ahead."""

    drawing: Drawing
    seconds: float
    inputs: Any = None  # of Pipeline.decode_inputs
    rows: list[Any] | None = None
    fault: Fault | None = None


class Intake:
    def __init__(self, pipeline: Pipeline, inbox: Inbox, guard: Callable[[Work], Work], *, pool: int) -> None:
        """pool: threads."""
        self._pipeline, self._inbox = pipeline, inbox
        self._pool = Pool(pool, "intake", guard)
        self._ahead: set[int] = set()  # tickets with rows before their turn, made or being made

    @property
    def ahead(self) -> int:
        """Requests with rows before their turn."""
        return len(self._ahead)

    def skips(self, job: Job, idle: bool) -> bool:
        """Whether there is nothing to do before its turn. idle: the device is, and a thread would only come
        in between."""
        if job.image is not None:
            return False
        return not self._pipeline.overlaps or (idle and self._pipeline.knows(job))

    def prepare(self, drawing: Drawing) -> None:
        """Begin; the inbox is told what came of it, as Prepared."""
        ahead = self._pipeline.overlaps and len(self._ahead) < AHEAD
        if ahead:
            self._ahead.add(drawing.submit.ticket)
        self._pool.submit(self._prepare, drawing, ahead)

    def hand_over(self, prepared: Prepared) -> None:
        """To its drawing what was made for it. Raises the Fault, if that is what came of it."""
        drawing = prepared.drawing
        drawing.prepared_s = prepared.seconds
        if prepared.fault is not None:
            raise prepared.fault
        drawing.inputs = prepared.inputs
        drawing.prepared = ("vae_encode",) if self._pipeline.overlaps else ()
        if prepared.rows is not None:
            drawing.rows, drawing.ahead = prepared.rows, True
            drawing.prepared = ("text", "vae_encode")

    def enter(self, drawing: Drawing) -> None:
        """Its turn: it has its rows after this. Raises Fault if none can be made."""
        self._ahead.discard(drawing.submit.ticket)
        inputs, drawing.inputs = drawing.inputs, None
        if not drawing.ahead:
            drawing.rows = list(self._pipeline.rows(drawing.submit.job, inputs))

    def forget(self, ticket: int) -> None:
        """It has ended. Its place ahead of the turns is free; unknown ones are ignored."""
        self._ahead.discard(ticket)

    def _prepare(self, drawing: Drawing, ahead: bool) -> None:
        """On the pool. ahead: its rows as well."""
        began, job = time.monotonic(), drawing.submit.job
        inputs = rows = fault = None
        try:
            if not drawing.over:
                inputs = self._pipeline.decode_inputs(job)
            if ahead and not drawing.over:
                rows = list(self._pipeline.rows(job, inputs))
        except Fault as found:
            fault = found
        self._inbox.put(Prepared(drawing, time.monotonic() - began, inputs, rows, fault))
