"""Scenes to pictures: a batched signed-distance renderer for still lifes of flat shapes.

Everything a caption cannot name (exact place, shade, tilt, outline, shadow, gradient) is drawn from the
generator, so that a seed means something. `jitter=0` gives the ideal picture that the pixel tests use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from engines.embedded import landscape, portrait, sdf, style
from engines.embedded.canvas import blend, coordinates, coverage, normal, uniform
from engines.embedded.person import Portrait
from engines.embedded.scene import COLOURS, COUNTS, PLACES, SHAPES, Group, Landscape, Scene, Still, Thing

RADIUS = {"small": 0.13, "medium": 0.20, "big": 0.30}
PAIR_OFFSET = {"left of": (-0.24, 0.0), "right of": (0.24, 0.0), "above": (0.0, -0.24), "below": (0.0, 0.24)}
GAP = 0.06
"""Two things are at least this far from each other, in image widths: one can count them."""
LAYOUTS: dict[int, tuple[tuple[float, float], ...]] = {
    2: ((-0.24, 0.0), (0.24, 0.0)),
    3: ((0.0, -0.22), (-0.25, 0.21), (0.25, 0.21)),
    4: ((-0.23, -0.23), (0.23, -0.23), (-0.23, 0.23), (0.23, 0.23)),
    5: ((-0.28, -0.28), (0.28, -0.28), (0.0, 0.0), (-0.28, 0.28), (0.28, 0.28)),
}
"""One figure for each number, from the centre in image widths. With several, a model of one step draws their
mean, in which nothing can be counted."""


def place_of(scene: Still, index: int) -> tuple[float, float, float]:
    """(x, y, radius) of one thing, in image widths, before jitter."""
    if scene.relation is not None:
        dx, dy = PAIR_OFFSET[scene.relation]
        sign = 1 if index == 0 else -1
        return 0.5 + sign * dx, 0.5 + sign * dy, 0.15
    thing = scene.things[index]
    x, y = PLACES[thing.place]
    radius = RADIUS[thing.size]
    if thing.size == "big" and thing.place != "center":
        radius = 0.25
    return x, y, radius


def _arranged(groups: Sequence[Group], generator: Generator, jitter: float) -> tuple[Tensor, Tensor]:
    """Centres [B, 5, 2] (unused rows far outside) and radii [B] that keep the things of a group apart:
    the figure stretched and moved a little, and each thing in it."""
    offsets = torch.full((len(groups), COUNTS[-1], 2), torch.nan)
    for row, group in enumerate(groups):
        at = torch.tensor(LAYOUTS[group.count]) * (1 + uniform((2,), -0.1, 0.1, generator) * jitter)
        at = at + uniform((2,), -0.03, 0.03, generator) * jitter
        at = at + uniform((group.count, 2), -0.012, 0.012, generator) * jitter
        offsets[row, : group.count] = at
    apart = (offsets.unsqueeze(1) - offsets.unsqueeze(2)).abs().nan_to_num(9.0)
    apart = apart + 9 * torch.eye(COUNTS[-1]).unsqueeze(-1)
    boxes, discs = (d.flatten(1).amin(1) - GAP for d in (apart.amax(-1), apart.square().sum(-1).sqrt()))
    radius = torch.maximum(boxes / (2 * sdf.EXTENT), discs / (2 * sdf.REACH))
    rim = (0.48 - offsets.nan_to_num(0.0).abs().flatten(1).amax(1)) / sdf.EXTENT
    radius = torch.minimum(radius, rim).clamp(max=0.16)
    return offsets.nan_to_num(9.0) + 0.5, radius * (1 - uniform((len(groups),), 0, 0.06, generator) * jitter)


def _placed(
    scenes: Sequence[Still | Group], generator: Generator, jitter: float
) -> tuple[list[list[Thing]], Tensor, Tensor]:
    """The things of each scene, their centres [B, 5, 2] and radii [B, 5], in image widths."""
    count = len(scenes)
    things = [
        [Thing(s.shape, s.colour)] * s.count if isinstance(s, Group) else list(s.things) for s in scenes
    ]
    ideal = torch.full((count, COUNTS[-1], 3), 9.0)
    for row, scene in enumerate(scenes):
        if isinstance(scene, Still):
            for index in range(len(scene.things)):
                ideal[row, index] = torch.tensor(place_of(scene, index))
    centre = ideal[..., :2] + uniform((count, COUNTS[-1], 2), -0.035, 0.035, generator) * jitter
    radius = ideal[..., 2] * (1 + uniform((count, COUNTS[-1]), -0.08, 0.08, generator) * jitter)
    rows = [i for i, s in enumerate(scenes) if isinstance(s, Group)]
    if rows:
        groups = [s for s in scenes if isinstance(s, Group)]
        centre[rows], equal = _arranged(groups, generator, jitter)
        radius[rows] = equal.unsqueeze(1).expand(-1, COUNTS[-1])
    return things, centre, radius


def _distance(
    shapes: Sequence[str], centre: Tensor, radius: Tensor, size: int, generator: Generator, jitter: float
) -> Tensor:
    """Distances [B, size, size] in image widths from one thing per picture; centre: [B, 2], radius: [B]."""
    tilt = uniform((len(shapes), 1, 1), -0.12, 0.12, generator) * jitter
    x, y = coordinates(size)
    x = (x - centre[:, 0].view(-1, 1, 1)) / radius.view(-1, 1, 1)
    y = (y - centre[:, 1].view(-1, 1, 1)) / radius.view(-1, 1, 1)
    x, y = x * tilt.cos() + y * tilt.sin(), y * tilt.cos() - x * tilt.sin()
    distance = torch.empty_like(x)
    for shape in SHAPES:
        rows = torch.tensor([i for i, kind in enumerate(shapes) if kind == shape], dtype=torch.long)
        if len(rows):
            distance[rows] = sdf.SHAPE_DISTANCE[shape](x[rows], y[rows])
    return distance * radius.view(-1, 1, 1)


def thing_mask(scene: Still, index: int, size: int) -> Tensor:
    """Where the index-th thing ideally is: [size, size] bool."""
    x, y, radius = place_of(scene, index)
    centre, shape, still = torch.tensor([[x, y]]), scene.things[index].shape, Generator()
    return _distance([shape], centre, torch.tensor([radius]), size, still, jitter=0.0)[0] < 0


def _shade(names: Sequence[str], generator: Generator, jitter: float) -> Tensor:
    colour = torch.tensor([COLOURS[n] for n in names])
    colour = colour * (1 + normal((len(names), 1), generator) * 0.04 * jitter)
    return (colour + normal((len(names), 3), generator) * 0.025 * jitter).clamp(0, 1).view(-1, 3, 1, 1)


def _stills(scenes: Sequence[Still | Group], size: int, generator: Generator, jitter: float) -> Tensor:
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
    things, centre, radius = _placed(scenes, generator, jitter)
    shades = [_shade([t[min(i, len(t) - 1)].colour for t in things], generator, jitter) for i in (0, 1)]
    equal = torch.tensor([isinstance(s, Group) for s in scenes]).view(-1, 1, 1)
    shades[1] = torch.where(equal.unsqueeze(1), shades[0], shades[1])
    outlined = outlined * ~equal  # an outline would be most of so small a thing
    for index in range(max(map(len, things))):
        rows = [i for i, t in enumerate(things) if len(t) > index]
        at = torch.tensor(rows)
        shapes = [things[i][index].shape for i in rows]
        distance = _distance(shapes, centre[at, index], radius[at, index], size, generator, jitter)
        layer = picture[at]
        shadow = torch.roll(distance, (size // 32, size // 32), (1, 2))
        dark = torch.sigmoid(-shadow / 0.012) * shadowed[at] * 0.35
        layer = layer * (1 - dark).unsqueeze(1)
        sheen = uniform((len(rows), 1, 1), 0, 0.3, generator) * jitter
        middle_y, scale = (v.view(-1, 1, 1) for v in (centre[at, index, 1], radius[at, index]))
        light = (1 - sheen * (y - middle_y) / scale * 0.5).unsqueeze(1)
        colour = shades[min(index, 1)][at]
        layer = blend(layer, (colour * light).clamp(0, 1), coverage(distance, size))
        rim = coverage(distance.abs() - 0.011, size) * outlined[at]
        picture[at] = blend(layer, colour * 0.35, rim)
    return picture


def render(scenes: Sequence[Scene], size: int, generator: Generator, jitter: float = 1.0) -> Tensor:
    """Draw the scenes: [B, 3, size, size] float32 in 0..1, sRGB. Reproducible for a generator state."""
    picture = torch.empty(len(scenes), 3, size, size)
    stills = [i for i, s in enumerate(scenes) if isinstance(s, Still | Group)]
    if stills:
        picture[torch.tensor(stills)] = _stills([scenes[i] for i in stills], size, generator, jitter)  # type: ignore[misc]
    lands = [i for i, s in enumerate(scenes) if isinstance(s, Landscape)]
    if lands:
        picture[torch.tensor(lands)] = landscape.draw([scenes[i] for i in lands], size, generator, jitter)  # type: ignore[misc]
    faces = [i for i, s in enumerate(scenes) if isinstance(s, Portrait)]
    if faces:
        picture[torch.tensor(faces)] = portrait.draw([scenes[i] for i in faces], size, generator, jitter)  # type: ignore[misc]
    return style.apply(picture, [s.style for s in scenes], generator)


def example(shape: str, colour: str, background: str) -> Still:
    """The simplest scene: one medium thing in the centre."""
    return Still((Thing(shape, colour),), background)
