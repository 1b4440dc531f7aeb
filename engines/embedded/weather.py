"""Rain, snowfall and fog over a landscape. Batched torch.

Each takes the picture [B, 3, S, S] and the light that falls on the ground [B, 3, 1, 1], which is what drops,
flakes and fog are seen by. They are as coarse as an eightfold codec needs them to be.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from engines.embedded.canvas import blend, coordinates, coverage, dots, uniform, waves


def rain(picture: Tensor, light: Tensor, size: int, generator: Generator) -> Tensor:
    """Long slanted streaks over a picture that has lost some of its light."""
    count, columns, rows = len(picture), 24, 6
    x, y = coordinates(size)
    slant = uniform((count, 1, 1), 0.15, 0.35, generator)
    across = (x + slant * y) * 15
    column = across.long().clamp(max=columns - 1)
    start = uniform((count, columns), 0, 1, generator).gather(1, column.flatten(1)).view(column.shape)
    down = y * 4 + start
    cell = column * rows + down.long().clamp(max=rows - 1)
    falls = (
        uniform((count, columns * rows), 0, 1, generator).gather(1, cell.flatten(1)).view(cell.shape) < 0.5
    )
    middle = (0.18 - (across - column - 0.5).abs()) / 15 * size
    end = (0.38 - (down - down.floor() - 0.5).abs()) / 4 * size
    streak = torch.minimum(middle, end).add(0.5).clamp(0, 1) * falls
    grey = picture.mean(1, keepdim=True)
    return blend(torch.lerp(picture, grey, 0.2) * 0.76, 0.15 + 0.8 * light, streak * 0.75)


def snowfall(picture: Tensor, light: Tensor, size: int, generator: Generator) -> Tensor:
    """Flakes everywhere, some nearer than others."""
    picture = picture * 0.84
    for cells, radius in ((9, 0.013), (6, 0.020)):
        away, chance = dots(len(picture), size, cells, generator)
        flakes = coverage(away - radius - 0.005 * chance, size) * (chance < 0.7)
        picture = blend(picture, 0.3 + 0.7 * light, flakes)
    return picture


def fog(picture: Tensor, light: Tensor, size: int, generator: Generator) -> Tensor:
    """A veil, thickest at the horizon, in drifting bands."""
    count = len(picture)
    y = coordinates(size)[1]
    height = uniform((count, 1, 1), 0.52, 0.64, generator) + waves(count, size, 0.03, generator)
    veil = 0.32 + 0.44 * torch.exp(-(((y - height) / 0.26) ** 2))
    veil = veil + 0.03 * torch.sin(y * 26 + 60 * waves(count, size, 0.03, generator))
    return blend(picture, light * 0.84 + 0.02, veil.clamp(0, 0.85))


DRAW: dict[str, Callable[[Tensor, Tensor, int, Generator], Tensor]] = {
    "rain": rain,
    "snowfall": snowfall,
    "fog": fog,
}
