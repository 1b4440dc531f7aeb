"""Kernels by measurement, with kernels and times that are made up."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engines.backends import attention
from engines.backends.attention import KERNELS, Call, Pin, admitted, chosen, fastest, pinned
from tests.engines.backends.small import SHAPE, program

CPU = torch.device("cpu")
CALL = Call(((2, 2, 64, 8),) * 3, ((1024, 512, 8, 1),) * 3, torch.float32)


def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v


def two(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return one(q, k, v)


def wrong(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return one(q, k, v) * 1.1


def broken(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return one(q, k, v) * torch.nan


def choosy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise RuntimeError("No available kernel")


def clock(*seconds: float) -> Callable[[Callable[[], object]], float]:
    left = list(seconds)

    def took(call: Callable[[], object]) -> float:
        call()
        return left.pop(0)

    return took


@pytest.mark.parametrize(
    ("kernels", "seconds", "expected"),
    [
        ({"one": one, "two": two}, (2.0, 1.0), "two"),
        ({"one": one, "two": two}, (1.0, 2.0), "one"),
        ({"one": one, "two": two}, (1.0, 0.97), "one"),  # a tie
        ({"choosy": choosy, "one": one}, (1.0,), "one"),
        ({"one": one, "wrong": wrong}, (1.0, 0.1), "one"),
        ({"one": one, "broken": broken}, (1.0, 0.1), "one"),
        ({"choosy": choosy}, (), None),
    ],
    ids=["second", "first", "tie", "refuses", "wrong", "NaN", "none"],
)
def test_the_fastest_kernel_that_is_right(
    kernels: dict[str, attention.Kernel], seconds: tuple[float, ...], expected: str | None
) -> None:
    assert fastest(CALL, CPU, kernels, clock(*seconds)) == expected


def test_every_attention_of_a_program_gets_a_kernel_and_goes_through_it() -> None:
    small, used = program(), []
    made = chosen(small, SHAPE, kernels={"one": one}, seconds=lambda call: 1.0)
    assert {call.sizes[1][2] for call in made} == {64, 77}  # self-attention of 8x8, and text

    def counting(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        used.append(Call.of(q, k, v))
        return one(q, k, v)

    step, batch = pinned(small, made, {"one": counting}), small.sample(SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(step(*batch), small(*batch), rtol=1e-4, atol=1e-5)
    assert set(used) == set(made)
    assert attention.counted([made]) == {"attention_one": float(len(made))}


def test_other_attentions_and_other_threads_are_left_alone() -> None:
    q = torch.randn(2, 2, 64, 8)
    mask = torch.ones(64, 64, dtype=torch.bool)
    pin = Pin({Call.of(q, q, q): "no"}, {"no": choosy})
    found: list[Tensor] = []
    with pin:
        with pytest.raises(RuntimeError, match="No available"):
            scaled_dot_product_attention(q, q, q)
        scaled_dot_product_attention(q, q, q, is_causal=True)
        scaled_dot_product_attention(q, q, q, attn_mask=mask)
        scaled_dot_product_attention(q, q, q, scale=1.0)
        scaled_dot_product_attention(q[:1], q[:1], q[:1])
        thread = threading.Thread(target=lambda: found.append(scaled_dot_product_attention(q, q, q)))
        thread.start()
        thread.join()
    assert len(found) == 1


def test_a_pin_is_part_of_what_is_exported() -> None:
    small = program()

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
        return out

    made = chosen(small, SHAPE, kernels={"cpu": kernel}, seconds=lambda call: 1.0)
    batch = {name: tensor for name, tensor in small.sample(SHAPE)._asdict().items() if tensor is not None}
    with torch.no_grad(), Pin(made, {"cpu": kernel}):
        exported = torch.export.export(small, (), batch, strict=False)
    targets = [str(node.target) for node in exported.graph.nodes]
    assert any("flash_attention_for_cpu" in target for target in targets)
    assert not any("aten.scaled_dot_product_attention" in target for target in targets)


def test_a_kernel_that_torch_would_not_choose_is_not_called_past_its_checks() -> None:
    q = torch.randn(1, 2, 16, 64)  # on a CPU no CUDA kernel is admitted, whatever its name
    assert not any(admitted(name, q, q, q) for name in KERNELS)
    small = torch.randn(1, 2, 16, 8)
    assert not admitted("cudnn", small, small, small)
    assert admitted("of ours", q, q, q)  # not one of torch's: its own checks hold
