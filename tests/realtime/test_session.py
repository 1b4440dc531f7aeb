"""The mailbox, the credit and the order of a session."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtime.session import Session, Slot


def take_all(session: Session[int, str]) -> list[Slot[int, str]]:
    taken = []
    while (slot := session.take()) is not None:
        taken.append(slot)
    return taken


def test_newest_frame_replaces_a_waiting_one():
    session: Session[int, str] = Session(buffering=2)
    for number in range(5):
        session.offer(number, 1)
    assert [slot.request for slot in take_all(session)] == [3, 4]
    assert session.superseded == 3


def test_a_taken_frame_is_never_replaced():
    session: Session[int, str] = Session(buffering=1)
    session.offer(0, 1)
    taken = session.take()
    session.offer(1, 1)
    session.offer(2, 1)
    assert taken.request == 0
    assert session.superseded == 1
    assert [slot.request for slot in session.settle(taken, "done")] == [0]


def test_credit_is_two_more_than_may_wait():
    session: Session[int, str] = Session(buffering=2)
    for number in range(6):
        session.offer(number, 1)
        session.take()
    assert session.waiting == 2
    assert session.unanswered == 6


def test_credit_returns_when_a_result_is_written_not_when_it_is_known():
    session: Session[int, str] = Session(buffering=1)
    slots = []
    for number in range(4):
        session.offer(number, 1)
        slots.append(session.take())
    assert slots[3] is None
    session.settle(slots[0], "done")
    assert session.take() is None
    session.written()
    assert session.take().request == 3


def test_results_come_in_order_of_arrival():
    session: Session[int, str] = Session(buffering=60)
    for number in range(3):
        session.offer(number, 1)
    first, second, third = take_all(session)
    assert session.settle(third, "c") == []
    assert session.settle(second, "b") == []
    assert [slot.outcome for slot in session.settle(first, "a")] == ["a", "b", "c"]


def test_a_superseded_frame_holds_nobody_up():
    session: Session[int, str] = Session()
    session.offer(0, 1)
    session.offer(1, 1)
    first, second = take_all(session)
    assert session.settle(second, "b") == []
    assert [slot.outcome for slot in session.settle(first, None)] == ["b"]
    assert session.superseded == 1


def test_a_second_outcome_is_nothing():
    session: Session[int, str] = Session()
    session.offer(0, 1)
    slot = session.take()
    assert len(session.settle(slot, "a")) == 1
    assert session.settle(slot, "b") == []
    assert slot.outcome == "a"


def test_bytes_are_bounded_too_but_one_frame_always_fits():
    session: Session[int, str] = Session(buffering=60, max_bytes=100)
    for number in range(10):
        session.offer(number, 60)
    assert session.waiting == 1
    session.offer(10, 1000)
    assert [slot.request for slot in take_all(session)] == [10]


def test_frames_in_the_engine_are_bounded_in_bytes_too():
    session: Session[int, str] = Session(buffering=60, max_bytes=100)
    session.offer(0, 60)
    first = session.take()
    session.offer(1, 40)
    second = session.take()
    session.offer(2, 1)
    assert (first.request, second.request) == (0, 1)
    assert session.take() is None
    assert session.bytes == 101
    session.settle(first, "done")
    assert session.take() is None
    session.written()
    assert session.take().request == 2


def test_max_buffering_is_kept_to_what_clients_may_ask():
    assert Session(buffering=0).buffering == 1
    assert Session(buffering=61).buffering == 60


def test_closing_names_the_tickets_to_cancel_once():
    session: Session[int, str] = Session()
    session.offer(0, 1)
    session.offer(1, 1)
    first, second = take_all(session)
    first.ticket, second.ticket = 7, 8
    session.settle(first, "done")
    assert session.close() == [8]
    assert session.close() == []
    assert session.settle(second, "late") == []


class SessionMachine(RuleBasedStateMachine):
    """Any order of arrivals, outcomes, writes and a close."""

    def __init__(self) -> None:
        super().__init__()
        self.session: Session[int, str] = Session(buffering=3, max_bytes=50)
        self.arrived = 0
        self.taken: list[Slot[int, str]] = []
        self.settled: list[Slot[int, str]] = []
        self.released: list[int] = []
        self.unwritten = 0
        self.lost = 0

    @rule(size=st.integers(1, 60))
    def arrive(self, size: int) -> None:
        self.session.offer(self.arrived, size)
        self.arrived += not self.session.closed

    @rule()
    def take(self) -> None:
        slot = self.session.take()
        if slot is not None:
            assert not self.session.closed
            slot.ticket = 1000 + slot.request
            self.taken.append(slot)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), outcome=st.sampled_from(["done", "failed", None]))
    def settle(self, data: st.DataObject, outcome: str | None) -> None:
        slot = data.draw(st.sampled_from(self.taken))
        self.taken.remove(slot)
        self.settled.append(slot)
        self.release(self.session.settle(slot, outcome))

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), outcome=st.sampled_from(["again", None]))
    def settle_again(self, data: st.DataObject, outcome: str | None) -> None:
        before = self.session.superseded
        assert self.session.settle(data.draw(st.sampled_from(self.settled)), outcome) == []
        assert self.session.superseded == before

    def release(self, slots: list[Slot[int, str]]) -> None:
        assert not (slots and self.session.closed), "nothing is released after close"
        self.released += [slot.request for slot in slots]
        self.unwritten += len(slots)

    @precondition(lambda self: self.unwritten)
    @rule()
    def write(self) -> None:
        self.unwritten -= 1
        self.session.written()

    @rule()
    @precondition(lambda self: self.arrived > 10)
    def close(self) -> None:
        if not self.session.closed:
            self.lost = self.arrived - len(self.released) - self.session.superseded
            expected = {slot.ticket for slot in self.taken}
            assert set(self.session.close()) == expected
            assert self.session.unanswered == 0

    @invariant()
    def order_rises_and_nothing_is_answered_twice(self) -> None:
        assert self.released == sorted(set(self.released))

    @invariant()
    def buffers_are_bounded(self) -> None:
        assert self.session.waiting <= 3
        assert self.session.unanswered <= 3 + self.session.credit
        assert self.session.bytes <= 2 * 60
        assert (self.session.bytes == 0) == (self.session.unanswered == 0)

    @invariant()
    def every_frame_is_somewhere(self) -> None:
        if not self.session.closed:
            written = len(self.released) - self.unwritten
            assert (
                written + self.session.unanswered + self.session.superseded
                == self.arrived + self.held_superseded
            )

    @property
    def held_superseded(self) -> int:
        """Superseded in the engine while an older frame is still drawn: counted, and still in line."""
        return sum(slot.superseded for slot in self.session._taken)


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
