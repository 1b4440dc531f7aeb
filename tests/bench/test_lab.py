"""What serves in a plan is the fastest way that was measured and is at hand; what a bar needs comes first."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.gpu.lab import Lab, Machine
from bench.gpu.parts import parts
from bench.gpu.plan import Book
from bench.gpu.prebuild import JOBS
from bench.gpu.second import Second, second_parts
from bench.ways import SEARCHED, TUNED

pytestmark = pytest.mark.timeout(60)  # imports of torch and diffusers, on a busy machine


def row(way: str, places: int, ms: float, model: str = "sd15") -> dict[str, Any]:
    return {"model": model, "way": way, "places": places, "ms": ms}


def lab(tmp_path: Path, *searched: int) -> Lab:
    """searched: for so many rows, in this process."""
    made = Lab(Machine("cpu", True, tmp_path), "sd15", Book(tmp_path / "book.json", {}))
    ready = {(SEARCHED, places) for places in searched}
    ways = SimpleNamespace(ready=lambda way, shape: (way, shape) in ready)
    made.__dict__["subject"] = SimpleNamespace(ways=ways, shape=lambda places: places)
    return made


def test_the_fastest_way_of_each_number_of_rows_serves(tmp_path: Path):
    given = lab(tmp_path, 1, 8)
    given.book.write("sd15 eager", {"ok": True, "result": [row("eager", 1, 60.0), row("eager", 2, 61.0)]})
    given.book.write("sd15 compiled 1", {"ok": True, "result": [row("inductor+graph", 1, 4.4)]})
    given.book.write("sd15 compiled 8", {"ok": True, "result": [row("inductor+graph", 8, 18.7)]})
    assert given.ready == {1: "inductor+graph", 2: "eager", 8: "inductor+graph"}
    given.book.write("sd15 searched 1", {"ok": True, "result": [row(SEARCHED, 1, 4.0)]})
    given.book.write("sd15 searched 8", {"ok": True, "result": [row(SEARCHED, 8, 18.8)]})
    given.book.write("sd15 max 8", {"ok": True, "result": [row(TUNED + "+graph", 8, 17.0)]})
    given.book.write("sdxl compiled 1", {"ok": True, "result": [row("inductor+graph", 1, 0.1, "sdxl")]})
    assert given.ready == {1: SEARCHED, 2: "eager", 8: TUNED + "+graph"}


def test_what_another_process_has_searched_for_does_not_serve(tmp_path: Path):
    given = lab(tmp_path)
    given.book.write("sd15 compiled 1", {"ok": True, "result": [row("inductor+graph", 1, 4.4)]})
    given.book.write("sd15 searched 1", {"ok": True, "result": [row(SEARCHED, 1, 4.0)]})
    assert given.ready == {1: "inductor+graph"}


def test_only_what_was_built_is_prebuilt(tmp_path: Path):
    machine = Machine("cpu", True, tmp_path)
    assert machine.prebuilt("sd15 1") == ""
    (tmp_path / "prebuild.json").write_text(
        '{"sd15 1": {"ok": true, "said": "{}"}, "sd15 2": {"ok": false, "said": "not done"}}'
    )
    assert machine.prebuilt("sd15 1") == "{}"
    assert machine.prebuilt("sd15 2") == ""


def names(tmp_path: Path, *built: str) -> list[str]:
    """Of the parts of a plan for a GPU."""
    machine = Machine("cuda", False, tmp_path)
    (tmp_path / "prebuild.json").write_text(json.dumps({job: {"ok": True, "said": "{}"} for job in built}))
    book = Book(tmp_path / "book.json", {})
    return [part.name for part in parts(Lab(machine, "sd15", book), Second(machine, book))]


BARS = (
    *("ceilings", "sd15 compiled 1", "sd15 compiled 8", "sd15 searched 1", "sd15 searched 8"),
    *("sd15 one image", "sd15 best batch", "sd15 compiled 4", "sd15 compiled 2"),
    *("sd15 compiled 6", "canvas"),
    *("peers: ours", "peers: one by one", "peers: compiled", "sdxl", "service", "cold start", "a new size"),
)


def test_what_a_bar_needs_comes_before_what_else_there_is_to_know(tmp_path: Path):
    found = names(tmp_path)
    assert len(set(found)) == len(found)
    assert [name for name in found if name in BARS] == list(BARS)
    before = set(found[: found.index(BARS[-1])])
    assert before - set(BARS) == {"sd15 eager", "sd15 eager+graph"}


def test_the_other_mode_is_measured_if_it_was_built_and_before_what_it_can_serve(tmp_path: Path):
    assert not any("max" in name for name in names(tmp_path))
    found = names(tmp_path, "sd15 max 8")
    assert "sd15 max 1" not in found
    assert found.index("sd15 max 8") < found.index("sd15 one image")


def test_a_search_that_came_to_nothing_is_not_followed_by_others(tmp_path: Path):
    machine = Machine("cuda", False, tmp_path)
    lab = Lab(machine, "sdxl", Book(tmp_path / "book.json", {}))
    needs = {part.name: part.needs for part in second_parts(lab, lambda: None)}
    assert needs["sdxl searched 1"] == ("sd15 searched 1",)
    assert list(needs).index("sdxl searched 1") < list(needs).index("sdxl one image")
    lab = Lab(machine, "sd15", lab.book)
    needs = {part.name: part.needs for part in parts(lab, Second(machine, lab.book))}
    assert needs["sd15 searched 8"] == ("sd15 searched 1",)
    assert needs["sd15 searched 2"] == needs["sd15 searched 4"] == ("sd15 searched 8",)


def test_what_bars_need_is_built_first(tmp_path: Path):
    built = [f"{kind} {rows}" for kind, rows in JOBS]
    needed = {"sd15 1", "sd15 8", "sd15 4", "sd15 2", "diffusers 1", "sdxl 1", "folder 0", "sd15 6", "sd15 3"}
    assert set(built[: len(needed)]) == needed
