from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.cost import Accounts, Cost

sizes = st.integers(1, 16)


def test_unknown_work_costs_nothing_so_that_it_is_tried():
    assert Cost().predict("a", 4) == 0.0


def test_a_prediction_follows_what_the_work_took():
    cost = Cost()
    for _ in range(50):
        cost.observe("a", 2, 0.5)
    for _ in range(30):
        cost.observe("a", 2, 0.1)
    assert cost.predict("a", 2) == pytest.approx(0.1, rel=0.01)


def test_a_size_between_two_known_ones_costs_in_between():
    cost = Cost()
    cost.observe("a", 2, 0.2)
    cost.observe("a", 4, 0.3)
    assert cost.predict("a", 3) == pytest.approx(0.25)


def test_a_larger_size_costs_at_most_in_proportion():
    cost = Cost()
    cost.observe("a", 1, 0.1)
    assert cost.predict("a", 4) == pytest.approx(0.4)


def test_one_slow_outlier_at_a_large_size_is_forgotten_when_small_sizes_are_fast():
    cost = Cost()
    cost.observe("a", 8, 100.0)
    cost.observe("a", 1, 0.1)
    assert cost.predict("a", 8) == pytest.approx(0.8)


def test_below_the_smallest_size_known_it_hopes_for_proportion():
    cost = Cost()
    cost.observe("a", 4, 0.4)
    assert cost.predict("a", 1) == pytest.approx(0.1)


def test_a_first_call_that_was_slow_is_forgotten_at_the_second():
    cost = Cost()
    cost.observe("a", 1, 30.0)
    cost.observe("a", 1, 0.1)
    assert cost.predict("a", 1) == pytest.approx(0.1)


def test_a_stall_counts_as_twice_the_average():
    cost = Cost()
    for _ in range(20):
        cost.observe("a", 1, 0.1)
    cost.observe("a", 1, 50.0)
    assert cost.predict("a", 1) == pytest.approx(0.12, rel=0.01)


def test_a_fear_that_is_never_tried_fades():
    """In full batches a size of one is not seen, and a wrong estimate of it may be why they are full."""
    cost = Cost()
    cost.observe("a", 1, 0.4)
    for _ in range(200):
        cost.observe("a", 4, 0.4)
    assert cost.predict("a", 1) == pytest.approx(0.1, rel=0.1)


def test_works_do_not_mix():
    cost = Cost()
    cost.observe("a", 1, 1.0)
    assert cost.predict("b", 1) == 0.0


@given(st.dictionaries(sizes, st.floats(0.001, 10), min_size=1), sizes, sizes)
def test_a_larger_batch_never_costs_less_nor_more_than_its_parts(seen, a, b):
    cost = Cost()
    for size, seconds in seen.items():
        cost.observe("a", size, seconds)
    small, large = sorted((a, b))
    assert cost.predict("a", small) <= cost.predict("a", large) * (1 + 1e-9)
    assert cost.predict("a", large) <= cost.predict("a", small) * large / small * (1 + 1e-9)


def test_the_spread_is_the_mean_error_of_predictions():
    cost = Cost()
    assert cost.spread("a") == 0.0
    for n in range(200):
        cost.observe("a", 1, 1.2 if n % 2 else 0.8)
    assert 0.1 < cost.spread("a") < 0.35
    for _ in range(200):
        cost.observe("a", 1, 1.0)
    assert cost.spread("a") < 0.02


def test_service_is_counted_per_weight():
    accounts = Accounts()
    accounts.level({"light", "heavy"})
    accounts.charge("light", 1.0, weight=1.0)
    accounts.charge("heavy", 1.0, weight=4.0)
    assert accounts.ahead("heavy") == pytest.approx(0.25)


def test_who_comes_back_starts_level_with_the_least_served():
    accounts = Accounts()
    for _ in range(10):
        accounts.level({"busy"})
        accounts.charge("busy", 1.0, 1.0)
    accounts.level({"busy", "new"})
    assert accounts.ahead("busy") <= 1.0
    assert accounts.ahead("new") == 0.0


def test_who_took_much_and_leaves_for_a_moment_still_owes_it():
    accounts = Accounts()
    accounts.level({"greedy", "other"})
    accounts.charge("greedy", 5.0, 1.0)
    accounts.level({"other"})
    accounts.level({"greedy", "other"})
    assert accounts.ahead("greedy") == pytest.approx(5.0)


def test_absentees_are_forgotten():
    accounts = Accounts()
    for n in range(10_000):
        accounts.level({str(n)})
        accounts.charge(str(n), 0.001, 1.0)
    assert len(accounts._served) < 200
