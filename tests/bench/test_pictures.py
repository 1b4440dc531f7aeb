"""Calls of another size go to who builds for it, and nobody else's do."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from bench.gpu.canvas import most_sessions
from bench.gpu.pictures import Elsewhere
from bench.inside import Mixed
from tests.engines.backends.small import SHAPE

pytestmark = pytest.mark.timeout(60)  # imports of torch and diffusers, on a busy machine


def test_calls_of_another_width_have_a_back_end_of_their_own():
    two, rest, other = (SimpleNamespace(name=name) for name in ("two", "rest", "other"))
    given: Any = Elsewhere(Mixed({2: two}, rest), other, SHAPE.width)
    assert given.of(SHAPE) is two
    assert given.of(dataclasses.replace(SHAPE, places=3)) is rest
    assert given.of(dataclasses.replace(SHAPE, width=10)) is other


@pytest.mark.parametrize(
    ("bearable", "found", "tried"),
    [(3, 0, [8, 4]), (5, 4, [8, 4]), (9, 8, [8, 13, 10]), (12, 10, [8, 13, 10]), (99, 24, [8, 13, 18, 24])],
)
def test_sessions_are_tried_up_until_too_many_and_once_between(bearable: int, found: int, tried: list[int]):
    asked: list[int] = []

    def good(sessions: int) -> bool:
        asked.append(sessions)
        return sessions <= bearable

    assert most_sessions(good) == found
    assert asked == tried
