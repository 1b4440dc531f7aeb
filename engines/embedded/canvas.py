"""The few operations every picture is made of: coordinates, coverage, blending, seeded draws."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def coordinates(size: int) -> tuple[Tensor, Tensor]:
    """Pixel centres x, y: [1, size, size] float32 in 0..1, y downwards."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x.unsqueeze(0), y.unsqueeze(0)


def coverage(distance: Tensor, size: int) -> Tensor:
    """Share of each pixel inside a shape: distance [B, H, W] in image widths, antialiased over one pixel."""
    return (0.5 - distance * size).clamp(0, 1)


def blend(below: Tensor, above: Tensor, alpha: Tensor) -> Tensor:
    """`above` over `below`, both [B, 3, H, W] (or broadcastable); alpha: [B, H, W] in 0..1."""
    return torch.lerp(below, above.expand_as(below), alpha.unsqueeze(1))


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator)
