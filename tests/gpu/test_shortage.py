"""Memory that ends while a call is recorded. Alone in its file and last: it sets a limit for the process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from engines.backends.eager import Eager
from engines.backends.graphs import WARM_UPS, Graphs
from engines.backends.program import difference
from tests.engines.backends.small import SHAPE, program

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]

BIG = dataclasses.replace(SHAPE, places=8, height=32, width=32)


@pytest.fixture
def limited() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@torch.inference_mode()
def test_a_recording_that_finds_no_memory_costs_no_picture(limited: None) -> None:
    half = program(True, torch.float16, "cuda", width=64)
    backend = Graphs(Eager(half), half)
    backend.warm(dataclasses.replace(SHAPE, places=1))
    batch = half.sample(BIG, seed=1)
    expected = half(*batch)
    for _ in range(WARM_UPS):
        backend.step(BIG, batch)
    slots = backend.slots(BIG)
    assert slots is not None
    for slot, tensor in zip(slots, batch, strict=True):
        if slot is not None and tensor is not None:
            slot.copy_(tensor)
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    enough = torch.cuda.memory_reserved() + 4 * 2**20  # for the answer, and for no recording
    torch.cuda.set_per_process_memory_fraction(enough / total)
    assert difference(expected, backend.step(BIG, slots)) <= 5e-3
    assert backend.stats()["graphs"] == 0
    assert backend.stats()["graphs_recorded"] == 1  # the small one

    torch.cuda.set_per_process_memory_fraction(1.0)
    backend.warm(BIG)
    assert backend.stats()["graphs_recorded"] == 2
