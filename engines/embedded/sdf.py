"""Signed distances of the flat shapes, batched. Negative inside; unit: the shape's radius.

x grows to the right, y downwards. Every function takes x, y: [B, H, W] float32 and returns [B, H, W].
The distances are exact near the outline, which is all that antialiasing needs. Every shape stays within
EXTENT of the centre along each axis, tilted by up to 0.12 too, and within REACH in any direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

EXTENT, REACH = 1.09, 1.25


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
    notch = 0.42
    dx, dy = notch * math.cos(sector / 2) - 1.08, notch * math.sin(sector / 2)
    length = math.hypot(dx, dy)
    return ((u - 1.08) * dy - v * dx) / length


def heart(x: Tensor, y: Tensor) -> Tensor:
    """Two discs at (-0.5, -0.42) and (0.5, -0.42), and the tip at y = 0.98 that their tangents meet in."""
    x = x.abs() - 0.5
    lobe = torch.hypot(x, y + 0.42) - 0.52
    # (0.7645, 0.6446): the outward normal of the right tangent from the tip.
    tangent = 0.7645 * (x + 0.5) + 0.6446 * (y - 0.98)
    beyond = 0.6446 * x - 0.7645 * (y + 0.42)  # the disc's side of where the tangent touches it
    body = torch.maximum(torch.maximum(tangent, beyond), -0.42 - y)
    return torch.minimum(lobe, body)


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
