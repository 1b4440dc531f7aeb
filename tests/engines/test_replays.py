"""Recorded calls of any function: only what bears it, in turn, and the same result as ever."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import torch
from torch import Tensor

from engines.backends.graphs import WARM_UPS, Cuda
from engines.replays import Replays
from tests.engines.backends.tapes import Tapes

ROWS = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
TOTAL = torch.tensor([4.0, 6.0])


@pytest.fixture
def tapes() -> Tapes:
    return Tapes()


def times(count: int, call: Callable[[], Tensor]) -> list[Tensor]:
    return [call() for _ in range(count)]


def test_what_reads_a_value_back_is_never_recorded_and_said_once(
    tapes: Tapes, caplog: pytest.LogCaptureFixture
) -> None:
    """A recording of it would fail, and torch may not bear another one."""

    def run(rows: Tensor) -> Tensor:
        return rows.sum(0) if rows.sum() > 0 else rows[0]

    tapes.failing = [RuntimeError("operation not permitted when stream is capturing")]
    replays = Replays(run, tapes, "sums")
    with caplog.at_level(logging.WARNING):
        for found in times(WARM_UPS + 4, lambda: replays(ROWS)):
            assert torch.equal(found, TOTAL)
    assert (tapes.recorded, len(tapes.failing)) == (0, 1), "none was tried"
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graph of sums of 2x2: aten::_local_scalar_dense reads a value back"
    ]
    assert replays.stats() == {"sums_replayed": 0, "sums_recorded": 0, "sums_unfit": 1}


def test_what_takes_the_hosts_data_is_never_recorded(tapes: Tapes) -> None:
    replays = Replays(lambda rows: rows.sum(0) + torch.tensor([0.0, 0.0]), tapes, "sums")
    assert all(torch.equal(found, TOTAL) for found in times(WARM_UPS + 4, lambda: replays(ROWS)))
    assert tapes.recorded == 0


def test_a_size_is_recorded_after_a_trial_of_its_own(tapes: Tapes) -> None:
    """A function may do for one size what it does not for another."""
    replays = Replays(lambda rows: rows.sum(0) * (1 if len(rows) > 1 else rows.sum().item()), tapes, "sums")
    times(WARM_UPS + 2, lambda: replays(ROWS))
    times(WARM_UPS + 2, lambda: replays(ROWS[:1]))
    assert replays.stats() == {"sums_replayed": 2, "sums_recorded": 1, "sums_unfit": 1}


def test_what_fails_only_while_it_is_watched_is_not_recorded(tapes: Tapes) -> None:
    def run(rows: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise NotImplementedError("no kernel for this mode")
        return rows.sum(0)

    replays = Replays(run, tapes, "sums")
    assert all(torch.equal(found, TOTAL) for found in times(WARM_UPS + 2, lambda: replays(ROWS)))
    assert replays.stats() == {"sums_replayed": 0, "sums_recorded": 0, "sums_unfit": 1}


def test_memory_that_ends_in_the_first_call_says_nothing_about_the_function(tapes: Tapes) -> None:
    errors = [RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")]

    def run(rows: Tensor) -> Tensor:
        if errors:
            raise errors.pop()
        return rows.sum(0)

    replays = Replays(run, tapes, "sums")
    with pytest.raises(RuntimeError, match="out of memory"):
        replays(ROWS)
    times(WARM_UPS + 1, lambda: replays(ROWS))
    assert replays.stats() == {"sums_replayed": 1, "sums_recorded": 1, "sums_unfit": 0}


def test_every_call_has_a_turn_of_its_own_whoever_makes_it(tapes: Tapes) -> None:
    """Or a thread would write rows where another one's replay still reads them."""
    turns: list[int] = []

    def run(rows: Tensor) -> Tensor:
        turns.append(tapes.turns)
        return rows.sum(0)

    replays = Replays(run, tapes, "sums")
    with ThreadPoolExecutor(4) as threads:
        barrier = threading.Barrier(4)

        def calls(number: int) -> bool:
            barrier.wait()
            rows = [number * row for row in ROWS]
            return all(torch.equal(replays(rows), number * TOTAL) for _ in range(20))

        assert all(threads.map(calls, range(4)))
    assert set(turns) == {1}
    assert replays.stats()["sums_recorded"] == 1


def test_watches_do_not_overlap(tapes: Tapes) -> None:
    """torch keeps for the whole process whether it is in a mode: two that ended in the order they began in
    would leave it there, and its compilers do nothing in one."""
    begun, overlapped, over = threading.Event(), threading.Event(), threading.Event()

    def first(rows: Tensor) -> Tensor:
        begun.set()
        overlapped.wait(0.1)
        return rows.sum(0)

    def second(rows: Tensor) -> Tensor:
        overlapped.set()
        over.wait(1)
        return rows.sum(0)

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(Replays(first, tapes, "sums"), ROWS)
        begun.wait(1)
        other = threads.submit(Replays(second, Tapes(), "sums"), ROWS)
        one.result()
        over.set()
        other.result()
    assert not torch.utils._python_dispatch.is_in_torch_dispatch_mode()


def test_without_a_recorder_nothing_is_watched_and_nothing_counted() -> None:
    watched: list[object] = []

    def run(rows: Tensor) -> Tensor:
        watched.append(torch.utils._python_dispatch._get_current_dispatch_mode())
        return rows.sum(0)

    replays = Replays(run, None, "sums")
    assert all(torch.equal(found, TOTAL) for found in times(3, lambda: replays(ROWS)))
    assert watched == [None] * 3
    assert replays.stats() == {}


class Line:
    """A stream of CUDA that keeps a diary."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary

    def wait_event(self, event: str) -> None:
        self.diary.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        return f"the end on {self.name}"


class Slot:
    def record_stream(self, line: Line) -> None:
        line.diary.append(f"kept for {line.name}")


def test_on_cuda_a_turn_waits_for_the_last_one_whatever_streams_they_are_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diary: list[str] = []
    here = [Line("one", diary), Line("another", diary)]
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Line("its own", diary))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here[0])
    recorder, slot = Cuda(torch.device("cuda")), cast(Tensor, Slot())
    with recorder.turn(slot):
        diary.append("first")
    here.reverse()
    with contextlib.suppress(RuntimeError), recorder.turn(slot):
        diary.append("second")
        raise RuntimeError("out of memory")
    here.reverse()
    with recorder.turn(slot):
        diary.append("third")
    assert diary == [
        *("first", "kept for one"),
        *("another waits for the end on one", "second", "kept for another"),
        *("one waits for the end on another", "third", "kept for one"),
    ]
