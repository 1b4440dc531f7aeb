"""A request ends once, and is then nowhere any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engines.cost import Cost
from engines.drawing import Drawing
from engines.fake import Fake
from engines.inbox import Inbox
from engines.intake import Intake
from engines.mailbox import Request
from engines.messages import Done, Dropped, Job, Refused, Submit
from engines.pipeline import Fault
from engines.recorder import Recorder, page
from engines.tickets import ENDS, Tickets
from engines.tiers import Tiers

FAULT = Fault("invalid", "why", "prompt")
REFUSED = Refused(1, "invalid", "why", "prompt")


class Place:
    """Tickets with all that they are entered in."""

    def __init__(self) -> None:
        self.schedule = Tiers(Cost(), (1, 2, 4))
        self.intake = Intake(Fake(overlaps=1), Inbox(None), lambda work: work, pool=1)  # type: ignore[arg-type]
        self.recorder = Recorder(page())
        self.sent: list[Any] = []
        self.tickets = Tickets(self.schedule, self.intake, self.recorder, self.sent.append)

    def add(self, ticket: int) -> Drawing:
        """One that waits and is prepared ahead of its turn."""
        drawing = Drawing(Submit(ticket, f"s{ticket}", 0.0, Job("fox", 1, 64, 64)))
        self.tickets.add(drawing)
        self.schedule.submit(Request(ticket, f"s{ticket}", 0.0, "64x64", 4), ready=False)
        self.recorder.begin(ticket)
        self.intake.prepare(drawing)
        return drawing


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.recorder.close()


def ended(place: Place) -> dict[str, int]:
    return {end: count for end, count in place.tickets.ends.items() if count}


WAYS: dict[str, tuple[Callable[[Tickets, int], Any], list[Any]]] = {
    "done": (lambda tickets, ticket: tickets.done(ticket), []),
    "refused": (
        lambda tickets, ticket: tickets.refuse(ticket, FAULT),
        [Refused(1, "invalid", "why", "prompt")],
    ),
    "superseded": (lambda tickets, ticket: tickets.supersede([ticket]), [Dropped(1, "superseded")]),
    "cancelled": (lambda tickets, ticket: tickets.cancel([ticket, 77, ticket]), []),
}


@pytest.mark.parametrize("end", WAYS)
def test_a_request_that_ends_leaves_every_place_and_no_other_s(place, end):
    way, says = WAYS[end]
    work, other = place.add(1), place.add(2)
    if end in ("done", "superseded"):  # the schedule knows: it has drawn or dropped it
        place.schedule.cancel([1])
    if end == "superseded":
        place.recorder.end(1)  # what is being worked on is never dropped
    way(place.tickets, 1)
    assert 1 not in place.tickets
    assert 2 in place.tickets
    assert place.tickets[2] is other
    assert place.schedule.waiting == 1
    assert place.recorder.tickets() == {2}
    assert place.intake.ahead == 1
    assert ended(place) == {end: 1}
    assert place.sent == says
    assert work.over == (end != "done"), "nobody else answers it; who has, has closed it"
    assert not other.over


def test_of_two_faults_of_one_request_the_first_is_told(place):
    place.add(1)
    place.tickets.refuse(1, FAULT)
    place.tickets.refuse(1, Fault("internal", "another"))
    assert [message.code for message in place.sent] == ["invalid"]
    assert ended(place) == {"refused": 1}


def test_what_the_pool_has_answered_is_not_refused_as_well(place):
    assert place.add(1).close()
    place.tickets.refuse(1, FAULT)
    assert (place.sent, ended(place)) == ([], {})
    assert 1 not in place.tickets


def test_an_answer_to_what_was_cancelled_meanwhile_counts_as_cancelled_alone(place):
    place.add(1)
    place.tickets.cancel([1])
    assert not place.tickets.done(1)
    place.tickets.cancel([1])
    assert ended(place) == {"cancelled": 1}


def test_a_frame_answered_as_it_came_was_never_here(place):
    done = Done(5, [], 1, [64, 64], {}, 1.0)
    place.tickets.again(done)
    assert place.sent == [done]
    assert 5 not in place.tickets
    assert ended(place) == {"again": 1}


def test_there_is_an_end_to_how_many_are_held(place, monkeypatch):
    monkeypatch.setattr("engines.tickets.MAX_HELD", 2)
    seen = []
    for ticket in (1, 2, 3):
        place.add(ticket)
        seen.append(place.tickets.full)
    assert seen == [False, False, True]
    place.tickets.cancel([1])
    assert not place.tickets.full


def test_every_end_is_counted_from_the_start(place):
    assert set(place.tickets.ends) == set(ENDS)
