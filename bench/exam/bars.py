"""What was promised of the model, and how tallies stand to it."""

from __future__ import annotations

from collections.abc import Mapping

from bench.exam.judge import AVATAR, WORDS, Tally, pooled
from bench.figures import wilson

BARS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "background colour": (("background colour",), {"ordinary": 98, "held out": 96}),
    "object colour": (("object colour",), {"ordinary": 95, "held out": 90}),
    "object position, 9 cells": (("position",), {"ordinary": 92, "held out": 85}),
    "object shape": (("shape",), {"ordinary": 85, "held out": 75}),
    "relation of two": (("relation",), {"ordinary": 60, "held out": 60}),
    "count": (("count",), {"ordinary": 60, "held out": 60}),
    "scene words": (WORDS, {"ordinary": 90, "held out": 90}),
    "avatar attributes": (AVATAR, {"ordinary": 80, "held out": 80}),
}
"""Marks that are counted together, and the percentage promised of each set at four steps."""
SPREAD_POINTS = 8.0
"""No figure may be further under the best number of steps for it."""
WORSE_PERCENT = 5.0
"""More steps may look this much further from renders: what the choice of patches can make of nothing."""


def percent(counted: tuple[int, int]) -> float:
    right, asked = counted
    return 100 * right / asked if asked else float("nan")


def shown(counted: tuple[int, int]) -> str:
    """A share with its 95 % interval: "97.1 (95.0–98.4)"."""
    if not counted[1]:
        return "–"
    low, high = wilson(*counted)
    return f"{percent(counted):.1f} ({100 * low:.1f}–{100 * high:.1f})"


def worst_gap(marks: Mapping[int, Tally]) -> tuple[float, str]:
    """The most points any figure of BARS lies under the best number of steps for it, and where."""
    worst = (0.0, "nowhere")
    for what, (names, _) in BARS.items():
        shares = {n: percent(pooled(tallied, names)) for n, tallied in marks.items()}
        for n, share in shares.items():
            worst = max(worst, (max(shares.values()) - share, f"{what}, {steps(n)}"))
    return worst


def worst_look(looks: Mapping[int, float]) -> tuple[float, str]:
    """The most percent that more steps look further from renders than fewer do, and where."""
    worst = (0.0, "nowhere")
    for few in looks:
        for many in (n for n in looks if n > few):
            worst = max(worst, (100 * (looks[many] / looks[few] - 1), f"{steps(many)} beside {few}"))
    return worst


def steps(count: int) -> str:
    return f"{count} step{'s' * (count > 1)}"
