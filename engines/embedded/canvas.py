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


def dots(count: int, size: int, cells: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """One point in each of `cells` x `cells` squares: how far each pixel is from its square's point, in image
    widths, and that point's own number in 0..1 (to give it a size, or to leave it out); both [B, S, S].
    """
    x, y = coordinates(size)
    cell_x, cell_y = ((c[0] * cells).long().clamp(max=cells - 1) for c in (x, y))
    flat = cell_y * cells + cell_x
    at_x, at_y = (uniform((count, cells * cells), 0.25, 0.75, generator)[:, flat] for _ in range(2))
    chance = uniform((count, cells * cells), 0, 1, generator)[:, flat]
    return torch.hypot(x * cells - cell_x - at_x, y * cells - cell_y - at_y) / cells, chance


def waves(count: int, size: int, amplitude: float, generator: Generator) -> Tensor:
    """A smooth ridge line: [B, 1, size], around zero, in image widths."""
    x = coordinates(size)[0][:, :1]
    line = torch.zeros(count, 1, size)
    for frequency, weight in ((1.1, 1.0), (2.3, 0.5), (4.1, 0.16)):
        phase = uniform((count, 1, 1), 0, 6.2832, generator)
        pace = frequency * uniform((count, 1, 1), 0.8, 1.2, generator)
        line = line + weight * torch.sin(6.2832 * pace * x + phase)
    return line * amplitude
