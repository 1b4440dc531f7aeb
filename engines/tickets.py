"""The requests in this process, by ticket, and how each ends: once, and out of every place it has.

Called on the step loop's thread alone. Answers are made on the pool's, though: a drawing that was closed
there has its answer already, and the loop hears of it later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engines.drawing import Drawing
from engines.intake import Intake
from engines.messages import Done, Dropped, Message, Refused
from engines.pipeline import Fault
from engines.recorder import Recorder
from engines.tiers import Tiers

MAX_HELD = 4096  # requests in this process; more are refused
ENDS = ("done", "again", "refused", "superseded", "cancelled")


class Tickets:
    def __init__(
        self, schedule: Tiers, intake: Intake, recorder: Recorder, send: Callable[[Message], None]
    ) -> None:
        """send: to the gateway."""
        self.ends = dict.fromkeys(ENDS, 0)
        self._schedule, self._intake, self._recorder, self._send = schedule, intake, recorder, send
        self._drawings: dict[int, Drawing] = {}

    def add(self, drawing: Drawing) -> None:
        self._drawings[drawing.submit.ticket] = drawing

    @property
    def full(self) -> bool:
        """There are more than this process holds."""
        return len(self._drawings) > MAX_HELD

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._drawings

    def __getitem__(self, ticket: int) -> Drawing:
        return self._drawings[ticket]

    # ---- the ends ----

    def again(self, done: Done) -> None:
        """Answered as it came: it was never here."""
        self.ends["again"] += 1
        self._send(done)

    def done(self, ticket: int) -> bool:
        """It has been answered. Whether it was here until now."""
        self._recorder.end(ticket)
        here = self._leave(ticket) is not None
        self.ends["done"] += here
        return here

    def refuse(self, ticket: int, fault: Fault) -> None:
        drawing = self._leave(ticket)
        self._schedule.cancel([ticket])
        self._recorder.end(ticket)
        if drawing is not None and drawing.close():
            self.ends["refused"] += 1
            self._send(Refused(ticket, fault.code, fault.reason, fault.field))

    def supersede(self, tickets: Iterable[int]) -> None:
        """The schedule has dropped these."""
        for ticket in tickets:
            if (drawing := self._leave(ticket)) is not None:
                drawing.close()
            self.ends["superseded"] += 1
            self._send(Dropped(ticket, "superseded"))

    def cancel(self, tickets: Iterable[int]) -> None:
        """Nobody waits for these. Unknown ones are ignored."""
        tickets = [ticket for ticket in dict.fromkeys(tickets) if ticket in self._drawings]
        self.ends["cancelled"] += len(tickets)
        self._schedule.cancel(tickets)
        for ticket in tickets:
            self._recorder.end(ticket)
            if (drawing := self._leave(ticket)) is not None:
                drawing.close()

    def _leave(self, ticket: int) -> Drawing | None:
        self._intake.forget(ticket)
        return self._drawings.pop(ticket, None)
