"""Lines about what was refused: what is in them, and that no flood of requests is a flood of lines."""

from __future__ import annotations

import pytest
from structlog.testing import CapturingLogger

from realtime.refusals import PER_MINUTE, SLOW_S, Refusals


class Told:
    def __init__(self) -> None:
        self.now = 1000.0
        self._logger = CapturingLogger()
        self.refusals = Refusals(self._logger, lambda: self.now)

    @property
    def lines(self) -> list[tuple[str, str, dict[str, object]]]:
        """(level, event, fields), the oldest first."""
        return [(call.method_name, call.args[0], call.kwargs) for call in self._logger.calls]


@pytest.mark.parametrize(
    ("status", "level", "event"),
    [(422, "info", "http.refused"), (500, "warning", "http.failed"), (507, "warning", "http.failed")],
)
def test_a_line_says_what_and_why(status: int, level: str, event: str):
    told = Told()
    told.refusals.tell("http", "a_kind", status, "id-1", app="fal-ai/lcm", seconds=0.5)
    fields = {"kind": "a_kind", "status": status, "app": "fal-ai/lcm", "seconds": 0.5, "request_id": "id-1"}
    assert told.lines == [(level, event, fields)]


def test_a_flood_is_cut_and_the_next_line_says_how_many_there_were():
    told = Told()
    for _ in range(10 * PER_MINUTE):
        told.refusals.tell("http", "not_found", 404)
    assert len(told.lines) == PER_MINUTE
    assert not any("left_out" in fields for _, _, fields in told.lines)
    told.now += 60.0 / PER_MINUTE
    told.refusals.tell("http", "not_found", 404)
    told.refusals.tell("http", "not_found", 404)
    assert len(told.lines) == PER_MINUTE + 1
    assert told.lines[-1][2]["left_out"] == 9 * PER_MINUTE


def test_a_flood_of_one_kind_hides_no_other():
    told = Told()
    for _ in range(10 * PER_MINUTE):
        told.refusals.tell("http", "not_found", 404)
    told.refusals.tell("http", "internal_error", 500)
    told.refusals.tell("frame", "not_found", 404)
    assert [event for _, event, _ in told.lines[-2:]] == ["http.failed", "frame.refused"]


@pytest.mark.parametrize("given", ["", "two words", "a" * 65, "eyJhbGciOi.eyJhdWQi.sig", "line\nbreak"])
def test_an_id_that_could_be_anything_is_not_written(given: str):
    told = Told()
    told.refusals.tell("frame", "bad_request", 400, given)
    assert "request_id" not in told.lines[0][2]


def test_only_what_took_long_is_told_of():
    told = Told()
    told.refusals.timed("frame", SLOW_S - 0.1, "id-1", app="fal-ai/lcm")
    assert not told.lines
    told.refusals.timed("frame", SLOW_S + 0.1234, "id-1", app="fal-ai/lcm")
    assert told.lines == [
        ("info", "frame.slow", {"seconds": SLOW_S + 0.123, "app": "fal-ai/lcm", "request_id": "id-1"})
    ]
