"""The adapter to torch-tensorrt, against a stand-in; and against the library where it is."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.backends import graphs, make
from engines.backends.graphs import WARM_UPS, Graphs
from engines.backends.program import Program, Shape, difference
from engines.backends.store import SUFFIX, Store
from engines.backends.tensorrt import PROFILES, Profile, TensorRt, profile
from tests.engines.backends.small import SHAPE, program
from tests.engines.backends.tapes import Tapes

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclasses.dataclass(frozen=True)
class Input:
    min_shape: tuple[int, ...]
    opt_shape: tuple[int, ...]
    max_shape: tuple[int, ...]
    dtype: torch.dtype


class Engine:
    """Runs what was exported with the weights it was built with, and only within its profile."""

    def __init__(self, exported: Any, inputs: dict[str, Input], factor: float = 1.0) -> None:
        self.exported, self.inputs, self.factor = exported, inputs, factor
        self.run = exported.module()
        self.seen: list[int] = []

    def __call__(self, **given: Tensor) -> tuple[Tensor]:
        assert set(given) == set(self.inputs)
        for name, tensor in given.items():
            expected = self.inputs[name]
            assert tensor.dtype == expected.dtype
            assert all(
                least <= size <= most
                for least, size, most in zip(
                    expected.min_shape, tensor.shape, expected.max_shape, strict=True
                )
            ), (name, tensor.shape)
        self.seen.append(len(given["latents"]))
        return (self.run(**given) * self.factor,)

    def module(self) -> Engine:
        return self


class Dynamo:
    def __init__(self) -> None:
        self.built: list[Engine] = []
        self.refits = 0
        self.options: dict[str, Any] = {}
        self.failing: Exception | None = None
        self.factor = 1.0

    def compile(
        self,
        exported: Any,
        arg_inputs: tuple[Any, ...],
        kwarg_inputs: dict[str, Input],
        immutable_weights: bool = True,
        disable_tf32: bool = False,
    ) -> Engine:
        """As a version that always types explicitly: it does not know `use_explicit_typing`."""
        if self.failing is not None:
            raise self.failing
        self.options = {"immutable_weights": immutable_weights, "disable_tf32": disable_tf32}
        self.built.append(Engine(exported, kwarg_inputs, self.factor))
        return self.built[-1]

    def refit_module_weights(self, engine: Engine, exported: Any) -> Engine:
        self.refits += 1
        return Engine(exported, engine.inputs)


class StandIn:
    """torch_tensorrt as far as the adapter knows it. Engines are kept by number."""

    Input = Input

    def __init__(self) -> None:
        self.dynamo = Dynamo()
        self.saved: list[Engine] = []

    def save(
        self,
        engine: Engine,
        path: str,
        *,
        output_format: str,
        arg_inputs: tuple[()],
        kwarg_inputs: dict[str, Tensor],
        dynamic_shapes: dict[str, Any] | None = None,
    ) -> None:
        """As a version that exports once more: what is not said to vary is fixed to the example."""
        assert (output_format, arg_inputs) == ("exported_program", ())
        inputs = {}
        for name, tensor in kwarg_inputs.items():
            dims = [(size, size) for size in tensor.shape]
            for number, dim in (dynamic_shapes or {}).get(name, {}).items():
                dims[number] = dim.min, dim.max
            inputs[name] = Input(
                tuple(least for least, _ in dims),
                tuple(tensor.shape),
                tuple(most for _, most in dims),
                tensor.dtype,
            )
        self.saved.append(Engine(engine.exported, inputs, engine.factor))
        Path(path).write_text(json.dumps(len(self.saved) - 1))

    def load(self, path: str) -> Engine:
        return self.saved[json.loads(Path(path).read_text())]


@pytest.fixture(scope="module")
def small() -> Program:
    return program()


@pytest.fixture
def trt() -> StandIn:
    return StandIn()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "builds")


def at(places: int, **other: Any) -> Shape:
    return dataclasses.replace(SHAPE, places=places, **other)


def test_every_bucket_has_one_profile_and_profiles_do_not_overlap() -> None:
    assert [profile(at(places)) for places in BUCKETS] == [
        PROFILES[0],
        *[PROFILES[1]] * 3,
        *[PROFILES[2]] * 4,
    ]
    assert all(low.most < high.least for low, high in itertools.pairwise(PROFILES))


def test_calls_with_controlnets_have_engines_of_one_size() -> None:
    controlled = at(6, features=("control:canny", "embedded"), controlled=4)
    assert profile(controlled) == Profile(6, 6, 6)


@torch.inference_mode()
def test_one_engine_serves_all_buckets_of_its_profile_with_eager_numbers(
    small: Program, trt: StandIn
) -> None:
    backend = TensorRt(small, None, trt)
    backend.warm(at(2))
    (engine,) = trt.dynamo.built
    assert engine.inputs["latents"] == Input((2, 4, 8, 8), (4, 4, 8, 8), (4, 4, 8, 8), torch.float32)
    assert engine.seen == [2, 4]  # tried at the ends of its profile before it serves
    assert trt.dynamo.options == {"immutable_weights": False, "disable_tf32": True}
    for places in (2, 3, 4):
        batch = small.sample(at(places), seed=places)
        assert difference(small(*batch), backend.step(at(places), batch)) < 1e-5
        assert engine.seen[-1] == places
        assert backend.program(at(places)) is backend.program(at(places))
    backend.step(at(1), small.sample(at(1)))  # has none: eager
    assert engine.seen[-1] == 4


@torch.inference_mode()
@pytest.mark.parametrize("broken", ["error", "wrong", "NaN"])
def test_an_engine_that_fails_or_is_wrong_serves_nobody_and_says_why(
    small: Program, trt: StandIn, broken: str
) -> None:
    if broken == "error":
        trt.dynamo.failing = AssertionError("no converter for aten.hypot")
    trt.dynamo.factor = {"error": 1.0, "wrong": 1.001, "NaN": float("nan")}[broken]
    backend = TensorRt(small, None, trt)
    backend.warm(at(1))
    backend.warm(at(1))
    assert len(trt.dynamo.built) == (broken != "error")
    (reason,) = backend.reasons().values()
    assert ("hypot" if broken == "error" else "off; the bound is") in reason
    batch = small.sample(at(1))
    assert torch.equal(backend.step(at(1), batch), small(*batch))


def test_without_a_build_traffic_is_eager(small: Program, trt: StandIn) -> None:
    backend = TensorRt(small, None, trt)
    backend.warm(at(1), build=False)
    assert not trt.dynamo.built
    assert backend.program(at(1)) is small


def test_an_engine_is_kept_and_found(small: Program, trt: StandIn, store: Store) -> None:
    TensorRt(small, store, trt).warm(at(1))
    later = TensorRt(small, store, trt)
    later.warm(at(1), build=False)
    assert later.stats()["loaded"] == 1
    assert len(trt.dynamo.built) == 1
    assert trt.dynamo.refits == 0


@torch.inference_mode()
def test_a_kept_engine_serves_all_buckets_of_its_profile(small: Program, trt: StandIn, store: Store) -> None:
    TensorRt(small, store, trt).warm(at(4))
    later = TensorRt(small, store, trt)
    later.warm(at(2), build=False)
    assert later.stats()["loaded"] == 1
    for places in (2, 3, 4):
        batch = small.sample(at(places), seed=places)
        assert difference(small(*batch), later.step(at(places), batch)) < 1e-5


class Older(StandIn):
    """As a version that keeps what it is given as it is."""

    def save(self, engine: Engine, path: str, output_format: str, arg_inputs: Any, kwarg_inputs: Any) -> None:
        self.saved.append(engine)
        Path(path).write_text(json.dumps(len(self.saved) - 1))


def test_a_library_that_is_not_to_be_told_what_varies_is_not_told(small: Program, store: Store) -> None:
    trt = Older()
    TensorRt(small, store, trt).warm(at(4))
    later = TensorRt(small, store, trt)
    later.warm(at(2), build=False)
    assert later.stats()["loaded"] == 1


@torch.inference_mode()
def test_engines_of_every_size_are_known_at_the_start(small: Program, trt: StandIn, store: Store) -> None:
    wide = at(1, width=12)
    for shape in (at(1), wide, at(1, height=12)):
        TensorRt(small, store, trt).warm(shape)
    TensorRt(program(embedded=False), store, trt).warm(at(1, width=16, features=("cfg",)))
    later = TensorRt(small, store, trt)
    later.warm(at(1), build=False)
    assert set(later.kept((1, 2))) == {wide, at(1, height=12)}
    assert later.kept((2, 3)) == [], "of no such bucket"
    for lane in later.kept((1,)):
        later.warm(lane, build=False)
    assert later.program(wide) is not small
    assert later.stats()["loaded"] == 3
    assert later.kept((1,)) == []


@torch.inference_mode()
def test_other_weights_refit_the_kept_engine(small: Program, trt: StandIn, store: Store) -> None:
    TensorRt(small, store, trt).warm(at(1))
    other = program()
    other.unet.conv_out.weight.mul_(-0.5)
    for refits in (1, 1):  # the refitted one is kept
        backend = TensorRt(other, store, trt)
        backend.warm(at(1))
        assert trt.dynamo.refits == refits
        batch = other.sample(at(1))
        assert difference(other(*batch), backend.step(at(1), batch)) < 1e-5
    assert len(trt.dynamo.built) == 1


@pytest.mark.parametrize("damage", ["bytes", "no engine", "wrong engine"])
def test_a_kept_engine_that_is_no_good_is_built_again(
    small: Program, trt: StandIn, store: Store, damage: str
) -> None:
    TensorRt(small, store, trt).warm(at(1))
    (path,) = store.folder.glob(f"*{SUFFIX}")
    if damage == "bytes":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "no engine":
        trt.saved.clear()
    else:
        trt.saved[0].factor = 1.001
    backend = TensorRt(small, store, trt)
    backend.warm(at(1), build=False)
    assert backend.program(at(1)) is small
    backend.warm(at(1))
    assert len(trt.dynamo.built) == 2
    assert backend.stats()["built"] == 1


@pytest.mark.parametrize("where", ["loading", "building"])
def test_an_engine_that_finds_no_memory_is_tried_again(
    small: Program, trt: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if where == "loading":
        TensorRt(small, store, trt).warm(at(1))
    backend = TensorRt(small, store, trt)
    with monkeypatch.context() as short:
        short.setattr(trt, "load", full)
        trt.dynamo.failing = torch.OutOfMemoryError("CUDA out of memory")
        backend.warm(at(1))
    assert backend.program(at(1)) is small
    assert "out of memory" in next(iter(backend.reasons().values()))
    trt.dynamo.failing = None
    backend.warm(at(1))
    assert backend.program(at(1)) is not small
    assert not backend.reasons()
    assert len(trt.dynamo.built) == 1


@torch.inference_mode()
def test_engines_can_be_recorded(small: Program, trt: StandIn) -> None:
    """By who asks for it: `make` does so only when told."""
    tapes = Tapes()
    backend = Graphs(TensorRt(small, None, trt), small, tapes)
    backend.warm(at(4))
    for places in (3, 4):
        for turn in range(WARM_UPS + 2):
            batch = small.sample(at(places), seed=turn)
            slots = backend.slots(at(places))
            filled = batch if slots is None else graphs._filled(slots, batch)
            assert difference(small(*batch), backend.step(at(places), filled)) < 1e-5
    assert tapes.recorded == 2
    assert not backend.reasons()


def test_facts_hold_the_versions_and_the_profile(small: Program, trt: StandIn) -> None:
    told = TensorRt(small, None, trt)._facts(at(4))
    assert told["profile"] == [2, 4, 4]
    assert {"torch-tensorrt", "tensorrt", "torch", "layout"} <= set(told)


def test_without_the_library_it_says_what_to_install(small: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(ValueError, match=r"realtime-lcm\[tensorrt\].*or use inductor"):
        TensorRt(small)


def test_it_needs_cuda(small: Program) -> None:
    with pytest.raises(ValueError, match="needs a CUDA device"):
        make("tensorrt", small)


@pytest.mark.tensorrt
@pytest.mark.slow
@pytest.mark.timeout(900)
@torch.inference_mode()
def test_a_real_engine_gives_eager_numbers_and_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("torch_tensorrt", reason="torch-tensorrt is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    half = program(True, torch.float16, "cuda", width=64)
    store = Store(tmp_path / "builds")
    backend = make("tensorrt", half, store=store)
    backend.warm(at(4))
    assert not backend.reasons()
    batch = half.sample(at(3), seed=1)
    assert difference(half(*batch), backend.step(at(3), batch)) < 1e-2
    later = make("tensorrt", half, store=store)
    later.warm(at(4), build=False)
    assert later.stats()["loaded"] == 1
