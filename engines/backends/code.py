"""A program of one shape, compiled ahead by Inductor into a file: no tracing and no guards where it runs.

The weights are inputs of the code and not part of it, so one file serves every model of the same layout.
`torch.export` reads the program, `torch._inductor.standalone_compile` (torch 2.8) makes the file. Loading
one takes seconds of a thread, making one minutes of a process.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.backends import attention, joined, norms
from engines.backends.program import Program, Shape

# Not `reduce-overhead`, whose own CUDA graphs hand out memory that the next call overwrites: graphs.py.
MODES = ("default", "max-autotune-no-cudagraphs")
MOST_CONSTANTS = 2**20  # bytes of tensors that the program makes itself, which become part of the code

log = logging.getLogger(__name__)


class Code:
    """A `Step`. Bound to a program's weights, which may change in place but not move."""

    def __init__(
        self,
        compiled: Callable[..., Any],
        inputs: Sequence[tuple[str, str]],
        constants: dict[str, Tensor],
        program: Program,
    ) -> None:
        """compiled: takes all inputs in order, returns one tensor in a list. inputs: (kind, name) of each;
        kind is "weight", a name of the program's state, "joined", such names with spaces between, "constant",
        or "input", a field of Batch."""
        self._compiled, self._inputs, self._constants = compiled, list(inputs), constants
        state = _state(program, constants)
        # A tensor that stays, or None for the next of the batch.
        self._fixed = [None if kind == "input" else _bound(kind, name, state) for kind, name in inputs]

    def __call__(self, *batch: Tensor | None) -> Tensor:
        given = iter([tensor for tensor in batch if tensor is not None])
        advanced = self._compiled(*[next(given) if fixed is None else fixed for fixed in self._fixed])
        result: Tensor = advanced[0]
        return result


def compiled(program: Program, shape: Shape, mode: str = "default") -> tuple[Code, bytes]:
    """The code, and what `loaded` makes it of again elsewhere; empty if this torch cannot write it down.

    Seconds to minutes. Raises what Inductor raises, a RuntimeError mostly.
    """
    program = program.of(shape)
    choice = attention.chosen(program, shape) if program.device.type == "cuda" else {}
    try:
        return _compiled(program, shape, mode, choice)
    except Exception as error:  # of a compiler: of every kind
        if not choice:
            raise
        log.warning("%s does not compile with its attention kernels chosen here: %s", shape, error)
        return _compiled(program, shape, mode, {})


def _compiled(program: Program, shape: Shape, mode: str, choice: attention.Choice) -> tuple[Code, bytes]:
    from torch._inductor import standalone_compile

    kind = program.device.type
    pieces = kind == "cuda" and program.dtype.itemsize == 2
    with torch.inference_mode(False), torch.no_grad():
        batch = {name: t for name, t in program.sample(shape)._asdict().items() if t is not None}
        with attention.Pin(choice), norms.Grouped() if pieces else contextlib.nullcontext():
            exported = torch.export.export(program, (), batch, strict=False)
        inputs, constants = _inputs(exported)
        state = _state(program, constants)
        if sum(tensor.nbytes for tensor in constants.values()) > MOST_CONSTANTS:
            raise RuntimeError("weights of the program are no parameters of a module")
        graph, inputs = joined.join(exported.graph_module, inputs, state)
        examples = [batch[name] if made == "input" else _bound(made, name, state) for made, name in inputs]
        artefact = standalone_compile(
            graph,
            examples,
            dynamic_shapes="from_example_inputs",  # all of them static: layouts are optimised only then
            options={"config_patches": patches(mode, kind) | (norms.PATCHES if pieces else {})},
        )
    code = Code(artefact, inputs, constants, program)
    file = io.BytesIO()
    try:
        with _folder() as folder:
            artefact.save(path=str(folder / "code"), format="binary")
            with zipfile.ZipFile(file, "w") as packed:
                packed.writestr("inputs.json", json.dumps(inputs))
                packed.writestr("constants.pt", _bytes(constants))
                packed.write(folder / "code", "code")
    except (RuntimeError, AssertionError, OSError) as error:
        log.warning("the code compiled for %s cannot be kept: %s", shape, error)
        return code, b""
    return code, file.getvalue()


def loaded(packed: bytes, program: Program, shape: Shape) -> Code:
    """What `compiled` packed, for these weights. Raises RuntimeError if it is not of this torch or broken.

    It holds code that will run: give it nothing but what this machine's user has written.
    """
    from torch._inductor import CompiledArtifact

    program = program.of(shape)
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as file, _folder() as folder:
            inputs = [(str(kind), str(name)) for kind, name in json.loads(file.read("inputs.json"))]
            constants = torch.load(
                io.BytesIO(file.read("constants.pt")), map_location=program.device, weights_only=True
            )
            file.extract("code", folder)
            artefact = CompiledArtifact.load(path=str(folder / "code"), format="binary")
        return Code(artefact, inputs, constants, program)
    except Exception as error:  # Inductor asserts, unpickles and looks up
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def patches(mode: str, kind: str) -> dict[str, Any]:
    """Inductor's options for a kind of device. Raises ValueError for a mode that is none of MODES."""
    if mode not in MODES:
        raise ValueError(f"the mode of the compiler is {mode}; {', '.join(MODES)} can be chosen")
    from torch import _inductor

    chosen: dict[str, Any] = dict(_inductor.list_mode_options(mode))
    if hasattr(_inductor.config, "loop_reindexing_after_fusion"):
        # torch 2.13 is six times slower with it on upsampling, convolution and GroupNorm: pytorch#189488.
        chosen["loop_reindexing_after_fusion"] = False
    if kind == "cuda":
        # A matrix product takes its bias along, and what comes after knows how its rows lie. On a CPU
        # oneDNN's convolutions are the faster ones.
        chosen["conv_1x1_as_mm"] = True
    return chosen


def recipe() -> str:
    """Digest of what is done to a program before Inductor has it."""
    told = hashlib.blake2b(digest_size=16)
    for source in (attention, joined, norms):
        told.update(inspect.getsource(source).encode())
    return told.hexdigest()


def _state(program: Program, constants: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(program.named_parameters()) | dict(program.named_buffers()) | constants


def _bound(kind: str, name: str, state: Mapping[str, Tensor]) -> Tensor:
    if kind == "joined":
        return joined.whole([state[part] for part in name.split()])
    return state[name]


def _inputs(exported: Any) -> tuple[list[tuple[str, str]], dict[str, Tensor]]:
    """As `Code` wants them."""
    kinds = {"PARAMETER": "weight", "BUFFER": "weight", "CONSTANT_TENSOR": "constant", "USER_INPUT": "input"}
    inputs = [
        (kinds[spec.kind.name], spec.arg.name if spec.kind.name == "USER_INPUT" else spec.target)
        for spec in exported.graph_signature.input_specs
    ]
    return inputs, {name: exported.constants[name] for kind, name in inputs if kind == "constant"}


def _bytes(tensors: dict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in tensors.items()}, file)
    return file.getvalue()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="realtime-code-") as name:
        yield Path(name)
