"""Builds beside traffic: what a process is given, what comes of one that fails, and that none outlives us."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from engines.backends import builds, inductor, make
from engines.backends.builds import Builds
from engines.backends.code import Code
from engines.backends.program import Program, Shape
from engines.backends.store import SUFFIX, Store
from tests.engines.backends.small import SHAPE, program

pytestmark = pytest.mark.proc


class Customer:
    def __init__(self) -> None:
        self.failed: dict[Shape, str] = {}
        self.over = threading.Event()

    def find(self, shape: Shape) -> bool:
        return False

    def adopt(self, shape: Shape, packed: bytes) -> bool:
        raise AssertionError("nothing can have been built")

    def keep(self, shape: Shape, packed: bytes) -> None: ...

    def fail(self, shape: Shape, reason: str) -> None:
        self.failed[shape] = reason
        self.over.set()


@pytest.fixture(scope="module")
def small() -> Program:
    return program()


@pytest.fixture
def customer() -> Customer:
    return Customer()


@pytest.fixture
def failing(small: Program, customer: Customer) -> Iterator[Builds]:
    made = Builds(small, "no mode of the compiler", customer)
    yield made
    made.close()


def test_a_process_gets_the_layout_and_no_weights(small: Program) -> None:
    wide = program(width=64)
    request = builds._request(wide, SHAPE, "default")
    assert len(request) < sum(tensor.nbytes for tensor in wide.state_dict().values()) / 4
    assert wide.unet.conv_in.weight.device.type == "cpu"
    taken, shape, mode = builds._taken(request)
    assert (shape, mode) == (SHAPE, "default")
    assert taken.layout() == wide.layout()
    with torch.inference_mode():
        drawn = taken(*taken.sample(SHAPE))
    assert drawn.isfinite().all()
    assert drawn.std() > 0


@pytest.mark.timeout(120)
def test_a_build_that_fails_says_why_and_is_not_tried_again(failing: Builds, customer: Customer) -> None:
    failing.order(SHAPE)
    failing.order(SHAPE)
    assert customer.over.wait(100)
    assert "max-autotune-no-cudagraphs can be chosen" in customer.failed[SHAPE]  # the process's last words
    customer.over.clear()
    failing.order(SHAPE)
    failing.close()
    assert not customer.over.is_set()


@pytest.mark.timeout(120)
def test_closing_ends_the_process_and_waits_for_nothing(
    failing: Builds, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing.order(SHAPE)
    while not failing._processes:
        time.sleep(0.01)
    (process,) = failing._processes
    child = psutil.Process(process.pid)
    failing.close()
    assert not child.is_running()
    assert failing.left() == 0
    assert not customer.failed


class Finder(Customer):
    def find(self, shape: Shape) -> bool:
        self.over.set()
        return True


def test_what_was_built_before_is_found_without_a_process(
    small: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds.subprocess, "Popen", None)
    finder = Finder()
    made = Builds(small, "default", finder)
    made.order(SHAPE)
    assert finder.over.wait(10)
    made.close()
    assert not finder.failed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_traffic_is_served_eagerly_until_the_build_is_there(
    small: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)  # whatever else this machine does now
    store = Store(tmp_path / "builds")
    backend = make("inductor", small, store=store, background=True)
    backend.warm(SHAPE, build=False)
    batch = small.sample(SHAPE, 5)
    try:
        with torch.inference_mode():
            expected = small(*batch)
            while backend.program(SHAPE) is small:
                assert torch.equal(backend.step(SHAPE, batch), expected)
                assert not backend.reasons(), caplog.text
            assert isinstance(backend.program(SHAPE), Code)
            torch.testing.assert_close(backend.step(SHAPE, batch), expected, rtol=1e-4, atol=1e-5)
    finally:
        backend.close()
    assert list(store.folder.glob(f"*{SUFFIX}"))
