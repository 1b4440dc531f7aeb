"""A plan outlives what happens to its parts."""

import json
import time
from pathlib import Path

import pytest

from bench.gpu.plan import Book, Late, Part, limit, run


def fail() -> None:
    raise RuntimeError("no such kernel")


def book(tmp_path: Path) -> Book:
    return Book.open(tmp_path / "book.json", {"cpu": "one"})


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(tmp_path: Path):
    run([Part("a", 5, fail), Part("b", 5, lambda: {"ms": 2.0})], book(tmp_path), 60, lambda text: None)
    parts = json.loads((tmp_path / "book.json").read_text())["parts"]
    assert not parts["a"]["ok"]
    assert "no such kernel" in parts["a"]["error"]
    assert any("fail" in line for line in parts["a"]["at"])
    assert parts["b"]["result"] == {"ms": 2.0}


def test_what_is_in_the_file_is_not_measured_again_and_what_failed_is(tmp_path: Path):
    calls: list[str] = []

    def measure(name: str, works: bool) -> int:
        calls.append(name)
        if not works:
            raise RuntimeError
        return 1

    for works in (False, True):
        parts = [Part("a", 5, lambda: measure("a", True)), Part("b", 5, lambda w=works: measure("b", w))]
        run(parts, book(tmp_path), 60, lambda text: None)
    assert calls == ["a", "b", "b"]
    assert book(tmp_path).result("b") == 1


def test_a_part_that_does_not_end_is_ended(tmp_path: Path):
    def hang() -> None:
        while True:
            time.sleep(0.01)

    opened = book(tmp_path)
    run([Part("a", 0.2, hang), Part("b", 5, lambda: 1)], opened, 60, lambda text: None)
    assert "not done in" in opened.parts["a"]["error"]
    assert opened.done("b")


def test_nothing_is_begun_when_the_budget_is_spent_or_what_it_needs_is_missing(tmp_path: Path):
    opened = book(tmp_path)
    run([Part("a", 5, fail), Part("b", 5, lambda: 1, needs=("a",))], opened, 60, lambda text: None)
    assert opened.parts["b"]["error"] == "not begun: needs a"
    run([Part("c", 5, lambda: 1)], opened, 1, lambda text: None)
    assert opened.parts["c"]["error"] == "not begun: no time left"


def test_a_broken_device_stops_the_plan_and_is_not_tried_again(tmp_path: Path):
    opened = book(tmp_path)
    parts = [Part("a", 5, fail), Part("b", 5, lambda: 1)]
    assert run(parts, opened, 60, lambda text: None, broken=lambda error: True) == "a"
    assert "b" not in opened.parts
    assert run(parts, book(tmp_path), 60, lambda text: None, broken=lambda error: True) == ""
    assert book(tmp_path).done("b")


def test_the_limit_is_lifted_when_the_work_is_done():
    with limit(0.05):
        pass
    time.sleep(0.08)
    with pytest.raises(Late), limit(0.05):
        time.sleep(1)
