"""Random strokes and blobs: what a hand draws on a canvas. Trains the autoencoder for image to image."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from engines.embedded import sdf
from engines.embedded.canvas import blend, coordinates, coverage, uniform


def _wander(count: int, points: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A walk of `points` points: x, y [B, points], in image widths."""
    angle = uniform((count, 1), 0, 6.2832, generator) + uniform((count, points), -0.9, 0.9, generator).cumsum(
        1
    )
    pace = uniform((count, 1), 0.03, 0.16, generator)
    x = uniform((count, 1), 0.05, 0.95, generator) + (angle.cos() * pace).cumsum(1)
    y = uniform((count, 1), 0.05, 0.95, generator) + (angle.sin() * pace).cumsum(1)
    return x, y


def scribble_over(picture: Tensor, generator: Generator, strokes: int = 3, points: int = 7) -> Tensor:
    """Draw polylines with round ends over `picture` [B, 3, S, S] in 0..1, widths 1 to 12 % of the image."""
    count, _, size, _ = picture.shape
    x, y = coordinates(size)
    for _ in range(strokes):
        px, py = _wander(count, points, generator)
        distance = torch.full((count, size, size), 9.0)
        for i in range(points - 1):
            ends = (v[:, j].view(-1, 1, 1) for v, j in ((px, i), (py, i), (px, i + 1), (py, i + 1)))
            distance = torch.minimum(distance, sdf.segment(x, y, *ends))
        width = uniform((count, 1, 1), 0.1, 0.35, generator) ** 2
        picture = blend(
            picture, uniform((count, 3, 1, 1), 0, 1, generator), coverage(distance - width / 2, size)
        )
    return picture


def blobs(count: int, size: int, generator: Generator, layers: int = 5) -> Tensor:
    """Flat ellipses and boxes of any colour over a flat or graded ground: [count, 3, size, size] in 0..1."""
    x, y = coordinates(size)
    ground = uniform((count, 3, 1, 1), 0, 1, generator)
    other = (ground + uniform((count, 3, 1, 1), -0.35, 0.35, generator)).clamp(0, 1)
    picture = torch.lerp(ground.expand(-1, -1, size, size), other.expand(-1, -1, size, size), y.unsqueeze(1))
    for _ in range(layers):
        cx, cy = uniform((count, 1, 1), 0, 1, generator), uniform((count, 1, 1), 0, 1, generator)
        rx, ry = uniform((count, 1, 1), 0.02, 0.35, generator), uniform((count, 1, 1), 0.02, 0.35, generator)
        turn = uniform((count, 1, 1), 0, 3.1416, generator)
        u = (x - cx) * turn.cos() + (y - cy) * turn.sin()
        v = (y - cy) * turn.cos() - (x - cx) * turn.sin()
        ellipse = (torch.hypot(u / rx, v / ry) - 1) * torch.minimum(rx, ry)
        square = sdf.box(u, v, rx, ry)
        distance = torch.where(uniform((count, 1, 1), 0, 1, generator) < 0.6, ellipse, square)
        picture = blend(picture, uniform((count, 3, 1, 1), 0, 1, generator), coverage(distance, size))
    return picture
