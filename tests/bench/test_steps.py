"""Steps beside each other: what alternates, what a bar is made of, and what is said without a compiler."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.steps import alternated, answers, figures, knowing
from tests.engines.backends.small import SHAPE, program

pytestmark = pytest.mark.timeout(60)  # imports of torch and diffusers, on a busy machine


def test_ways_take_turns():
    seen: list[str] = []
    taken = alternated({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, times=3)
    assert seen == ["a", "b"] * 3
    assert set(taken) == {"a", "b"}


@torch.inference_mode()
def test_known_keys_and_values_are_those_of_the_first_text():
    small = program()
    batch, other = (small.sample(SHAPE, seed) for seed in (1, 2))
    for count in (2, 1):
        rows, others = ([t if t is None else t[:count] for t in given] for given in (batch, other))
        constant = knowing(small)
        torch.testing.assert_close(constant(*rows), small(*rows))
        others[2] = rows[2]  # the text
        expected = small(*others)
        others[2] = torch.full_like(rows[2], torch.nan)
        torch.testing.assert_close(constant(*others), expected)


def test_a_bar_is_of_what_the_compiled_back_end_serves_and_of_nothing_else():
    slower, missing = "compiled, it takes 1.10 of the time", "there is no C++ compiler here"
    lines: list[Any] = [
        [1, 2, 4],
        {"compiled": True, "why": ""},
        {"compiled": False, "why": slower},
        {"compiled": None, "why": missing},
        *[
            {
                "1": {"eager": eager, "known": 2.0, "compiled": 1.0},
                "2": {"eager": 2.0, "known": 2.0},
                "4": {"eager": 2.0, "known": 2.0},
            }
            for eager in (1.5, 3.0, 2.0)
        ],
    ]
    asked: list[str] = []

    def ask(question: str) -> Any:
        asked.append(question)
        return lines.pop(0)

    told: list[str] = []
    table, bars, _ = figures(ask, 3, lambda what, share: told.append(what))
    assert asked == [""] * 4 + ["measure\n"] * 3
    assert any("compile a step of 4 rows" in what for what in told)
    assert [(bar.value, bar.met) for bar in bars] == [(2.0, True), (1.0, True)]
    assert table.rows[0][:4] == [1, 2000.0, 1000.0, 2.0]
    assert table.rows[1][2:4] == [None, None]
    assert [row[-1] for row in table.rows] == ["", slower, missing]


def test_without_a_compiler_it_is_said_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tests.engines import tiny

    monkeypatch.setattr(shutil, "which", lambda name: None)
    told = answers(build=True, model=str(tiny.build(tmp_path)))
    counts = next(told)
    assert tuple(counts) == (1, 2, 3, 4)
    verdicts = [next(told) for _ in counts]
    assert verdicts == [{"compiled": None, "why": "there is no C++ compiler here"}] * 4
    turn = next(told)
    assert set(turn) == set(counts)
    assert all(set(ways) == {"eager", "known"} and min(ways.values()) > 0 for ways in turn.values())
