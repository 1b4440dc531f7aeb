"""Which attention kernel, for every attention of a call: timed once on the device that runs it, then pinned.

torch chooses by rules, and on a new GPU or at an odd head size they are off by up to a third either way.
Pinning is by `TorchFunctionMode`, so it holds for one call on one thread; `torch.nn.attention.sdpa_kernel`
would set it for all threads, and a VAE has heads that no fused kernel takes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from engines.backends.program import Program, Shape, Step, difference

MARGIN = 0.95  # of the time of one before it in KERNELS: a tie is not decided by noise, start after start
CALLS, ROUNDS = 10, 5

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v: [B, heads, tokens, D]; like q
ADMITS = {
    "flash": torch.backends.cuda.can_use_flash_attention,
    "efficient": torch.backends.cuda.can_use_efficient_attention,
    "cudnn": torch.backends.cuda.can_use_cudnn_attention,
}
CUDNN_HEAD = 32  # channels of a head, at least: no model has smaller ones that its speed would matter for

# No mathematical one: its table of scores is gigabytes at 4096 tokens.
KERNELS: Mapping[str, Kernel] = {
    "flash": lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0],
    "efficient": lambda q, k, v: torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, False)[
        0
    ],
    "cudnn": lambda q, k, v: torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0],
}


class Call(NamedTuple):
    """An attention as far as a kernel's speed depends on it; sizes and strides of q, k and v."""

    sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    dtype: torch.dtype

    @staticmethod
    def of(q: Tensor, k: Tensor, v: Tensor) -> Call:
        parts = q, k, v
        return Call(tuple(tuple(t.shape) for t in parts), tuple(t.stride() for t in parts), q.dtype)


Choice = Mapping[Call, str]


def chosen(program: Program, shape: Shape, **ways: Any) -> Choice:
    """The fastest kernel of every attention in a call of this shape; ways: as `fastest`."""
    program = program.of(shape)
    with torch.inference_mode(), _Watch() as watch:
        program(*program.sample(shape))
    return {call: name for call in watch.calls if (name := fastest(call, program.device, **ways)) is not None}


def fastest(
    call: Call,
    device: torch.device,
    kernels: Mapping[str, Kernel] = KERNELS,
    seconds: Callable[[Callable[[], object]], float] | None = None,
) -> str | None:
    """The name of a kernel that takes this call and agrees with the first that does. None: none does.

    seconds: how long a call takes on the device.
    """
    seconds = seconds or _seconds
    parts = [
        # Not the device's own generator: it belongs to whatever thread is recording.
        torch.empty_strided(size, stride, dtype=call.dtype, device=device).copy_(torch.randn(size))
        for size, stride in zip(call.sizes, call.strides, strict=True)
    ]
    q, k, v = parts
    best: str | None = None
    first, least = None, 0.0
    for name, kernel in kernels.items():
        if device.type == "cuda" and not admitted(name, q, k, v):
            continue
        try:
            with torch.inference_mode():
                out = kernel(q, k, v)
                if first is None:
                    first = out
                if not difference(first.float(), out.float()) <= 2e-2:
                    continue
                took = seconds(lambda kernel=kernel: kernel(q, k, v))  # type: ignore[misc]
        except (RuntimeError, NotImplementedError):  # not of this type, head size or device
            continue
        if best is None or took < MARGIN * least:
            best, least = name, took
    return best


def admitted(name: str, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether torch itself would hand this call to that kernel.

    Called past torch's checks, cuDNN's ended the process (a segmentation fault, torch 2.11 on an H200) at the
    small heads of a test model.
    """
    if name == "cudnn" and q.shape[-1] < CUDNN_HEAD:
        return False
    admits = ADMITS.get(name)
    return admits is None or admits(torch.backends.cuda.SDPAParams(q, k, v, None, 0.0, False, False))


def pinned(step: Step, choice: Choice, kernels: Mapping[str, Kernel] = KERNELS) -> Step:
    """The same step with these kernels; attentions it does not know are torch's to choose."""

    def run(*batch: Tensor | None, **named: Tensor) -> Tensor:
        with Pin(choice, kernels):
            advanced: Tensor = step(*batch, **named)
        return advanced

    return run if choice else step


def counted(choices: Sequence[Choice]) -> dict[str, float]:
    """How many attentions are pinned to which kernel, for Pong."""
    names = [name for choice in choices for name in choice.values()]
    return {f"attention_{name}": float(names.count(name)) for name in sorted(set(names))}


def _plain(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bool:
    """Whether this is an attention without mask, dropout, causality, or a scale of its own."""
    if func is not scaled_dot_product_attention or len(args) < 3:
        return False
    further = dict(zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False)) | dict(kwargs or {})
    return not any(further.values()) if further.get("attn_mask") is None else False


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Call, None] = {}  # in their order

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _plain(func, args, kwargs):
            self.calls[Call.of(*args[:3])] = None
        return func(*args, **(kwargs or {}))


class Pin(TorchFunctionMode):
    """Around calls of one thread: attentions that `choice` knows go to its kernels."""

    def __init__(self, choice: Choice, kernels: Mapping[str, Kernel] = KERNELS) -> None:
        super().__init__()
        self._choice, self._kernels = choice, kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _plain(func, args, kwargs):
            name = self._choice.get(Call.of(*args[:3]))
            if name is not None:
                return self._kernels[name](*args[:3])
        return func(*args, **(kwargs or {}))


def _seconds(call: Callable[[], object]) -> float:
    """Of one call on the current CUDA stream, the median of rounds."""
    call()
    rounds = []
    for _ in range(ROUNDS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(CALLS):
            call()
        end.record()
        end.synchronize()
        rounds.append(begin.elapsed_time(end) / 1000 / CALLS)
    return statistics.median(rounds)
