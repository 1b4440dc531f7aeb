"""GroupNorm as compiled code of half precision has it, beside torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from engines.backends import norms
from engines.backends.program import difference


def latents(*size: int, dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(1)) + mean
    return drawn.to(dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("channels", "height", "width"),
    [(32, 8, 8), (64, 64, 64), (96, 64, 48), (64, 40, 24), (64, 33, 65), (320, 128, 128), (64, 1, 1)],
)
def test_it_is_as_near_the_truth_as_torchs_whatever_the_size(channels: int, height: int, width: int):
    x = latents(2, channels, height, width, mean=3.0)
    weight, bias = latents(2, channels, 1, 1).flatten(1)
    truth = group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5)
    found, theirs = norms.grouped(x, 32, weight, bias, 1e-5), group_norm(x, 32, weight, bias, 1e-5)
    assert found.shape == x.shape
    assert difference(truth, found.double()) <= 2 * difference(truth, theirs.double()) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype):
    x = latents(2, 64, 64, 64, dtype=dtype, mean=30.0)  # squares of 900 times 8,192: float16 ends at 65,504
    truth = group_norm(x.float(), 32)
    found = norms.grouped(x, 32, None, None, 1e-5)
    assert found.dtype == dtype
    assert difference(truth, found.float()) < (2e-3 if dtype == torch.float16 else 1e-2)


def test_a_group_of_one_value_over_and_over_is_finite():
    found = norms.grouped(torch.full((1, 32, 16, 16), 100.0, dtype=torch.float16), 32, None, None, 1e-5)
    assert found.isfinite().all()
    assert found.abs().max() < 0.1


def test_only_what_is_half_and_a_picture_is_done_so(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[int, ...]] = []
    real = norms.grouped
    monkeypatch.setattr(norms, "grouped", lambda x, *rest: asked.append(tuple(x.shape)) or real(x, *rest))
    half, whole = nn.GroupNorm(4, 8).half(), nn.GroupNorm(4, 8)
    with norms.Grouped():
        half(latents(1, 8, 4, 4, dtype=torch.float16))
        whole(latents(1, 8, 4, 4))
        half(torch.randn(1, 8, 16).half())
        torch.nn.functional.group_norm(latents(1, 8, 2, 2).half(), num_groups=2)
    assert asked == [(1, 8, 4, 4), (1, 8, 2, 2)]


@pytest.mark.parametrize(
    ("values", "height", "pieces"),
    [
        (2560, 8, 1),
        (8192, 64, 1),
        (10240, 16, 2),
        (20480, 32, 4),
        (40960, 64, 4),
        (122880, 64, 4),
        (40960, 33, 1),
    ],
)
def test_its_pieces_are_few_and_of_whole_rows(values: int, height: int, pieces: int):
    assert norms.pieces(values, height) == pieces
