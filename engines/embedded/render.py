"""Scenes to pictures: a batched signed-distance renderer for still lifes of flat shapes.

Everything a caption cannot name (exact place, shade, tilt, outline, shadow, gradient) is drawn from the
generator, so that a seed means something. `jitter=0` gives the ideal picture that the pixel tests use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from engines.embedded import landscape, sdf
from engines.embedded.canvas import blend, coordinates, coverage, normal, uniform
from engines.embedded.scene import COLOURS, PLACES, SHAPES, Landscape, Scene, Still, Thing

RADIUS = {"small": 0.12, "medium": 0.19, "big": 0.30}
PAIR_OFFSET = {"left of": (-0.22, 0.0), "right of": (0.22, 0.0), "above": (0.0, -0.22), "below": (0.0, 0.22)}


def place_of(scene: Still, index: int) -> tuple[float, float, float]:
    """(x, y, radius) of one thing, in image widths, before jitter."""
    if scene.relation is not None:
        dx, dy = PAIR_OFFSET[scene.relation]
        sign = 1 if index == 0 else -1
        return 0.5 + sign * dx, 0.5 + sign * dy, 0.18
    thing = scene.things[index]
    x, y = PLACES[thing.place]
    radius = RADIUS[thing.size]
    if thing.size == "big" and thing.place != "center":
        radius = 0.25
    return x, y, radius


def _thing_distance(
    scenes: Sequence[Still], index: int, size: int, generator: Generator, jitter: float
) -> tuple[Tensor, Tensor]:
    """Distances [B, size, size] in image widths and radii [B, 1, 1] of the index-th thing of each scene."""
    placed = torch.tensor([place_of(s, index) for s in scenes])
    count = len(scenes)
    centre = placed[:, :2] + uniform((count, 2), -0.035, 0.035, generator) * jitter
    radius = placed[:, 2] * (1 + uniform((count,), -0.12, 0.12, generator) * jitter)
    tilt = uniform((count, 1, 1), -0.16, 0.16, generator) * jitter
    x, y = coordinates(size)
    x = (x - centre[:, 0].view(-1, 1, 1)) / radius.view(-1, 1, 1)
    y = (y - centre[:, 1].view(-1, 1, 1)) / radius.view(-1, 1, 1)
    x, y = x * tilt.cos() + y * tilt.sin(), y * tilt.cos() - x * tilt.sin()
    distance = torch.empty_like(x)
    kinds = [s.things[index].shape for s in scenes]
    for shape in SHAPES:
        rows = torch.tensor([i for i, kind in enumerate(kinds) if kind == shape], dtype=torch.long)
        if len(rows):
            distance[rows] = sdf.SHAPE_DISTANCE[shape](x[rows], y[rows])
    radius = radius.view(-1, 1, 1)
    return distance * radius, radius


def thing_mask(scene: Still, index: int, size: int) -> Tensor:
    """Where the index-th thing ideally is: [size, size] bool."""
    distance, _ = _thing_distance([scene], index, size, Generator().manual_seed(0), jitter=0.0)
    return distance[0] < 0


def _shade(names: Sequence[str], generator: Generator, jitter: float) -> Tensor:
    colour = torch.tensor([COLOURS[n] for n in names])
    colour = colour * (1 + normal((len(names), 1), generator) * 0.04 * jitter)
    return (colour + normal((len(names), 3), generator) * 0.025 * jitter).clamp(0, 1).view(-1, 3, 1, 1)


def _stills(scenes: Sequence[Still], size: int, generator: Generator, jitter: float) -> Tensor:
    count = len(scenes)
    x, y = coordinates(size)
    angle = uniform((count, 1, 1), 0, 6.2832, generator)
    slope = (
        uniform((count, 1, 1), 0, 0.45, generator) * (uniform((count, 1, 1), 0, 1, generator) < 0.5) * jitter
    )
    ramp = 1 + slope * ((x - 0.5) * angle.cos() + (y - 0.5) * angle.sin())
    picture = (_shade([s.background for s in scenes], generator, jitter) * ramp.unsqueeze(1)).clamp(0, 1)
    shadowed = (uniform((count, 1, 1), 0, 1, generator) < 0.25 * jitter).float()
    outlined = (uniform((count, 1, 1), 0, 1, generator) < 0.2 * jitter).float()
    for index in range(max(len(s.things) for s in scenes)):
        rows = [i for i, s in enumerate(scenes) if len(s.things) > index]
        chosen = [scenes[i] for i in rows]
        at = torch.tensor(rows)
        distance, radius = _thing_distance(chosen, index, size, generator, jitter)
        layer = picture[at]
        shadow = torch.roll(distance, (size // 32, size // 32), (1, 2))
        dark = torch.sigmoid(-shadow / 0.012) * shadowed[at] * 0.35
        layer = layer * (1 - dark).unsqueeze(1)
        sheen = uniform((len(rows), 1, 1), 0, 0.3, generator) * jitter
        centre_y = torch.tensor([place_of(s, index)[1] for s in chosen]).view(-1, 1, 1)
        light = (1 - sheen * (y - centre_y) / radius * 0.5).unsqueeze(1)
        colour = _shade([s.things[index].colour for s in chosen], generator, jitter)
        layer = blend(layer, (colour * light).clamp(0, 1), coverage(distance, size))
        rim = coverage(distance.abs() - 0.011, size) * outlined[at]
        picture[at] = blend(layer, colour * 0.35, rim)
    return picture


def render(scenes: Sequence[Scene], size: int, generator: Generator, jitter: float = 1.0) -> Tensor:
    """Draw the scenes: [B, 3, size, size] float32 in 0..1, sRGB. Reproducible for a generator state."""
    picture = torch.empty(len(scenes), 3, size, size)
    stills = [i for i, s in enumerate(scenes) if isinstance(s, Still)]
    if stills:
        picture[torch.tensor(stills)] = _stills([scenes[i] for i in stills], size, generator, jitter)  # type: ignore[misc]
    lands = [i for i, s in enumerate(scenes) if isinstance(s, Landscape)]
    if lands:
        picture[torch.tensor(lands)] = landscape.draw([scenes[i] for i in lands], size, generator, jitter)  # type: ignore[misc]
    return picture


def example(shape: str, colour: str, background: str) -> Still:
    """The simplest scene: one medium thing in the centre."""
    return Still((Thing(shape, colour),), background)
