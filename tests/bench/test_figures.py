"""The lab's arithmetic on planted data: a figure is only as honest as this."""

import math
import random

import pytest

from bench.figures import Frame, jain, misplaced, percentile, spearman, summary, wilson


def frame(session: int, number: int, due: float, latency: float = math.nan, **given) -> Frame:
    return Frame(session, number, due, sent=given.pop("sent", due), arrived=due + latency, **given)


def test_a_percentile_is_a_value_of_the_sample():
    values = [float(n) for n in range(1, 101)]
    random.Random(1).shuffle(values)
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([3.0], 0.5) == 3.0
    assert math.isnan(percentile([], 0.99))


def test_one_slow_frame_in_two_hundred_shows_in_the_p99_only_when_it_reaches_it():
    assert percentile([1.0] * 199 + [9.0], 0.99) == 1.0
    assert percentile([1.0] * 97 + [9.0] * 3, 0.99) == 9.0


def test_jain_is_one_for_equals_and_one_nth_for_a_monopoly():
    assert jain([5, 5, 5, 5]) == pytest.approx(1.0)
    assert jain([8, 0, 0, 0]) == pytest.approx(0.25)
    assert jain([1, 2, 3]) == pytest.approx(36 / (3 * 14))


def test_latency_counts_from_the_intended_time_not_from_the_send():
    """A generator that was blocked for a second must not report the frame as fast."""
    late = frame(0, 0, due=10.0, latency=1.01, sent=11.0)
    assert late.latency == pytest.approx(1.01)
    figures = summary([late], sessions=1, seconds=1, slo_s=0.5)
    assert figures["goodput_per_s"] == 0
    assert figures["latency"]["p50_ms"] == pytest.approx(1010)
    assert figures["generator_lag"]["p50_ms"] == pytest.approx(1000)


def test_a_stalled_server_is_charged_for_every_frame_that_was_due_meanwhile():
    """Ten frames due 0.1 s apart, all answered when the stall of 1 s ends: the median waited half of it."""
    stalled = [frame(0, n, due=n / 10, latency=1.0 - n / 10) for n in range(10)]
    assert summary(stalled, sessions=1, seconds=1, slo_s=1)["latency"]["p50_ms"] == pytest.approx(500)


def test_answers_that_pass_an_older_one_are_counted():
    assert misplaced([0, 1, 2, 3]) == 0
    assert misplaced([0, 2, 1, 3]) == 1
    assert misplaced([3, 0, 1, 2]) == 3


def test_every_frame_is_answered_superseded_or_an_error():
    run = [frame(0, 0, 0.0, 0.1, engine=0.02, batch=2), frame(0, 1, 0.1), frame(0, 2, 0.2, 0.4, batch=4)]
    run += [frame(1, 0, 0.0, 0.1, error="BAD_REQUEST"), Frame(1, 1, 0.5)]  # the last was never sent
    figures = summary(run, sessions=2, seconds=1, slo_s=0.25)
    assert figures["frames"] == {
        "offered": 5,
        "sent": 4,
        "answered": 2,
        "superseded": 1,
        "errors": {"BAD_REQUEST": 1},
        "out_of_order": 0,
    }
    assert figures["goodput_per_s"] == 1
    assert figures["in_time_share"] == 0.5
    assert figures["mean_batch"] == 3
    assert figures["added"]["p50_ms"] == pytest.approx(80)


def test_what_a_queue_gives_up_after_the_clock_stopped_is_no_throughput():
    queued = [frame(0, n, n / 10, latency=n / 5) for n in range(10)]  # the last six arrive after 1 s
    queued.append(frame(0, 10, due=-0.5, latency=0.7, warm=True))
    figures = summary(queued, sessions=1, seconds=1, slo_s=0.5)
    assert figures["images_per_s"] == 5  # a picture asked for in the warm-up was made by this second too
    assert figures["frames"]["answered"] == 10
    assert figures["in_time_share"] == 0.3


def test_fairness_is_of_the_share_of_its_own_demand_a_session_got():
    """Twice the demand fully served is not unfair; the same demand half served is."""
    served = [frame(0, n, n, 0.1) for n in range(4)] + [frame(1, n, n, 0.1) for n in range(2)]
    assert summary(served, sessions=2, seconds=4, slo_s=1)["jain"] == 1.0
    starved = [frame(0, n, n, 0.1) for n in range(4)] + [frame(1, n, n) for n in range(4)]
    assert summary(starved, sessions=2, seconds=4, slo_s=1)["jain"] == 0.5


def test_wilson_agrees_with_the_published_intervals():
    """Newcombe 1998, Statist. Med. 17, table I, method 3."""
    for right, asked, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, asked) == pytest.approx((low, high), abs=6e-5)
    assert wilson(29, 29)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_spearman_sees_order_alone():
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [9, 7, 5, 1]) == pytest.approx(-1.0)
    # One swap of neighbours among nine: 1 - 6 * 2 / (9 * 80)
    assert spearman(range(9), [0, 1, 2, 4, 3, 5, 6, 7, 8]) == pytest.approx(1 - 12 / 720)


def test_spearman_shares_ranks_among_ties_and_needs_two_orders():
    assert spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [1, 1, 2]) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(spearman([1, 2, 3], [5, 5, 5]))
    assert math.isnan(spearman([], []))
