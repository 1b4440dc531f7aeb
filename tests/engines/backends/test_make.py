"""Back ends by name, and what one does when its compiler is of no use. Nothing is compiled here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.backends import NAMES, code, inductor, make
from engines.backends.eager import Eager
from engines.backends.graphs import KNOWN, MOST
from engines.backends.inductor import WORTH, Inductor
from engines.backends.program import Program, Shape
from engines.backends.store import Store
from tests.engines.backends.small import SHAPE, program


@pytest.fixture(scope="module")
def small() -> Program:
    return program()


def test_auto_is_eager_without_a_gpu(small: Program) -> None:
    assert make("auto", small).name == "eager"


def test_an_unknown_name_says_what_is_known(small: Program) -> None:
    with pytest.raises(ValueError, match=", ".join(NAMES)):
        make("onnx", small)


def test_an_unknown_mode_says_what_is_known(small: Program) -> None:
    with pytest.raises(ValueError, match="max-autotune-no-cudagraphs"):
        make("inductor", small, mode="reduce-overhead")


def test_graphs_need_cuda(small: Program) -> None:
    with pytest.raises(ValueError, match="cpu"):
        make("eager", small, graphs=True)


def test_known_bad_options_of_inductor_are_off() -> None:
    from torch import _inductor

    assert hasattr(_inductor.config, "loop_reindexing_after_fusion") == (
        code.patches("default", "cpu").get("loop_reindexing_after_fusion") is False
    )


@torch.inference_mode()
def test_eager_serves_any_shape_at_once(small: Program) -> None:
    backend = Eager(small)
    batch = small.sample(SHAPE)
    assert torch.equal(backend.step(SHAPE, batch), small(*batch))


def _broken(*_: object) -> tuple[Callable[..., Tensor], bytes]:
    raise SystemError("the compiler has no compiler")


def _wrong(ours: Program, shape: Shape, mode: str) -> tuple[Callable[..., Tensor], bytes]:
    return lambda *batch: ours(*batch) * 1.001, b""


def _nan(ours: Program, shape: Shape, mode: str) -> tuple[Callable[..., Tensor], bytes]:
    return lambda *batch: ours(*batch) * torch.nan, b""


@pytest.mark.parametrize(("compiler", "reason"), [(_broken, "no compiler"), (_wrong, "off"), (_nan, "off")])
@torch.inference_mode()
def test_what_cannot_be_built_or_is_wrong_stays_eager_and_says_why(
    small: Program,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    compiler: Callable[..., object],
    reason: str,
) -> None:
    monkeypatch.setattr(inductor, "compiled", compiler)
    backend = Inductor(small)
    backend.warm(SHAPE)
    backend.warm(SHAPE)
    batch = small.sample(SHAPE, 3)
    assert torch.equal(backend.step(SHAPE, batch), small(*batch))
    assert caplog.text.count("stays eager") == 1
    assert reason in caplog.text
    assert backend.stats()["failed"] == 1


class Ordered:
    def __init__(self) -> None:
        self.shapes: list[Shape] = []

    def order(self, shape: Shape) -> None:
        self.shapes.append(shape)

    wish = order

    def close(self) -> None: ...


@torch.inference_mode()
def test_a_shape_that_comes_back_is_ordered_once_and_served_meanwhile(small: Program) -> None:
    backend = Inductor(small)
    backend.builds = ordered = Ordered()
    batch = small.sample(SHAPE)
    for turn in range(WORTH + 2):
        assert ordered.shapes == [SHAPE] * (turn >= WORTH)
        assert torch.equal(backend.step(SHAPE, batch), small(*batch))


def test_a_shape_that_was_pushed_out_is_ordered_again_and_one_that_failed_is_not(small: Program) -> None:
    backend = Inductor(small)
    backend.builds = ordered = Ordered()
    for _ in range(4 * WORTH):
        backend.want(SHAPE)
    assert ordered.shapes == [SHAPE] * 3, "after 8, 16 and 32 calls"
    backend.fail(SHAPE, "no compiler")
    for _ in range(4 * WORTH):
        backend.want(SHAPE)
    assert len(ordered.shapes) == 3


@torch.inference_mode()
def test_as_much_is_remembered_as_anybody_asks_for_and_no_more(
    small: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)
    backend = Inductor(small)
    backend.builds = Ordered()
    shapes = [dataclasses.replace(SHAPE, width=width) for width in range(1, KNOWN + 100)]
    for shape in shapes:
        backend.want(shape)
    assert len(backend._wanted) == KNOWN
    for shape in shapes[: 2 * MOST]:
        backend._use(shape, lambda *batch: small(*batch))
        assert backend.program(shapes[0]) is not small, "what is used stays"
    assert len(backend._code) == MOST
    assert backend.program(shapes[1]) is small
    for shape in shapes:
        backend.fail(shape, "no compiler")
    assert len(backend.reasons()) == KNOWN


@pytest.mark.parametrize("where", ["loading", "checking"])
@torch.inference_mode()
def test_code_that_finds_no_memory_is_kept_and_taken_later(
    small: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    short = True

    def step(*batch: Tensor | None) -> Tensor:
        if short and where == "checking":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        advanced: Tensor = small(*batch)
        return advanced

    def loaded(*_: object) -> Callable[..., Tensor]:
        if short and where == "loading":
            raise RuntimeError("OutOfMemoryError: CUDA out of memory")  # as code.loaded says it
        return step

    monkeypatch.setattr(inductor, "loaded", loaded)
    monkeypatch.setattr(inductor, "compiled", None)
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)
    backend = Inductor(small, Store(tmp_path / "builds"))
    backend.keep(SHAPE, b"code")
    backend.warm(SHAPE)
    assert backend.program(SHAPE) is small
    assert "out of memory" in backend.reasons()[str(SHAPE)]
    short = False
    backend.warm(SHAPE)
    assert backend.program(SHAPE) is step
    assert not backend.reasons()


def test_a_build_that_finds_no_memory_is_tried_again(
    small: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> tuple[Callable[..., Tensor], bytes]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(inductor, "compiled", full)
    backend = Inductor(small)
    backend.warm(SHAPE)
    assert "out of memory" in backend.reasons()[str(SHAPE)]
    monkeypatch.setattr(inductor, "compiled", lambda *_: (Twin(small), b""))
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)
    backend.warm(SHAPE)
    assert isinstance(backend.program(SHAPE), Twin)


def test_warming_without_a_build_orders_it(small: Program) -> None:
    backend = Inductor(small)
    backend.builds = ordered = Ordered()
    backend.warm(SHAPE, build=False)
    assert ordered.shapes == [SHAPE]
    assert backend.program(SHAPE) is small


class Twin:
    """As a program whose blocks are compiled: right, or off by a factor."""

    def __init__(self, run: Program, factor: float = 1.0) -> None:
        self.run, self.factor = run, factor

    def __call__(self, *batch: Tensor | None) -> Tensor:
        advanced: Tensor = self.run(*batch)
        return advanced * self.factor


@torch.inference_mode()
def test_a_quick_start_serves_until_the_whole_is_built(
    small: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin, whole = Twin(small), Twin(small)
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)
    monkeypatch.setattr(inductor, "regional", lambda *_: twin)
    monkeypatch.setattr(inductor, "compiled", lambda *_: (whole, b""))
    backend = make("inductor", small, quick=True)
    backend.warm(SHAPE, build=False)
    assert backend.program(SHAPE) is twin
    backend.warm(SHAPE)
    assert backend.program(SHAPE) is whole


@pytest.mark.parametrize("factor", [1.001, torch.nan])
@torch.inference_mode()
def test_a_quick_start_that_is_wrong_is_not_used(
    small: Program, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, factor: float
) -> None:
    monkeypatch.setattr(inductor, "regional", lambda *_: Twin(small, factor))
    backend = make("inductor", small, quick=True)
    backend.warm(SHAPE, build=False)
    assert backend.program(SHAPE) is small
    assert "eager until it is built whole" in caplog.text
    assert not backend.reasons()


class Timed:
    """Steps that take a made-up time, and its clock."""

    def __init__(self, run: Program) -> None:
        self.run, self.now = run, 0.0

    def taking(self, *seconds: float) -> Callable[..., Tensor]:
        turns = iter(seconds)

        def step(*batch: Tensor | None) -> Tensor:
            self.now += next(turns)
            advanced: Tensor = self.run(*batch)
            return advanced

        return step


def test_the_least_of_some_turns_decides(small: Program) -> None:
    timed, batch = Timed(small), small.sample(SHAPE)
    eager, code = timed.taking(2.0, 2.0, 1.0, 9.0, 2.0), timed.taking(1.5, 9.0, 9.0, 9.0, 9.0)
    with torch.inference_mode():
        assert inductor.slower(eager, code, batch, lambda: timed.now) == pytest.approx(1.5)


@pytest.mark.parametrize(("ratio", "used"), [(0.9, True), (1.01, True), (1.1, False)])
def test_code_that_is_no_faster_is_not_used(
    small: Program, monkeypatch: pytest.MonkeyPatch, ratio: float, used: bool
) -> None:
    def step(*batch: Tensor | None) -> Tensor:
        advanced: Tensor = small(*batch)
        return advanced

    monkeypatch.setattr(inductor, "compiled", lambda *_: (step, b""))
    monkeypatch.setattr(inductor, "slower", lambda *_: ratio)
    backend = Inductor(small)
    backend.warm(SHAPE)
    assert (backend.program(SHAPE) is step) == used
    assert len(backend.reasons()) == (not used)


def test_code_that_is_no_faster_is_kept_and_not_built_again(
    small: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[Shape] = []

    def step(*batch: Tensor | None) -> Tensor:
        advanced: Tensor = small(*batch)
        return advanced

    def compiled(ours: Program, shape: Shape, mode: str) -> tuple[Callable[..., Tensor], bytes]:
        built.append(shape)
        return step, b"code"

    monkeypatch.setattr(inductor, "compiled", compiled)
    monkeypatch.setattr(inductor, "loaded", lambda *_: step)
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.5)
    for _ in range(2):
        backend = Inductor(small, Store(tmp_path / "builds"))
        backend.warm(SHAPE)
        assert backend.program(SHAPE) is small
        assert "1.50 of the time" in backend.reasons()[str(SHAPE)]
    assert built == [SHAPE]
