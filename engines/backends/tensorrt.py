"""UNet and step as TensorRT engines, through torch-tensorrt's dynamo path. Not verified on hardware by us.

torch-tensorrt and the libraries of TensorRT are an extra, `pip install 'realtime-lcm[tensorrt]'`, imported
when this back end is asked for. One engine serves a profile, a range of places; engines hold the weights.
They are built by `warm` alone, so ahead by `realtime warm`: minutes each. What has no engine is eager. An
engine kept for other weights of the same layout, as another LoRA makes them, is refitted, which takes
seconds.

An engine answers only after it has given eager's numbers at the least, best and most places of its profile.
Published conversions of these UNets have come out black (NVIDIA/TensorRT#3246, pytorch/TensorRT#3255).
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engines import device as devices
from engines.backends.eager import Eager
from engines.backends.inductor import BOUNDS
from engines.backends.program import Batch, Program, Shape, Step, difference
from engines.backends.store import Facts, Store, facts, version

PACKAGES = ("torch-tensorrt", "tensorrt")

log = logging.getLogger(__name__)


class Profile(NamedTuple):
    """Places of one engine; it is tuned for `best`."""

    least: int
    best: int
    most: int


# One place alone, which is what a person at a canvas waits for, a few, and many.
PROFILES = (Profile(1, 1, 1), Profile(2, 4, 4), Profile(5, 8, 16))


def profile(shape: Shape) -> Profile:
    """A call with ControlNets has two sizes that vary, so its engine is for one pair of them."""
    if not shape.controls:
        for found in PROFILES:
            if found.least <= shape.places <= found.most:
                return found
    return Profile(shape.places, shape.places, shape.places)


def library() -> Any:
    """torch_tensorrt. Raises ValueError with what is missing and how to get it."""
    try:
        import torch_tensorrt
    except (ImportError, OSError) as error:  # OSError: TensorRT's own libraries
        missing = [name for name in PACKAGES if not version(name)]
        what = f"{' and '.join(missing)} not installed" if missing else f"{type(error).__name__}: {error}"
        how = "pip install 'realtime-lcm[tensorrt]', which gets libraries from NVIDIA's index"
        raise ValueError(f"back end tensorrt cannot be had ({what}); {how}; or use inductor") from error
    return torch_tensorrt


class TensorRt:
    name = "tensorrt"

    def __init__(self, program: Program, store: Store | None = None, trt: Any = None) -> None:
        """trt: torch_tensorrt, or what stands in for it. Raises ValueError as `library`."""
        self._trt = trt or library()
        self._program, self._store = program, store
        self._eager = Eager(program)
        self._engines: dict[Shape, Callable[..., Tensor]] = {}  # by the shape at `profile.most`
        self._steps: dict[Shape, Step] = {}
        self._reasons: dict[Shape, str] = {}
        self._short: dict[Shape, str] = {}  # there was no memory for it, this time
        self._weights = ""
        self._counts = dict.fromkeys(("built", "loaded", "refitted"), 0.0)
        self._built_s = 0.0

    def program(self, shape: Shape) -> Step:
        step = self._steps.get(shape)
        if step is None and (engine := self._engines.get(_lane(shape))) is not None:
            step = self._steps[shape] = _named(engine)
        return step or self._eager.program(shape)

    def slots(self, shape: Shape) -> Batch | None:
        return None

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        advanced: Tensor = self.program(shape)(*batch)
        return advanced

    def want(self, shape: Shape) -> None: ...

    def warm(self, shape: Shape, build: bool = True) -> None:
        lane = _lane(shape)
        self._short.pop(lane, None)
        if lane not in self._engines and lane not in self._reasons:
            reason = self._find(lane)
            if reason and build and lane not in self._short:
                reason = self._build(lane)
                if reason and lane not in self._short:
                    self._reasons[lane] = reason
                    log.warning("%s stays eager: %s", lane, reason)
        if lane not in self._engines:
            self._eager.warm(shape)

    def kept(self, buckets: Sequence[int]) -> list[Shape]:
        found = self._store.shapes(self._facts) if self._store is not None else []
        return [lane for lane in found if lane not in self._engines and _serves(lane, buckets)]

    def relieve(self) -> None: ...

    def reasons(self) -> dict[str, str]:
        return {f"up to {lane}": reason for lane, reason in (self._short | self._reasons).items()}

    def close(self) -> None: ...

    def stats(self) -> dict[str, float]:
        return {
            **self._counts,
            **self._eager.stats(),
            "compiled": float(len(self._engines)),
            "failed": float(len(self._reasons)),
            "built_s": self._built_s,
        }

    def _find(self, lane: Shape) -> str:
        """Take it from the store. Returns why not."""
        kept = self._store.get(self._facts(lane)) if self._store is not None else None
        if kept is None:
            return "nothing is kept"
        weights, _, packed = kept.partition(b"\n")
        fits = weights.decode(errors="replace") == self._digest()
        try:
            with tempfile.TemporaryDirectory(prefix="realtime-engine-") as folder:
                (Path(folder) / "engine.ep").write_bytes(packed)
                engine = self._trt.load(str(Path(folder) / "engine.ep")).module()
            if not fits:
                engine = self._trt.dynamo.refit_module_weights(engine, self._exported(lane))
            reason = self._trust(lane, engine)
        except Exception as error:  # of a library that asserts, and of its libraries
            reason = self._said(lane, error)
        if reason:
            log.warning("a kept engine of %s is of no use now: %s", lane, reason)
            return reason
        self._counts["loaded" if fits else "refitted"] += 1
        if not fits:
            self._keep(lane, engine)
        return ""

    def _build(self, lane: Shape) -> str:
        """Returns why there is none."""
        began = time.perf_counter()
        try:
            engine = self._trt.dynamo.compile(
                self._exported(lane), arg_inputs=(), kwarg_inputs=self._inputs(lane), **self._options()
            )
            reason = self._trust(lane, engine)
        except Exception as error:  # as above
            reason = self._said(lane, error)
        self._built_s += time.perf_counter() - began
        if not reason:
            self._counts["built"] += 1
            self._keep(lane, engine)
        return reason

    def _said(self, lane: Shape, error: Exception) -> str:
        reason = f"{type(error).__name__}: {error}"
        if devices.is_out_of_memory(error):
            self._short[lane] = reason
        return reason

    def _options(self) -> dict[str, Any]:
        wanted = {
            "immutable_weights": False,  # so that it can be refitted
            "use_explicit_typing": True,  # the model's own precision; what newer ones always do
            "disable_tf32": True,
            "cache_built_engines": False,  # the store does
            "reuse_cached_engines": False,
        }
        known = inspect.signature(self._trt.dynamo.compile).parameters
        return {name: value for name, value in wanted.items() if name in known}

    def _exported(self, lane: Shape) -> Any:
        ours, spread = self._program.of(lane), profile(lane)
        batch = _given(ours.sample(dataclasses.replace(lane, places=spread.best)))
        with torch.inference_mode(False), torch.no_grad():
            return torch.export.export(ours, (), batch, dynamic_shapes=_sizes(lane, batch), strict=False)

    def _inputs(self, lane: Shape) -> dict[str, Any]:
        """What torch-tensorrt is to expect of every input: least, best and most."""
        shapes = [_given(self._program.of(lane).empty(at, torch.device("meta"))) for at in _tried(lane)]
        return {
            name: self._trt.Input(
                min_shape=tuple(least.shape),
                opt_shape=tuple(shapes[1][name].shape),
                max_shape=tuple(shapes[2][name].shape),
                dtype=least.dtype,
            )
            for name, least in shapes[0].items()
        }

    @torch.inference_mode()
    def _trust(self, lane: Shape, engine: Callable[..., Tensor]) -> str:
        """Use it from the next call on. Returns why not, if it is wrong."""
        ours = self._program.of(lane)
        bound = BOUNDS[ours.dtype]
        for shape in dict.fromkeys(_tried(lane)):
            batch = ours.sample(shape)
            error = difference(ours(*batch), _named(engine)(*batch))
            if not error <= bound:
                return f"at {shape.places} places it is {error:.1e} off; the bound is {bound:.0e}"
        self._engines[lane] = engine
        return ""

    def _keep(self, lane: Shape, engine: Any) -> None:
        if self._store is None:
            return
        try:
            with (
                tempfile.TemporaryDirectory(prefix="realtime-engine-") as folder,
                torch.inference_mode(False),
                torch.no_grad(),
            ):
                path = Path(folder) / "engine.ep"
                examples = _given(self._program.of(lane).sample(_tried(lane)[1]))
                options: dict[str, Any] = {"output_format": "exported_program", "kwarg_inputs": examples}
                if "dynamic_shapes" in inspect.signature(self._trt.save).parameters:
                    # Those that know it export once more, and for the examples' sizes alone if not told.
                    options["dynamic_shapes"] = _sizes(lane, examples)
                self._trt.save(engine, str(path), arg_inputs=(), **options)
                packed = path.read_bytes()
        except Exception as error:  # as above
            log.warning("the engine of %s cannot be kept: %s", lane, error)
            return
        self._store.put(self._facts(lane), self._digest().encode() + b"\n" + packed)

    def _facts(self, lane: Shape) -> Facts:
        packages = {name: version(name) for name in PACKAGES}
        return facts(self._program, lane, backend=self.name, profile=list(profile(lane)), **packages)

    def _digest(self) -> str:
        self._weights = self._weights or self._program.weights()
        return self._weights


def _lane(shape: Shape) -> Shape:
    return dataclasses.replace(shape, places=profile(shape).most)


def _serves(lane: Shape, buckets: Sequence[int]) -> bool:
    least, _, most = profile(lane)
    return any(least <= bucket <= most for bucket in buckets)


def _tried(lane: Shape) -> list[Shape]:
    return [dataclasses.replace(lane, places=places) for places in profile(lane)]


def _sizes(lane: Shape, batch: dict[str, Tensor]) -> dict[str, Any] | None:
    """What may vary of the inputs, as torch.export takes it."""
    least, _, most = profile(lane)
    if least == most:
        return None
    places = torch.export.Dim("places", min=least, max=most)
    return {name: {0: places} for name in batch}


def _given(batch: Batch) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch._asdict().items() if tensor is not None}


def _named(engine: Callable[..., Any]) -> Step:
    def step(*batch: Tensor | None) -> Tensor:
        advanced = engine(**_given(Batch(*batch)))  # type: ignore[arg-type]
        found: Tensor = advanced[0] if isinstance(advanced, tuple | list) else advanced
        return found

    return step
