"""Builds beside traffic: what a process is given, what comes of one that fails, and that none outlives us."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from engines.backends import builds, inductor, make
from engines.backends.builds import WAITING, Builds
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

    def fail(self, shape: Shape, reason: str, again: bool = False) -> None:
        self.failed[shape] = reason
        self.again = again
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
def test_a_build_that_fails_says_why_and_is_no_matter_of_memory(failing: Builds, customer: Customer) -> None:
    failing.order(SHAPE)
    failing.order(SHAPE)
    assert failing.left() == 1
    assert customer.over.wait(100)
    assert "max-autotune-no-cudagraphs can be chosen" in customer.failed[SHAPE]  # the process's last words
    assert not customer.again


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


class Slow(Customer):
    """Finds all there is, the first of it once it may."""

    def __init__(self, all_of: int) -> None:
        super().__init__()
        self.found: list[Shape] = []
        self.all_of, self.began, self.may = all_of, threading.Event(), threading.Event()

    def find(self, shape: Shape) -> bool:
        self.began.set()
        assert self.may.wait(10)
        self.found.append(shape)
        if len(self.found) == self.all_of:
            self.over.set()
        return True


def test_of_what_traffic_wants_the_newest_comes_first_and_only_so_many_wait(small: Program) -> None:
    wishes = [dataclasses.replace(SHAPE, width=width) for width in range(1, 193)]
    ordered = dataclasses.replace(SHAPE, width=200)
    slow = Slow(all_of=2 + WAITING)
    made = Builds(small, "default", slow)
    made.wish(wishes[0])
    assert slow.began.wait(10)
    for shape in (*wishes, ordered, wishes[-1]):
        made.wish(shape) if shape != ordered else made.order(shape)
    assert made.left() == 2 + WAITING
    slow.may.set()
    assert slow.over.wait(10)
    made.close()
    assert slow.found == [wishes[0], ordered, *wishes[: -1 - WAITING : -1]]


class Short(Customer):
    def find(self, shape: Shape) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_what_finds_no_memory_may_be_ordered_again(small: Program) -> None:
    short = Short()
    made = Builds(small, "default", short)
    for _ in range(2):
        made.order(SHAPE)
        assert short.over.wait(10)
        assert short.again
        while made.left():
            time.sleep(0.01)
        short.over.clear()
    made.close()


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
