"""CUDA graphs for real: numbers, memory, and other threads at the same time."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from torch import Tensor

from engines.backends import make
from engines.backends.eager import Eager
from engines.backends.graphs import WARM_UPS, Graphs
from engines.backends.program import Batch, Program, Shape, difference
from tests.engines.backends.small import SHAPE, program

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BOUNDS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
BIG = dataclasses.replace(SHAPE, places=8, height=32, width=32)


def on_cuda(dtype: torch.dtype = torch.float16, embedded: bool = True) -> Program:
    return program(embedded, dtype, "cuda", width=64)


@pytest.fixture(scope="module")
def half() -> Program:
    return on_cuda()


def call(backend: Graphs, batch: Batch, shape: Shape) -> Tensor:
    slots = backend.slots(shape)
    if slots is None:
        return backend.step(shape, batch)
    for slot, tensor in zip(slots, batch, strict=True):
        if slot is not None and tensor is not None:
            slot.copy_(tensor)
    return backend.step(shape, slots)


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "cfg"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.inference_mode()
def test_a_replay_gives_what_eager_gives_and_the_same_each_time(dtype: torch.dtype, embedded: bool) -> None:
    ours = on_cuda(dtype, embedded)
    shape = dataclasses.replace(BIG, features=ours.features)
    backend = make("eager", ours)
    assert isinstance(backend, Graphs)
    backend.warm(shape)
    for seed in range(3):
        batch = ours.sample(shape, seed)
        first = call(backend, batch, shape)
        assert difference(ours(*batch), first) <= BOUNDS[dtype]
        assert all(torch.equal(call(backend, batch, shape), first) for _ in range(5))
    assert backend.stats()["graphs_recorded"] == 1
    assert backend.stats()["graphs_replayed"] == 1 + 3 * 6


@torch.inference_mode()
def test_float32_asked_for_is_float32(half: Program) -> None:
    there, here = on_cuda(torch.float32), program(width=64)
    make("eager", there)
    batch = here.sample(SHAPE)
    moved = Batch(*(None if tensor is None else tensor.cuda() for tensor in batch))
    assert difference(here(*batch), there(*moved).cpu()) <= 5e-5  # TF32 is ten times that


@torch.inference_mode()
def test_a_row_is_the_same_whoever_shares_the_call(half: Program) -> None:
    backend = Graphs(Eager(half), half)
    backend.warm(BIG)
    batch = half.sample(BIG, seed=1)
    alone = call(backend, batch, BIG)[0]
    other = half.sample(BIG, seed=2)
    for mine, theirs in zip(batch, other, strict=True):
        if mine is not None and theirs is not None:
            mine[1:] = theirs[1:]
    assert torch.equal(call(backend, batch, BIG)[0], alone)
    for tensor in (batch.latents, batch.noise, batch.text):
        tensor[1:].fill_(torch.nan)
    found = call(backend, batch, BIG)
    assert torch.equal(found[0], alone)
    assert found[1:].isnan().all()


@torch.inference_mode()
def test_results_and_slots_outlive_replays_of_every_other_shape(half: Program) -> None:
    backend = Graphs(Eager(half), half)
    shapes = [dataclasses.replace(BIG, places=places) for places in (8, 1, 4, 2)]
    for shape in shapes:  # the largest first, so that the others lie in its memory
        backend.warm(shape)
    batches = {shape: half.sample(shape, seed=shape.places) for shape in shapes}
    where = {shape: [t.data_ptr() for t in backend.slots(shape) or () if t is not None] for shape in shapes}
    first = {shape: call(backend, batches[shape], shape) for shape in shapes}
    kept = {shape: result.clone() for shape, result in first.items()}
    for shape in [*reversed(shapes), shapes[2], shapes[0], shapes[1]]:
        assert torch.equal(call(backend, batches[shape], shape), kept[shape])
    assert all(torch.equal(first[shape], kept[shape]) for shape in shapes)
    for shape in shapes:
        assert where[shape] == [t.data_ptr() for t in backend.slots(shape) or () if t is not None]


@torch.inference_mode()
def test_traffic_is_served_before_during_and_after_recording(half: Program) -> None:
    backend = Graphs(Eager(half), half)
    for turn in range(WARM_UPS + 3):
        batch = half.sample(BIG, seed=turn)
        assert difference(half(*batch), call(backend, batch, BIG)) <= BOUNDS[torch.float16]
        assert backend.stats()["graphs_recorded"] == (turn >= WARM_UPS)


@torch.inference_mode()
def test_a_recording_is_launched_again_while_it_still_runs(half: Program) -> None:
    """The next call is given early: it does not wait for the last, nor does it fill the slots too soon."""
    backend = Graphs(Eager(half), half)
    backend.warm(BIG)
    batches = [half.sample(BIG, seed=seed) for seed in range(3)]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(1)  # loading a kernel, and taking memory, may wait for the device
        expected = [call(backend, batch, BIG) for batch in batches]
        kept = [one.clone() for one in expected]
        del expected
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000_000)  # about half a second
        found, ends = [], []
        for batch in batches:
            found.append(call(backend, batch, BIG))
            ends.append(torch.cuda.current_stream().record_event())
        assert not ends[0].query(), "three calls are given, and none has ended"
        torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(found, kept, strict=True))


def test_every_attention_has_a_kernel_by_measurement(half: Program) -> None:
    backend = Eager(half)
    backend.warm(BIG)
    pinned = {name: count for name, count in backend.stats().items() if name.startswith("attention_")}
    assert sum(pinned.values()) >= 2, pinned  # one of the picture, one of the text


@torch.inference_mode()
def test_the_least_recently_used_recording_goes_and_comes_back(half: Program) -> None:
    backend = Graphs(Eager(half), half, most=2)
    shapes = [dataclasses.replace(BIG, places=places) for places in (1, 2, 3)]
    for shape in [*shapes, *shapes]:
        backend.warm(shape)
        batch = half.sample(shape, seed=9)
        assert difference(half(*batch), call(backend, batch, shape)) <= BOUNDS[torch.float16]
    assert backend.stats()["graphs"] == 2
    assert backend.stats()["graphs_evicted"] == 4


@torch.inference_mode()
def test_recordings_share_memory_and_relief_gives_it_back(half: Program) -> None:
    backend = Graphs(Eager(half), half)
    torch.cuda.empty_cache()
    begun = torch.cuda.memory_reserved()
    backend.warm(BIG)
    torch.cuda.empty_cache()
    one = torch.cuda.memory_reserved() - begun
    for places in (4, 2, 1):
        backend.warm(dataclasses.replace(BIG, places=places))
    torch.cuda.empty_cache()
    four = torch.cuda.memory_reserved() - begun
    assert 0 < one <= four < 2 * one
    backend.relieve()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - begun < one
    batch = half.sample(BIG, seed=1)
    assert difference(half(*batch), call(backend, batch, BIG)) <= BOUNDS[torch.float16]
    backend.warm(BIG)
    assert torch.equal(call(backend, batch, BIG), call(backend, batch, BIG))
    assert backend.stats()["graphs"] == 1


@torch.inference_mode()
def test_recording_beside_threads_that_use_the_device(half: Program) -> None:
    """As decodes do: on another stream, with memory of their own and pinned memory."""
    over, wrong = threading.Event(), []

    def busy() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            while not over.is_set():
                there = torch.full((256, 1024), 3.0, device="cuda").mul_(2)
                here = torch.empty(there.shape, pin_memory=True).copy_(there, non_blocking=True)
                end = torch.cuda.Event(blocking=True)
                end.record()
                end.synchronize()
                if not bool((here == 6).all()):
                    wrong.append(here)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        with torch.cuda.stream(torch.cuda.Stream()):  # the engine's line of steps is not the default stream
            backend = Graphs(Eager(half), half)
            for places in (1, 2, 3, 4, 6, 8):
                shape = dataclasses.replace(BIG, places=places)
                backend.warm(shape)
                batch = half.sample(shape, seed=places)
                assert difference(half(*batch), call(backend, batch, shape)) <= BOUNDS[torch.float16]
    finally:
        over.set()
        thread.join()
    assert not wrong
    assert backend.stats()["graphs_unfit"] == 0
