"""Recordings: when they are made, that they compute, what drops them, and that no picture is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.backends import graphs as graphs_of
from engines.backends.eager import Eager
from engines.backends.graphs import WARM_UPS, Graphs
from engines.backends.inductor import WORTH, Inductor
from engines.backends.program import Batch, Program, Shape
from engines.lcm import Lcm
from engines.messages import Job
from tests.engines.backends.small import SHAPE, program
from tests.engines.backends.tapes import Tapes
from tests.engines.backends.test_make import Ordered

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture(scope="module")
def small() -> Program:
    return program()


@pytest.fixture
def tapes() -> Tapes:
    return Tapes()


@pytest.fixture
def graphs(small: Program, tapes: Tapes) -> Graphs:
    return Graphs(Eager(small), small, tapes, most=3)


def call(backend: Graphs, batch: Batch, shape: Shape = SHAPE) -> Tensor:
    """As the denoiser does: gather into the slots there are, then step."""
    slots = backend.slots(shape)
    if slots is None:
        return backend.step(shape, batch)
    for slot, tensor in zip(slots, batch, strict=True):
        if slot is not None and tensor is not None:
            slot.copy_(tensor)
    return backend.step(shape, slots)


@torch.inference_mode()
def test_the_first_calls_are_uncaptured_and_all_give_eager_numbers(
    small: Program, graphs: Graphs, tapes: Tapes
) -> None:
    for turn in range(WARM_UPS + 3):
        batch = small.sample(SHAPE, seed=turn)
        assert torch.equal(call(graphs, batch), small(*batch))
        assert tapes.aside_calls == min(turn + 1, WARM_UPS)
        assert tapes.recorded == (turn >= WARM_UPS)
    assert graphs.stats()["graphs_replayed"] == 3


@torch.inference_mode()
def test_a_call_that_cannot_be_recorded_now_is_uncaptured_and_a_later_one_is_recorded(
    small: Program, graphs: Graphs, tapes: Tapes
) -> None:
    tapes.busy = True
    for turn in range(WARM_UPS + 2):
        batch = small.sample(SHAPE, seed=turn)
        assert torch.equal(call(graphs, batch), small(*batch))
    assert (tapes.recorded, graphs.stats()["graphs_unfit"]) == (0, 0)
    tapes.busy = False
    batch = small.sample(SHAPE, seed=9)
    assert torch.equal(call(graphs, batch), small(*batch))
    assert tapes.recorded == 1


@torch.inference_mode()
def test_what_a_replay_gave_is_not_written_again(small: Program, graphs: Graphs) -> None:
    graphs.warm(SHAPE)
    first = call(graphs, small.sample(SHAPE, seed=1))
    kept = first.clone()
    call(graphs, small.sample(SHAPE, seed=2))
    assert torch.equal(first, kept)


@torch.inference_mode()
def test_slots_stay_where_they_are(graphs: Graphs, small: Program) -> None:
    graphs.warm(SHAPE)
    where = [t.data_ptr() for t in graphs.slots(SHAPE) or () if t is not None]
    call(graphs, small.sample(SHAPE, seed=2))
    assert where == [t.data_ptr() for t in graphs.slots(SHAPE) or () if t is not None]


def test_warming_records_before_any_traffic(graphs: Graphs, tapes: Tapes) -> None:
    graphs.warm(SHAPE)
    assert tapes.recorded == 1
    assert graphs.slots(SHAPE) is not None
    graphs.warm(SHAPE)
    assert tapes.recorded == 1


def test_the_shape_used_longest_ago_is_dropped_once_nothing_of_it_runs(graphs: Graphs, tapes: Tapes) -> None:
    shapes = [dataclasses.replace(SHAPE, places=places) for places in (1, 2, 3, 4)]
    for shape in shapes[:3]:
        graphs.warm(shape)
    assert graphs.slots(shapes[0]) is not None  # used again
    dropped = tapes.dropped
    graphs.warm(shapes[3])
    assert tapes.dropped > dropped
    assert [graphs.slots(shape) is not None for shape in shapes] == [True, False, True, True]
    assert graphs.stats()["graphs_evicted"] == 1


class Swapped(Eager):
    """An inner back end whose step for a shape is exchanged, as a build does."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.now: Any = program

    def program(self, shape: Shape) -> Any:
        return self.now

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        advanced: Tensor = self.now(*batch)
        return advanced


@torch.inference_mode()
def test_a_better_step_is_warmed_and_recorded_anew(small: Program, tapes: Tapes) -> None:
    inner = Swapped(small)
    backend = Graphs(inner, small, tapes)
    batch = small.sample(SHAPE)
    backend.warm(SHAPE)
    inner.now = lambda *given: 2 * small(*given)
    found = [call(backend, batch) for _ in range(WARM_UPS + 2)]
    assert all(torch.equal(one, 2 * small(*batch)) for one in found)
    assert tapes.recorded == 2
    assert tapes.aside_calls == 2 * WARM_UPS


@torch.inference_mode()
def test_a_swap_between_the_gathering_and_the_step_changes_nothing_yet(small: Program, tapes: Tapes) -> None:
    inner = Swapped(small)
    backend = Graphs(inner, small, tapes)
    backend.warm(SHAPE)
    slots = backend.slots(SHAPE)
    assert slots is not None
    inner.now = lambda *given: 2 * small(*given)
    assert torch.equal(backend.step(SHAPE, slots), small(*small.sample(SHAPE)))


@torch.inference_mode()
def test_what_cannot_be_recorded_stays_uncaptured_and_says_why(
    small: Program, graphs: Graphs, tapes: Tapes, caplog: pytest.LogCaptureFixture
) -> None:
    tapes.failing.append(RuntimeError("operation not permitted when stream is capturing"))
    for turn in range(WARM_UPS + 3):
        batch = small.sample(SHAPE, seed=turn)
        assert torch.equal(call(graphs, batch), small(*batch))
    assert tapes.recorded == 0
    assert caplog.text.count("not permitted") == 1


@torch.inference_mode()
def test_a_recording_that_finds_no_memory_gives_all_of_it_back_and_the_row_its_numbers(
    small: Program, graphs: Graphs, tapes: Tapes
) -> None:
    others = [dataclasses.replace(SHAPE, places=places) for places in (1, 4)]
    for shape in others:
        graphs.warm(shape)
    for _ in range(WARM_UPS):
        call(graphs, small.sample(SHAPE))
    tapes.failing.append(torch.OutOfMemoryError(FULL))
    batch = small.sample(SHAPE, seed=5)
    assert torch.equal(call(graphs, batch), small(*batch))
    assert graphs.stats()["graphs"] == 0
    assert tapes.dropped > 0
    for shape in (*others, SHAPE):  # they come back, but fewer at a time
        graphs.warm(shape)
    assert graphs.stats()["graphs"] == 1


@torch.inference_mode()
def test_relief_without_recordings_takes_none_from_later(graphs: Graphs) -> None:
    graphs.relieve()
    for places in (1, 2, 3):
        graphs.warm(dataclasses.replace(SHAPE, places=places))
    assert graphs.stats()["graphs"] == 3


@torch.inference_mode()
def test_after_many_calls_without_a_shortage_as_many_are_recorded_as_before(
    small: Program, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs_of, "CALM", 20)
    backend = Graphs(Eager(small), small, tapes, most=3)
    shapes = [dataclasses.replace(SHAPE, places=places) for places in (1, 2, 3)]
    for shape in shapes:
        backend.warm(shape)
    for kept in (1, 1):  # two shortages one after the other
        backend.relieve()
        for shape in shapes[:2]:
            backend.warm(shape)
        assert backend.stats()["graphs"] == kept
    for _ in range(40):
        call(backend, small.sample(shapes[0]), shapes[0])
    for shape in shapes:
        backend.warm(shape)
    assert backend.stats()["graphs"] == 3


@torch.inference_mode()
def test_a_call_counts_once_whether_it_is_recorded_or_not(small: Program, tapes: Tapes) -> None:
    inner = Inductor(small)
    inner.builds = ordered = Ordered()
    backend = Graphs(inner, small, tapes)
    for turn in range(WORTH + 2):
        assert ordered.shapes == [SHAPE] * (turn >= WORTH)
        call(backend, small.sample(SHAPE))


@torch.inference_mode()
def test_of_sizes_that_came_once_only_so_many_are_remembered(
    graphs: Graphs, small: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs_of, "KNOWN", 8)
    for width in range(1, 20):
        shape = dataclasses.replace(SHAPE, width=width)
        call(graphs, small.sample(shape), shape)
    assert len(graphs._warmed) == 8


@pytest.mark.parametrize("options", [{}, {"lcm": False, "lora": True}], ids=["embedded", "cfg"])
def test_rows_come_out_the_same_recorded(pipeline: Callable[..., Lcm], options: dict[str, bool]) -> None:
    ours = pipeline(**options)
    jobs = [Job("the sea", seed, 64, 64, steps=4, guidance=1.0 + seed % 2) for seed in range(3)]
    denoiser, tapes = ours.denoiser, Tapes()
    made = []
    for backend in (denoiser.backend, Graphs(Eager(denoiser.program), denoiser.program, tapes)):
        rows = [row for job in jobs for row in ours.rows(job, None)]
        kept, denoiser.backend = denoiser.backend, backend
        for _ in range(4):
            denoiser.advance(rows, 6)
        denoiser.backend = kept
        made.append([row.latents for row in rows])
    assert tapes.recorded == 1
    assert all(torch.equal(*pair) for pair in zip(*made, strict=True))
