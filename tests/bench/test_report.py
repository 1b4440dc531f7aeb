"""Results keep what they were measured under, through JSON and into the README."""

import json
from pathlib import Path

import pytest

from bench import report
from bench.conditions import after, conditions
from bench.report import Bar, Plot, Result, Table, cdf

BARS = [Bar("added p99", 12.5, 10.0, "ms"), Bar("ratio", 1.8, 1.35, "x", at_least=True)]


def result(**given) -> Result:
    return Result(
        "gateway", after(conditions()), BARS, [Table("Socket", ["", "KiB"], [["idle", 26]])], **given
    )


def test_a_bar_is_met_on_its_own_side():
    assert [bar.met for bar in BARS] == [False, True]
    assert Bar("errors", 0, 0, "frames").met


def test_a_result_survives_its_json(tmp_path: Path):
    file = tmp_path / "gateway.json"
    saved = result(raw={"p99": [1, 2]})
    report.save(saved, file)
    assert report.load(file) == saved
    assert [bar["met"] for bar in json.loads(file.read_text())["bars"]] == [False, True]


def test_no_figure_is_kept_without_its_conditions():
    given = after(conditions())
    assert {"cpu", "cores", "python", "packages", "commit", "date", "command"} <= set(given)
    assert len(given["load_before"]) == len(given["load_after"]) == 3
    assert "load average" in report.markdown(result())


def test_publishing_replaces_one_section_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    readme = tmp_path / "README.md"
    readme.write_text(
        "# Lab\n<!-- gateway -->\nold\n<!-- /gateway -->\n<!-- engine -->\nkept\n<!-- /engine -->\n"
    )
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.publish(result())
    text = readme.read_text()
    assert "old" not in text
    assert "kept" in text
    assert "**missed**" in text
    assert (tmp_path / "gateway.json").is_file()


def test_a_latency_curve_ends_at_the_slowest_frame():
    xs, ys = cdf([0.001 * n for n in range(1, 1001)], points=50)
    assert len(xs) == 50
    assert (xs[0], ys[0]) == (1.0, 0.001)
    assert (xs[-1], ys[-1]) == (1000.0, 1.0)
    assert cdf([]) == ([], [])


def test_a_plot_becomes_a_picture(tmp_path: Path):
    pytest.importorskip("matplotlib")
    name = report.draw(Plot("curve", "title", "x", "y", {"a": ([1, 2], [3, 4])}), tmp_path)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
