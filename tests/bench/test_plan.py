"""A plan outlives what happens to its parts."""

import contextlib
import json
import subprocess
import time
from pathlib import Path

import pytest

from bench.gpu.lab import Machine
from bench.gpu.plan import Book, Late, Part, limit, run
from bench.gpu.second import Second

HERE = {
    "device": "cuda",
    "tiny": False,
    "gpu": "NVIDIA H200, 580.1, 143771 MiB, 345 MHz",
    "commit": "0123abc",
    "packages": {"torch": "2.13.0", "pillow": "13.0.0"},
    "date": "2026-11-27T03:12:48+00:00",
}
ELSEWHERE = [
    {"tiny": True},
    {"device": "cpu", "gpu": None},
    {"gpu": "NVIDIA H100 80GB HBM3, 580.1, 81559 MiB, 345 MHz"},
    {"packages": {"torch": "2.11.0", "pillow": "13.0.0"}},
    {"commit": "4567def"},
]


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


def test_a_book_goes_on_though_the_clocks_and_the_date_are_others(tmp_path: Path):
    Book.open(tmp_path / "book.json", HERE).write("a", {"ok": True, "result": 1})
    later = HERE | {"date": "2026-11-28T00:00:00+00:00", "gpu": "NVIDIA H200, 580.1, 143771 MiB, 1980 MHz"}
    assert Book.open(tmp_path / "book.json", later).result("a") == 1


@pytest.mark.parametrize("other", ELSEWHERE)
def test_figures_of_another_machine_are_put_aside_and_not_gone_on_with(tmp_path: Path, other: dict):
    Book.open(tmp_path / "book.json", HERE | other).write("a", {"ok": True, "result": 1})
    opened = Book.open(tmp_path / "book.json", HERE)
    assert opened.parts == {}
    assert opened.conditions == HERE
    opened.write("a", {"ok": True, "result": 2})
    (aside,) = set(tmp_path.iterdir()) - {tmp_path / "book.json"}
    assert json.loads(aside.read_text())["parts"]["a"]["result"] == 1
    assert Book.open(tmp_path / "book.json", HERE).result("a") == 2


def test_what_a_second_process_left_of_another_machine_is_none_of_this_ones(tmp_path: Path):
    for there, kept in ((HERE, {"sdxl eager"}), (HERE | {"tiny": True}, set())):
        second = Second(Machine("cuda", False, tmp_path), Book(tmp_path / "book.json", HERE))
        Book(second.file, there).write("sdxl eager", {"ok": True, "result": []})
        second.file.with_suffix(".log").write_text("no device")
        second.process = subprocess.Popen(["true"], stdin=subprocess.PIPE)
        with contextlib.suppress(RuntimeError) if kept else pytest.raises(RuntimeError, match="no device"):
            second.measured()
        assert set(second.book.parts) == kept


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
