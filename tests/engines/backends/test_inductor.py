"""Compiled code for real, on the CPU and of a small program: numbers, files, and what is not trusted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.backends import code, inductor
from engines.backends.inductor import Inductor
from engines.backends.program import Program, difference
from engines.backends.regional import regional
from engines.backends.store import Store
from tests.engines.backends.small import SHAPE, program

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def small() -> Program:
    return program()


@pytest.fixture(scope="module")
def built(small: Program) -> tuple[code.Code, bytes]:
    """Compiled once: half a minute."""
    return code.compiled(small, SHAPE)


@pytest.fixture(autouse=True)
def _quick_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this machine does now."""
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "builds")


@torch.inference_mode()
def test_compiled_code_gives_eager_numbers(small: Program, built: tuple[code.Code, bytes]) -> None:
    for seed in range(3):
        batch = small.sample(SHAPE, seed)
        assert difference(small(*batch), built[0](*batch)) < 1e-5


@torch.inference_mode()
def test_code_from_a_file_runs_on_the_weights_it_is_loaded_for(built: tuple[code.Code, bytes]) -> None:
    other = program()
    other.unet.conv_out.weight.mul_(-0.5)
    batch = other.sample(SHAPE, 4)
    assert difference(other(*batch), code.loaded(built[1], other, SHAPE)(*batch)) < 1e-5


@torch.inference_mode()
def test_a_weight_that_changes_in_place_is_seen(built: tuple[code.Code, bytes]) -> None:
    other = program()
    run, batch = code.loaded(built[1], other, SHAPE), other.sample(SHAPE, 4)
    before = run(*batch).clone()
    other.unet.conv_out.weight.mul_(-0.5)
    assert difference(before, run(*batch)) > 0.01
    assert difference(other(*batch), run(*batch)) < 1e-5


@torch.inference_mode()
def test_rows_do_not_influence_each_other_compiled(small: Program, built: tuple[code.Code, bytes]) -> None:
    batch = small.sample(SHAPE, 1)
    alone = built[0](*batch)[0].clone()
    for tensor in (batch.latents, batch.noise, batch.text):
        tensor[1].fill_(torch.nan)
    assert torch.equal(built[0](*batch)[0], alone)


def test_a_kept_build_is_used_without_compiling(
    small: Program, built: tuple[code.Code, bytes], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Inductor(small, store)
    first.keep(SHAPE, built[1])
    monkeypatch.setattr(inductor, "compiled", _never)
    second = Inductor(small, store)
    second.warm(SHAPE)
    assert isinstance(second.program(SHAPE), code.Code)
    assert second.stats()["loaded"] == 1


@pytest.mark.parametrize("planted", ["of nothing", "wrong"])
def test_a_planted_build_is_dropped_and_made_again(
    small: Program,
    built: tuple[code.Code, bytes],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    planted: str,
) -> None:
    if planted == "wrong":  # sound, and of other numbers
        monkeypatch.setattr(inductor, "loaded", lambda *_: lambda *batch: small(*batch) * 1.001)
    Inductor(small, store).keep(SHAPE, b"no code" if planted == "of nothing" else built[1])
    monkeypatch.setattr(inductor, "compiled", lambda *_: built)
    backend = Inductor(small, store)
    backend.warm(SHAPE, build=False)
    assert backend.program(SHAPE) is small
    backend.warm(SHAPE)
    assert backend.program(SHAPE) is built[0]
    assert backend.stats()["built"] == 1
    monkeypatch.undo()
    third = Inductor(small, store)
    third.warm(SHAPE, build=False)
    assert isinstance(third.program(SHAPE), code.Code)


@torch.inference_mode()
def test_compiled_blocks_share_the_weights_and_leave_the_program_eager(small: Program) -> None:
    twin = regional(small, SHAPE)
    assert all(mine is theirs for mine, theirs in zip(twin.parameters(), small.parameters(), strict=True))
    for shape in (SHAPE, dataclasses.replace(SHAPE, places=3)):
        batch = small.sample(shape, 2)
        assert difference(small(*batch), twin(*batch)) < 1e-5
    blocks = [module for module in twin.modules() if type(module).__name__ == "BasicTransformerBlock"]
    assert blocks
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert not any(module._compiled_call_impl for module in small.modules())


def _never(*_: Any) -> Any:
    raise AssertionError("it was compiled again")
