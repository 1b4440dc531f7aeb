"""Signed distances of the flat shapes, batched. Negative inside; unit: the shape's radius.

x grows to the right, y downwards. Every function takes x, y: [B, H, W] float32 and returns [B, H, W].
The distances are exact near the outline, which is all that antialiasing needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.92


def box(x: Tensor, y: Tensor, half_x: float | Tensor, half_y: float | Tensor) -> Tensor:
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def square(x: Tensor, y: Tensor) -> Tensor:
    return box(x, y, 0.82, 0.82)


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Isosceles, the tip up at y = -0.95, the base at y = 0.75."""
    slope = 1.7 / 0.98
    side = (slope * x.abs() - (y + 0.95)) / math.hypot(slope, 1.0)
    return torch.maximum(side, y - 0.75)


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points, one up. Folds the plane into one tenth and measures the edge from tip to notch."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    angle = (torch.remainder(angle + sector / 2, sector) - sector / 2).abs()
    radius = torch.hypot(x, y)
    u, v = radius * angle.cos(), radius * angle.sin()
    notch = 0.46
    dx, dy = notch * math.cos(sector / 2) - 1.05, notch * math.sin(sector / 2)
    length = math.hypot(dx, dy)
    return ((u - 1.05) * dy - v * dx) / length


def heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner with a half disc on each of its two upper sides."""
    side = 0.62
    y = y - 0.05
    tilted_x, tilted_y = (x + y) / math.sqrt(2), (y - x) / math.sqrt(2)
    body = box(tilted_x, tilted_y, side, side)
    shift = side / math.sqrt(2)
    lobe = torch.hypot(x.abs() - shift, y + shift) - side
    return torch.minimum(body, lobe)


def diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() / 0.72 + y.abs() - 1.0) * (0.72 / math.hypot(0.72, 1.0))


SHAPE_DISTANCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "diamond": diamond,
}


def segment(x: Tensor, y: Tensor, ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
    """Distance to the straight segment a-b (a stroke's spine; subtract half the width)."""
    px, py, dx, dy = x - ax, y - ay, bx - ax, by - ay
    along = ((px * dx + py * dy) / (dx * dx + dy * dy + 1e-6)).clamp(0, 1)
    return torch.hypot(px - along * dx, py - along * dy)
