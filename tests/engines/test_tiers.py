"""Two kinds of requests over one device, with a clock that is a variable."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.cost import Cost
from engines.mailbox import Request
from engines.schedule import Call
from engines.tiers import QUIET_S, SHARE, Tiers

BUCKETS = (1, 2, 3, 4)
CALL_S, ROW_S = 0.005, 0.010  # a call of bucket B: CALL_S + ROW_S * B, as on a CPU


def tiers(lanes: str = "a") -> Tiers:
    cost = Cost()
    for lane in lanes:
        for bucket in BUCKETS:
            cost.observe(lane, bucket, CALL_S + ROW_S * bucket)
    return Tiers(cost, BUCKETS)


def live(ticket: int, session: str = "", **given) -> Request:
    return Request(ticket, session or f"s{ticket}", **{"received": 0.0, "lane": "a", "steps": 4} | given)


def queued(ticket: int, session: str = "", **given) -> Request:
    return live(ticket, session, background=True, **given)


def boundary(plan: Tiers, now: float = 0.0) -> Call | None:
    plan.admit(now)
    call = plan.call()
    if call is not None:
        plan.stepped(call)
        plan.took(call, CALL_S + ROW_S * call.bucket)
    return call


def tickets(call: Call | None) -> list[int]:
    return sorted(ticket for ticket, _ in call.rows) if call else []


def test_a_live_request_goes_before_queued_ones_that_are_being_drawn():
    plan = tiers()
    plan.submit(queued(1))
    assert tickets(boundary(plan)) == [1]
    plan.submit(live(2))
    assert [tickets(boundary(plan)) for _ in range(5)] == [[2]] * 4 + [[1]]


def test_queued_ones_are_never_in_the_call_of_a_live_one():
    plan = tiers()
    for ticket in range(4):
        plan.submit(queued(ticket))
    plan.submit(live(9))
    while tickets(boundary(plan)) != [9]:
        pass
    assert plan.background.running + plan.background.waiting == 4


def test_calls_of_queued_ones_are_short_while_live_ones_are_about_and_full_when_not():
    plan = tiers()
    for ticket in range(4):
        plan.submit(queued(ticket, received=100.0, steps=12))
    plan.submit(live(9, received=100.0, steps=1))
    assert tickets(boundary(plan, 100.0)) == [9]
    assert len(tickets(boundary(plan, 100.0))) == 1
    assert len(tickets(boundary(plan, 100.0 + QUIET_S))) == 4


def test_calls_stay_full_where_more_rows_cost_little():
    cost = Cost()
    for bucket in BUCKETS:
        cost.observe("a", bucket, 0.010 + 0.0005 * bucket)
    plan = Tiers(cost, BUCKETS)
    for ticket in range(4):
        plan.submit(queued(ticket))
    plan.submit(live(9, steps=1))
    boundary(plan)
    assert len(tickets(boundary(plan))) == 4


def test_who_is_left_out_of_a_short_call_goes_on_where_it_was():
    plan = tiers()
    for ticket in range(3):
        plan.submit(queued(ticket, steps=2))
    assert tickets(boundary(plan)) == [0, 1, 2]
    plan.submit(live(9, steps=1))
    calls = [tickets(boundary(plan)) for _ in range(4)]
    assert calls == [[9], [0], [1], [2]]
    assert boundary(plan) is None


def test_a_guided_row_takes_two_places_of_a_short_call():
    cost = Cost()
    for bucket, seconds in zip(BUCKETS, (0.010, 0.0105, 0.020, 0.030), strict=True):
        cost.observe("a", bucket, seconds)
    plan = Tiers(cost, BUCKETS)
    plan.submit(queued(1, slots=2))
    plan.submit(queued(2, slots=1))
    plan.submit(live(9, steps=1))
    boundary(plan)
    assert tickets(boundary(plan)) == [1], "two places are the longest call that is still short"


def test_queued_ones_have_their_share_while_live_ones_would_take_everything():
    plan = tiers()
    plan.submit(queued(100_000, steps=12))
    seconds = {True: 0.0, False: 0.0}
    for ticket in range(1, 1500):
        plan.submit(live(ticket, "always", steps=1, received=0.0))
        if not plan.background.running + plan.background.waiting:
            plan.submit(queued(100_000 + ticket, steps=12))
        call = boundary(plan)
        assert call is not None
        seconds[call.rows[0][0] >= 100_000] += CALL_S + ROW_S * call.bucket
    assert seconds[True] / sum(seconds.values()) == pytest.approx(SHARE, rel=0.1)


def test_gaps_between_live_frames_are_not_saved_up_for_a_burst():
    plan = tiers()
    plan.submit(queued(0, steps=400))
    for ticket in range(1, 60):
        plan.submit(live(ticket, "now and then", received=float(ticket)))
        assert [tickets(boundary(plan, float(ticket))) for _ in range(4)] == [[ticket]] * 4
        for _ in range(3):
            assert tickets(boundary(plan, float(ticket))) == [0]


def test_cancelling_reaches_both_kinds():
    plan = tiers()
    plan.submit(queued(1))
    plan.submit(queued(2))
    plan.submit(live(3))
    boundary(plan)
    plan.cancel([1, 3, 77])
    assert tickets(boundary(plan)) == [2]
    plan.cancel([2])
    assert (plan.waiting, plan.running, boundary(plan)) == (0, 0, None)


def test_pictures_are_decoded_for_both_kinds():
    plan = tiers()
    plan.submit(queued(1), ready=False)
    plan.submit(live(2), ready=False)
    assert plan.prepare() == [2, 1]
    assert boundary(plan) is None
    plan.ready(1)
    assert tickets(boundary(plan)) == [1]
    plan.ready(2)
    assert tickets(boundary(plan)) == [2]


@pytest.mark.parametrize(
    ("call_s", "row_s", "sessions", "rate"), [(0.005, 0.010, 2, 4.0), (0.012, 0.001, 10, 4.0)]
)
def test_a_full_queue_hardly_shows_in_the_latency_of_live_sessions(
    call_s: float, row_s: float, sessions: int, rate: float
):
    """A minute of Poisson frames on a device like a CPU and one like a GPU; the ratio is what counts."""
    alone, beside = (p99(call_s, row_s, sessions, rate, queue) for queue in (0, 8))
    assert beside[0] <= 1.10 * alone[0]
    assert beside[1] > 60, "and the queue moves"


def p99(call_s: float, row_s: float, sessions: int, rate: float, queue: int) -> tuple[float, int]:
    """(99th percentile of live latencies in seconds, queued pictures drawn)."""
    draw = random.Random(7)
    cost = Cost()
    for bucket in BUCKETS:
        cost.observe("a", bucket, call_s + row_s * bucket)
    plan, now, arrivals = Tiers(cost, BUCKETS), 0.0, []
    for session in range(sessions):
        at = 0.0
        while (at := at + draw.expovariate(rate)) < 60.0:
            arrivals.append((at, session))
    arrivals.sort()
    latencies: list[float] = []
    drawn = 0
    ticket = 1_000_000
    for _ in range(queue):
        plan.submit(queued(ticket := ticket + 1))
    at = 0
    while at < len(arrivals) or plan.live.running + plan.live.waiting:
        while at < len(arrivals) and arrivals[at][0] <= now:
            received, session = arrivals[at]
            plan.submit(live(at, f"s{session}", received=received, buffering=1, deadline=received + 0.5))
            at += 1
        plan.admit(now)
        call = plan.call()
        if call is None:
            now = arrivals[at][0]
            continue
        seconds = call_s + row_s * call.bucket
        now += seconds
        finished = plan.stepped(call)
        plan.took(call, seconds)
        for done, _ in finished:
            if done >= 1_000_000:
                drawn += 1
                plan.submit(queued(ticket := ticket + 1, received=now))
            else:
                latencies.append(now - arrivals[done][0])
    latencies.sort()
    return latencies[int(0.99 * len(latencies))], drawn


@given(
    kinds=st.lists(
        st.tuples(st.booleans(), st.integers(1, 5), st.integers(1, 3), st.sampled_from("ab")),
        min_size=1,
        max_size=12,
    )
)
def test_every_row_has_exactly_its_steps_in_any_mixture(kinds: list[tuple[bool, int, int, str]]):
    plan = tiers("ab")
    wanted: dict[tuple[int, int], int] = {}
    for ticket, (behind, steps, count, lane) in enumerate(kinds):
        plan.submit(live(ticket, lane=lane, steps=steps, count=count, background=behind, deadline=math.inf))
        wanted |= {(ticket, image): steps for image in range(count)}
    had = dict.fromkeys(wanted, 0)
    finished: list[tuple[int, int]] = []
    for _ in range(2000):
        plan.admit(0.0)
        call = plan.call()
        if call is None:
            break
        assert call.slots <= call.bucket <= BUCKETS[-1]
        for row in call.rows:
            had[row] += 1
        finished += plan.stepped(call)
        plan.took(call, 0.02)
    assert had == wanted
    assert sorted(finished) == sorted(wanted)
    assert (plan.waiting, plan.running) == (0, 0)
