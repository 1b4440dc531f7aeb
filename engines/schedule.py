"""Which pictures go into the next UNet call. Pure: no torch, no threads, no clock (`now` comes in).

The unit of scheduling is one UNet call, so the engine asks at every step boundary:

    admit(now)      newcomers that join now            (the loop prepares their rows)
    call()          the lane, rows and bucket to run   (the loop has the device run them)
    stepped(call)   what that call finishes            (the next boundary may come while it runs)
    took(...)       the seconds it took

Policy, in order of force:
 1. One lane per call; every row of the lane that has been admitted is in its call.
 2. Inside a session strict order, one request drawing at a time, and newest-wins among its waiting
    ones down to `buffering` (0: all are kept). A frame already late gives way to any newer one.
 3. Nobody waits for ever: a session passed over at `patience` boundaries goes first, on time or not.
 4. Accounts, that is sessions or groups of them, take turns by service received (deficit round robin on
    predicted seconds), then by deadline.
 5. A newcomer joins only if everybody on time stays on time, itself included; else the next is tried.
    Big batches without this rule lower goodput: 1 of 13 pictures in time against 13 of 14.
 6. An idle engine starts at once, whatever the deadline says.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engines.cost import Accounts, Cost
from engines.mailbox import Held, Mailbox, Request
from engines.outlook import Outlook, Row, bucket, vae

MAX_STEPS = 12
PATIENCE = 32  # boundaries, and as many again for every 8 sessions: so long do turns take under overload
LANE_PATIENCE = 8  # boundaries
STRETCH = 3.0  # times what a picture takes alone
_OVERDUE = -1.0  # a turn before all turns

_Turn = tuple[tuple[float, ...], Mailbox, Held]  # what `Schedule._order` says, no two alike


@dataclass(frozen=True, slots=True)
class Admission:
    begin: list[int]  # tickets whose rows are needed from now on
    superseded: list[int]


@dataclass(frozen=True, slots=True)
class Call:
    lane: str
    rows: list[tuple[int, int]]  # (ticket, image)
    slots: int  # places the rows take
    bucket: int  # places the call has
    weight: float = 1.0  # of all who draw in its lane
    seconds: float = 0.0  # it will take, as far as is known
    background: bool = False  # as Request


class Schedule:
    def __init__(self, cost: Cost, buckets: Sequence[int]) -> None:
        """`buckets`: slots a call may have, ascending; one alone makes pictures independent of the load."""
        self.cost = cost
        self.buckets = tuple(buckets)
        self.max_batch = self.buckets[-1]
        self._sessions: dict[str, Mailbox] = {}
        self._held: dict[int, Held] = {}
        self._lanes: dict[str, dict[int, Held]] = {}  # lane -> its drawing requests by ticket
        self._lane_turn: dict[str, int] = {}  # lane -> boundary of its last call
        self._unprepared: set[str] = set()
        self._payers: Counter[str] = Counter()  # accounts by their requests here
        self._paid = Accounts()  # of payers
        self._lanes_paid = Accounts()
        self._quantum = 1e-3  # seconds of service that make a turn: what one image costs on average
        self._alone_s: dict[tuple[str, int, int, str], float] = {}
        self._boundary = 0

    # ---- what comes and goes ----

    def submit(self, request: Request, *, ready: bool = True) -> list[int]:
        """Take a request; not `ready` while its inputs are undecoded. Returns the tickets it superseded."""
        held = self._held[request.ticket] = Held(request, ready)
        mailbox = self._sessions.setdefault(request.session, Mailbox())
        mailbox.waiting.append(held)
        self._payers[request.payer] += 1
        self._unprepared.add(request.session)
        return self._forget(mailbox.supersede(request.buffering))

    def prepare(self) -> list[int]:
        """Tickets whose inputs are to be decoded now."""
        mailboxes = [self._sessions[name] for name in self._unprepared if name in self._sessions]
        self._unprepared.clear()
        return [held.request.ticket for mailbox in mailboxes if (held := mailbox.prepare())]

    def ready(self, ticket: int) -> list[int]:
        """The inputs of a ticket are decoded. Returns the tickets this superseded."""
        held = self._held.get(ticket)
        if held is None:
            return []
        held.ready, held.preparing = True, False
        self._unprepared.add(held.request.session)
        return self._forget(self._sessions[held.request.session].supersede(held.request.buffering))

    def cancel(self, tickets: Iterable[int]) -> None:
        """Forget these, waiting or drawing, and free their places. Unknown ones are ignored."""
        for ticket in tickets:
            held = self._held.get(ticket)
            if held is None:
                continue
            mailbox = self._sessions[held.request.session]
            if mailbox.running is held:
                held.left.clear()
                held.begun = held.request.count
                self._end(held)
            else:
                mailbox.waiting.remove(held)
                self._unprepared.add(held.request.session)
                self._forget([held])

    # ---- one boundary ----

    def admit(self, now: float) -> Admission:
        """Who joins at this boundary."""
        self._boundary += 1
        self._paid.level(self._payers)
        begin: list[int] = []
        superseded: list[int] = []
        queue: list[_Turn] = []
        for mailbox in self._sessions.values():
            if len(mailbox.waiting) > 1:
                superseded += self._forget(mailbox.give_way(lambda request: self._is_late(request, now)))
            held = mailbox.next()
            if held is None:
                mailbox.since = None
                continue
            if mailbox.since is None:
                mailbox.since = self._boundary
            queue.append((self._order(mailbox, held), mailbox, held))
        outlook = self._outlook(now)
        if self._all_welcome(outlook, queue):  # as a rule; nobody's turn matters then
            return Admission([self._join(mailbox)[0] for _, mailbox, _ in sorted(queue)], superseded)
        heapq.heapify(queue)
        reserved: set[str] = set()
        passed: list[Mailbox] = []
        while queue:
            (turn, *_, deadline, _), mailbox, held = heapq.heappop(queue)
            request, overdue = held.request, turn == _OVERDUE
            if request.lane in reserved:
                continue
            if not outlook.fits(request.lane, request.slots):
                if overdue:  # the place that frees next is theirs
                    reserved.add(request.lane)
            elif overdue or outlook.welcome(_row(request, request.steps, deadline)):
                begin += self._join(mailbox)
                outlook = outlook.joined(_row(request, request.steps, self._deadline(request)))
                if mailbox.next() is held:
                    heapq.heappush(queue, (self._order(mailbox, held), mailbox, held))
            else:
                passed.append(mailbox)
        if not self._lanes and passed:
            begin += self._join(passed[0])
        return Admission(begin, superseded)

    def _all_welcome(self, outlook: Outlook, queue: Sequence[_Turn]) -> bool:
        """Would each of these join now, with a request of one image, whatever came of the others?"""
        return all(held.request.count == 1 for _, _, held in queue) and outlook.all_welcome(
            [_row(held.request, held.request.steps, self._deadline(held.request)) for _, _, held in queue]
        )

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._held

    def call(self, longest: float = math.inf) -> Call | None:
        """The next UNet call, or None when nothing is drawing.

        longest: times the shortest call of its lane; rows that do not fit into that stay as they are.
        """
        if not self._lanes:
            return None
        lanes = sorted(self._lanes)
        self._lanes_paid.level(lanes)
        turn = {lane: self._lane_turn.setdefault(lane, self._boundary) for lane in lanes}
        lane = min(lanes, key=lambda name: turn[name])
        if self._boundary - turn[lane] < LANE_PATIENCE:
            lane = min(lanes, key=lambda name: (self._lanes_paid.ahead(name), turn[name]))
        self._lane_turn = {name: turn[name] for name in lanes}
        rows = [(ticket, image) for ticket, held in self._lanes[lane].items() for image in held.left]
        slots = sum(held.request.slots * len(held.left) for held in self._lanes[lane].values())
        if longest < math.inf:
            rows, slots = self._first(lane, longest)
        drawing = [held.request for held in self._lanes[lane].values()]
        weight, background = sum(request.weight for request in drawing), drawing[0].background
        places = bucket(slots, self.buckets)
        return Call(lane, rows, slots, places, weight, self.cost.predict(lane, places), background)

    def _first(self, lane: str, longest: float) -> tuple[list[tuple[int, int]], int]:
        """(rows, slots) of the longest drawing of a lane that fit into such a call; one in any case."""
        limit = longest * self.cost.predict(lane, self.buckets[0])
        places = max((size for size in self.buckets if self.cost.predict(lane, size) <= limit), default=0)
        rows: list[tuple[int, int]] = []
        slots = 0
        for ticket, held in self._lanes[lane].items():
            for image in held.left:
                if rows and slots + held.request.slots > places:
                    return rows, slots
                rows.append((ticket, image))
                slots += held.request.slots
        return rows, slots

    def stepped(self, call: Call) -> list[tuple[int, int]]:
        """The call is done, or will be before any other. Returns the rows it finishes. `took` follows."""
        self._lanes_paid.charge(call.lane, call.seconds, call.weight)
        drawing = self._lanes[call.lane]
        self._lane_turn[call.lane] = self._boundary
        finished = []
        for ticket, image in call.rows:
            held = drawing[ticket]
            held.left[image] -= 1
            if held.left[image] == 0:
                del held.left[image]
                finished.append((ticket, image))
        for ticket in {ticket for ticket, _ in finished}:
            self._end(drawing[ticket])
        return finished

    def took(self, call: Call, seconds: float) -> None:
        """What it has cost, and not what was thought."""
        self.cost.observe(call.lane, call.bucket, seconds)
        self._alone_s.clear()
        self._lanes_paid.charge(call.lane, seconds - call.seconds, call.weight)

    # ---- what can be asked ----

    @property
    def waiting(self) -> int:
        return sum(len(session.waiting) for session in self._sessions.values())

    @property
    def running(self) -> int:
        return len(self._held) - self.waiting

    @property
    def patience(self) -> int:
        """Boundaries after which a session that was passed over goes first."""
        return PATIENCE + PATIENCE * len(self._sessions) // 8

    def bound(self, lanes: int = 1) -> int:
        """k: no session waits longer at the head of its queue, in boundaries, with these many sessions here.

        `patience`, then one row of at most MAX_STEPS calls for each session ahead; a lane has its call
        at the latest every LANE_PATIENCE + lanes boundaries.
        """
        gap = 1 if lanes == 1 else LANE_PATIENCE + lanes
        return self.patience + len(self._sessions) * MAX_STEPS * gap

    # ---- the rules ----

    def _order(self, mailbox: Mailbox, held: Held) -> tuple[float, ...]:
        """Overdue sessions, longest waiting first; then by turn, and by deadline within a turn."""
        request = held.request
        # the sooner the last image of a request is begun the better, in time or not
        deadline = math.inf if held.begun else self._deadline(request)
        since = self._boundary if mailbox.since is None else mailbox.since
        if self._boundary - since >= self.patience:
            return (_OVERDUE, since, deadline, request.ticket)
        return (self._paid.ahead(request.payer) // self._quantum, 0, deadline, request.ticket)

    def _alone(self, request: Request) -> float:
        """Seconds one image takes on an idle engine."""
        kind = (request.lane, request.steps, request.slots, request.vae)
        if kind not in self._alone_s:
            call = self.cost.predict(request.lane, bucket(request.slots, self.buckets))
            self._alone_s[kind] = request.steps * call + self.cost.predict(vae(request.lane, request.vae), 1)
        return self._alone_s[kind]

    def _is_late(self, request: Request, now: float) -> bool:
        margin = 1.0 + self.cost.spread(request.lane)
        return now + self._alone(request) * margin > self._deadline(request)

    def _deadline(self, request: Request) -> float:
        """One that even an idle engine could not meet is moved to where it can order and bound again."""
        alone = self._alone(request)
        if request.received + alone > request.deadline:
            return request.received + STRETCH * alone
        return request.deadline

    def _outlook(self, now: float) -> Outlook:
        rows = [
            _row(held.request, left, self._deadline(held.request))
            for drawing in self._lanes.values()
            for held in drawing.values()
            for left in held.left.values()
        ]
        return Outlook(now, rows, self.cost, self.buckets)

    # ---- bookkeeping ----

    def _join(self, mailbox: Mailbox) -> list[int]:
        """One more image of a session draws. Returns the ticket if it is the first of a request."""
        held = mailbox.join()
        request = held.request
        mailbox.since = self._boundary if held.begun < request.count else None
        self._lanes.setdefault(request.lane, {})[request.ticket] = held
        call = self.cost.predict(request.lane, self.max_batch)
        drawn = request.steps * request.slots * call / self.max_batch
        price = drawn + self.cost.predict(vae(request.lane, request.vae), 1) or 1e-3
        self._quantum += 0.1 * (price - self._quantum)
        self._paid.charge(request.payer, price, request.weight)
        return [request.ticket] if held.begun == 1 else []

    def _end(self, held: Held) -> None:
        """If no image of it draws, a request is over, or waits for places with its other images."""
        if held.left:
            return
        drawing = self._lanes.get(held.request.lane, {})
        drawing.pop(held.request.ticket, None)
        if not drawing:
            self._lanes.pop(held.request.lane, None)
        if held.begun == held.request.count:
            self._sessions[held.request.session].running = None
            self._forget([held])

    def _forget(self, gone: Sequence[Held]) -> list[int]:
        """Their tickets. A session without requests is forgotten with them."""
        for held in gone:
            del self._held[held.request.ticket]
            payer = held.request.payer
            self._payers[payer] -= 1
            if not self._payers[payer]:
                del self._payers[payer]
            if self._sessions[held.request.session].empty:
                del self._sessions[held.request.session]
        return [held.request.ticket for held in gone]


def _row(request: Request, left: int, deadline: float) -> Row:
    return Row(request.lane, left, request.slots, deadline, request.vae)
