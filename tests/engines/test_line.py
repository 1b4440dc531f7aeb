"""When the next call is given to a device that still works on the last one."""

from __future__ import annotations

import math

import pytest

from engines.line import LEADS, WAKE_S, Line


def test_an_idle_device_is_given_a_call_at_once():
    line: Line[str] = Line()
    assert (line.rest(5.0), line.starts(5.0)) == (0.0, 5.0)


def test_the_next_call_is_given_shortly_before_its_turn_and_no_sooner():
    line: Line[str] = Line()
    line.give("first", began=1.0, launched=1.0, now=1.0, seconds=0.020)
    assert line.starts(1.0) == pytest.approx(1.020)
    assert line.rest(1.0) == pytest.approx(0.020 - WAKE_S)
    assert line.rest(1.015) == pytest.approx(0.005 - WAKE_S)
    assert line.rest(1.0199) == 0.0
    assert line.rest(1.020) == math.inf, "its end is a message that is on its way"
    assert line.rest(9.0) == math.inf, "it takes longer than was known"


def test_as_much_before_it_as_a_boundary_takes():
    line: Line[str] = Line()
    now = 0.0
    for _ in range(200):  # each boundary and launch take 2 ms
        line.give("", began=now, launched=now + 0.001, now=now + 0.002, seconds=0.020)
        rest = line.rest(now + 0.002)
        line.done(now + 0.021)
        now += 0.022
    assert rest == pytest.approx(0.019 - LEADS * 0.002 - WAKE_S, abs=1e-4)


def test_one_boundary_that_stalled_is_no_rule():
    line: Line[str] = Line()
    for _ in range(200):
        line.give("", 0.0, 0.0, 0.001, seconds=0.020)
        line.done(0.020)
    line.give("", 0.0, 0.0, 3.0, seconds=0.020)
    line.done(3.0)
    line.give("", 9.0, 9.0, 9.0, seconds=0.020)
    assert line.rest(9.0) > 0.017


def test_the_device_never_has_more_than_the_call_that_runs_and_the_next():
    line: Line[str] = Line()
    line.give("first", 0.0, 0.0, 0.0, 0.020)
    line.give("second", 0.019, 0.019, 0.019, 0.020)
    assert line.starts(0.019) == pytest.approx(0.040)
    assert line.rest(0.019) == math.inf
    assert line.rest(60.0) == math.inf, "whatever was predicted"
    assert line.done(0.020) == "first"
    assert line.rest(0.021) == pytest.approx(0.019 - WAKE_S, abs=1e-4)
    assert line.done(0.040) == "second"
    assert line.rest(0.021) == 0.0


def test_what_lies_between_calls_does_not_add_up():
    line: Line[str] = Line()
    line.give("", 0.0, 0.0, 0.0, seconds=0.020)
    ends, gap = 0.020, 0.0001  # of the device
    for _ in range(500):
        now = ends - 0.002
        line.give("", now, now, now, seconds=0.020)
        line.done(ends)
        assert line.starts(ends) == pytest.approx(ends + 0.020, abs=2 * gap)
        ends += gap + 0.020


def test_an_early_end_is_no_reason_to_wait_on():
    line: Line[str] = Line()
    line.give("first", 0.0, 0.0, 0.0, 10.0)
    line.done(0.1)
    assert (line.rest(0.1), line.starts(0.1)) == (0.0, 0.1)


def test_a_call_of_unknown_cost_is_waited_for():
    line: Line[str] = Line()
    line.give("first", 0.0, 0.0, 0.001, 0.0)
    assert line.rest(0.001) == math.inf


def test_a_call_whose_launching_takes_as_long_as_its_work_is_waited_for():
    line: Line[str] = Line()
    for call in range(50):  # a boundary of 1 ms, and 35 ms of one kernel after another
        began = 0.036 * call
        line.give("", began, began + 0.001, began + 0.036, 0.034)
        assert line.rest(began + 0.036) == math.inf
        line.done(began + 0.036)
