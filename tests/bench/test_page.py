"""The report is one page that needs nothing else and says what was missed or not measured."""

import re
from pathlib import Path

import pytest

from bench import page, report
from bench.conditions import after, conditions
from bench.report import Bar, Plot, Result, Table


def result(name: str = "gpu") -> Result:
    goals = Table("Goals", ["", ""], [["one image", "not measured"], ["<b>", "goal met"], ["", float("nan")]])
    bars = [Bar("images/s", 2.0, 3.0, "x", at_least=True)]
    plot = Plot("curve", "a & b", "x", "y", {"line": ([1, 2], [3, 4])})
    return Result(name, after(conditions()), bars, [goals], [plot])


def test_a_page_is_made_of_every_result_in_the_folder(tmp_path: Path):
    for name in ("gpu", "peers"):
        report.save(result(name), tmp_path / f"{name}.json")
    (tmp_path / "other.json").write_text("[1]")
    text = page.write(tmp_path, tmp_path / "out" / "report.html").read_text()
    assert text.index('id="gpu"') < text.index('id="peers"')
    assert '<td class="open">not measured</td>' in text
    assert '<td class="missed">missed</td>' in text
    assert "&lt;b&gt;" in text
    assert "load average" in text


def test_nothing_on_the_page_is_fetched():
    pytest.importorskip("matplotlib")
    text = page.page([result()])
    assert "<svg" in text
    # Names of XML's own namespaces are no addresses of anything that is loaded.
    assert not re.findall(r"""(?:src|href)=["'](?!#)|url\((?!#)|@import""", text)


def test_without_results_the_page_says_so(tmp_path: Path):
    assert "no results yet" in page.write(tmp_path, tmp_path / "report.html").read_text()
