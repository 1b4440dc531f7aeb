from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engines.cache import Cache


def test_the_least_recently_used_value_goes_first() -> None:
    cache: Cache[str] = Cache(budget=30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert cache.get("b") is None
    assert [cache.get(key) for key in "acd"] == ["A", "C", "D"]
    assert cache.stats("test") == {
        "cache_test_hits": 4,
        "cache_test_misses": 1,
        "cache_test_evictions": 1,
        "cache_test_bytes": 30,
    }


def test_a_value_put_again_counts_once() -> None:
    cache: Cache[int] = Cache(budget=30)
    cache.put("a", 1, 10)
    cache.put("a", 2, 20)
    assert (cache.get("a"), cache.bytes, len(cache)) == (2, 20, 1)


def test_a_value_larger_than_the_budget_is_not_stored_and_costs_no_other_its_place() -> None:
    cache: Cache[int] = Cache(budget=30)
    cache.put("a", 1, 10)
    cache.put("b", 2, 31)
    assert (cache.get("a"), cache.get("b"), cache.evictions) == (1, None, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 15)), max_size=60))
def test_bytes_are_the_sum_of_what_is_stored_and_never_above_the_budget(puts: list[tuple[str, int]]) -> None:
    cache: Cache[int] = Cache(budget=25)
    for key, size in puts:
        cache.put(key, size, size)
        assert cache.bytes <= 25
        assert cache.bytes == sum(v for k in "abcdef" if (v := cache.get(k)) is not None)
