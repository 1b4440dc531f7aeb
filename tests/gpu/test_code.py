"""Inductor's code on CUDA: numbers, the file it is kept in, and CUDA graphs around it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from engines.backends import code, inductor, make
from engines.backends.graphs import Graphs
from engines.backends.joined import family
from engines.backends.program import Program, difference
from engines.backends.store import Store
from tests.engines.backends.small import SHAPE, program

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(300)]

FOUR = dataclasses.replace(SHAPE, places=4, height=32, width=32)


@pytest.fixture(scope="module")
def half() -> Program:
    return program(True, torch.float16, "cuda", width=64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("builds") / "store")


@torch.inference_mode()
def test_compiled_recorded_kept_and_loaded(
    half: Program, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = make("inductor", half, store=store)
    assert isinstance(built, Graphs)
    built.warm(FOUR)
    assert built.stats()["compiled"] == 1, built.reasons()
    assert built.stats()["graphs"] == 1

    monkeypatch.setattr(inductor, "compiled", None)
    found = make("inductor", half, store=store)
    found.warm(FOUR)
    assert found.stats()["loaded"] == 1, found.reasons()
    assert isinstance(found.program(FOUR), code.Code)
    for seed in range(3):
        batch = half.sample(FOUR, seed)
        slots = found.slots(FOUR)
        assert slots is not None
        for slot, tensor in zip(slots, batch, strict=True):
            if slot is not None and tensor is not None:
                slot.copy_(tensor)
        first = found.step(FOUR, slots)
        assert difference(half(*batch), first) <= 1e-2
        assert torch.equal(found.step(FOUR, slots), first)


@torch.inference_mode()
def test_rows_do_not_influence_each_other_compiled(half: Program, store: Store) -> None:
    backend = make("inductor", half, store=store, graphs=False)
    backend.warm(FOUR)
    batch = half.sample(FOUR, 1)
    alone = backend.step(FOUR, batch)[0].clone()
    for tensor in (batch.latents, batch.noise, batch.text):
        tensor[1:].fill_(torch.nan)
    assert torch.equal(backend.step(FOUR, batch)[0], alone)


@torch.inference_mode()
def test_weights_changed_in_place_are_seen_by_compiled_and_recorded_code(half: Program, store: Store) -> None:
    backend = make("inductor", half, store=store)
    backend.warm(FOUR)
    compiled = backend.program(FOUR)
    assert isinstance(compiled, code.Code), backend.reasons()
    joined = [name.split() for kind, name in compiled._inputs if kind == "joined"]
    assert sum(map(len, joined)) > 2 * len(joined), "layers of one input are one"
    batch, slots = half.sample(FOUR, 4), backend.slots(FOUR)
    assert slots is not None
    for slot, tensor in zip(slots, batch, strict=True):
        if slot is not None and tensor is not None:
            slot.copy_(tensor)
    before = half(*batch)
    changed = [parameter for name, parameter in half.named_parameters() if family(name)]
    for parameter in changed:
        parameter.mul_(2.0)
    try:
        expected = half(*batch)
        assert difference(expected, before) > 5e-2, "the test below can fail"
        assert difference(expected, compiled(*batch)) <= 1e-2
        assert difference(expected, backend.step(FOUR, slots)) <= 1e-2
    finally:
        for parameter in changed:
            parameter.div_(2.0)
    assert difference(before, backend.step(FOUR, slots)) <= 1e-2
