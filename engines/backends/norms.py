"""GroupNorm in half precision as compilers do it well: two sums a group, in few pieces, and one pass after.

Of a UNet's latents in channels_last, Inductor makes four kernels of a GroupNorm on a GPU: Welford's mean and
variance over 128 values, over 64 of those, over 5 of those, and the values scaled. It sees a reduction to 32
numbers and wants a device full of work. Here the pieces are said, and none is split further. In float32 sums
of squares do not lose what half precision has; float32 itself keeps Welford's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import group_norm
from torch.overrides import TorchFunctionMode

PIECE = 8192  # values that one block of threads adds up
MOST = 4  # pieces of a group: so many sums are added up where they are read, eight would take a kernel
# Else Inductor splits these sums again: a third more reductions in a call of SD1.5 than with Welford's.
PATCHES = {"split_reductions": False}


def grouped(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """torch.nn.functional.group_norm of x [B, C, H, W], like x; computed in float32."""
    batch, channels, height, width = x.shape
    values = channels // groups * height * width
    parts = pieces(values, height)
    wide = x.float().reshape(batch, groups, channels // groups, parts, height // parts, width)
    total, squares = wide.sum((2, 4, 5)).sum(-1), (wide * wide).sum((2, 4, 5)).sum(-1)
    mean = total / values
    rate = torch.rsqrt((squares / values - mean * mean).clamp_min(0.0) + eps)
    scaled = (wide - mean.view(batch, groups, 1, 1, 1, 1)) * rate.view(batch, groups, 1, 1, 1, 1)
    found = scaled.reshape(x.shape)
    if weight is not None:
        found = found * weight.view(1, -1, 1, 1)
    if bias is not None:
        found = found + bias.view(1, -1, 1, 1)
    return found.to(x.dtype)


def pieces(values: int, height: int) -> int:
    """Of a group of so many values and rows of pixels: a power of two, each piece of whole rows."""
    wanted = 1 << max(0, math.ceil(math.log2(values / PIECE)))
    return math.gcd(height, min(MOST, wanted))


class Grouped(TorchFunctionMode):
    """Around an export: GroupNorms of half precision become `grouped`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is group_norm and args[0].ndim == 4 and args[0].dtype.itemsize == 2:
            return grouped(*_given(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _given(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, int, Tensor | None, Tensor | None, float]:
    return input, num_groups, weight, bias, eps
