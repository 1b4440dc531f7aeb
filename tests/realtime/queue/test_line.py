"""Places of those who wait: right, and not counted again for every poll."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from realtime.queue.ledger import Ledger
from realtime.queue.line import OLD_S, Line
from tests.realtime.queue.orders import order


@dataclass
class Lines:
    """A file that one connection fills and another one watches."""

    ledger: Ledger
    watching: sqlite3.Connection
    now: float = 1.0
    counted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watching.set_trace_callback(self.counted.append)
        self.line = Line(self.watching, lambda: self.now)

    def submit(self, count: int, low: bool = False) -> None:
        with self.ledger.transaction():
            for _ in range(count):
                (number,) = self.ledger._row("SELECT count(*) FROM requests")
                self.ledger.submit(order(f"r{number}", low=low), "me", 0.0)

    def counts(self) -> int:
        return sum(statement.startswith("SELECT seq") for statement in self.counted) // 2


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    ledger = Ledger(tmp_path / "queue.sqlite3")
    watching = sqlite3.connect(tmp_path / "queue.sqlite3")
    yield Lines(ledger, watching)
    watching.close()
    ledger.close()


def test_those_of_low_priority_are_behind_all_others(lines: Lines):
    lines.submit(2)
    lines.submit(2, low=True)
    lines.submit(1)
    assert [lines.line.before(seq, low) for seq, low in [(1, False), (2, False), (5, False)]] == [0, 1, 2]
    assert [lines.line.before(seq, True) for seq in (3, 4)] == [3, 4]


def test_a_short_line_is_seen_as_it_is(lines: Lines):
    for number in range(20):
        lines.submit(1)
        lines.now += 0.001
        assert lines.line.before(number + 1, False) == number
    with lines.ledger.transaction():
        lines.ledger.claim("me", 5, 0.0, 9.0)
    lines.now += 0.001
    assert lines.line.before(20, False) == 14


def test_while_nothing_changes_nothing_is_counted(lines: Lines):
    lines.submit(50)
    for _ in range(100):
        lines.now += 1.0
        assert lines.line.before(50, False) == 49
    assert lines.counts() == 1


def test_a_long_line_is_counted_now_and_then_however_often_it_changes(lines: Lines):
    lines.submit(1000)
    assert lines.line.before(1000, False) == 999
    for _ in range(10):
        with lines.ledger.transaction():
            lines.ledger.claim("me", 1, 0.0, 9.0)
        assert lines.line.before(1000, False) == 999
        lines.now += 50 * OLD_S
    lines.now += 1000 * OLD_S
    assert lines.line.before(1000, False) == 989
    assert lines.counts() == 2


def test_its_own_changes_are_seen_too(lines: Lines):
    lines.submit(3)
    assert lines.line.before(3, False) == 2
    lines.watching.execute("UPDATE requests SET state = 1 WHERE seq = 1")
    lines.now += 1.0
    assert lines.line.before(3, False) == 1
