"""Landscapes: a sky, a ground, perhaps a sun or moon, perhaps a tree, a house or a boat. Batched torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from engines.embedded import sdf, weather
from engines.embedded.canvas import blend, coordinates, coverage, dots, normal, uniform, waves
from engines.embedded.scene import COLOURS, LIGHTS, PROPS, Landscape

# (top of the sky, horizon, light that falls on the ground)
SKY: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]] = {
    "day": ((0.22, 0.52, 0.93), (0.68, 0.87, 1.00), (1.00, 1.00, 1.00)),
    "night": ((0.02, 0.03, 0.12), (0.10, 0.13, 0.32), (0.40, 0.45, 0.62)),
    "sunset": ((0.42, 0.22, 0.52), (1.00, 0.58, 0.25), (0.92, 0.68, 0.60)),
    "cloudy": ((0.55, 0.59, 0.64), (0.78, 0.81, 0.84), (0.80, 0.82, 0.84)),
}
GROUND: dict[str, tuple[float, float, float]] = {
    "hills": (0.30, 0.66, 0.24),
    "mountains": (0.47, 0.48, 0.55),
    "sea": (0.10, 0.40, 0.68),
    "desert": (0.90, 0.72, 0.42),
    "snow": (0.93, 0.95, 0.99),
    "forest": (0.10, 0.38, 0.20),
    "field": (0.85, 0.74, 0.28),
    "city": (0.36, 0.38, 0.45),
}
HORIZON = {"sea": 0.58, "field": 0.62, "mountains": 0.72, "city": 0.86, "forest": 0.78}
SIDE_X = {"left": 0.22, "middle": 0.5, "right": 0.78}


def _column(values: Sequence[tuple[float, float, float]]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(-1, 3, 1, 1)


def _rows(values: Sequence[str | None], wanted: str) -> Tensor:
    return torch.tensor([i for i, value in enumerate(values) if value == wanted], dtype=torch.long)


def _peaks(count: int, size: int, peaks: int, height: float, generator: Generator) -> Tensor:
    """A jagged ridge of straight tents: heights [B, 1, size] >= 0 above the foot, in image widths."""
    x = coordinates(size)[0][:, :1]
    line = torch.zeros(count, 1, size)
    for index in range(peaks):
        at = (index + uniform((count, 1, 1), 0.2, 0.8, generator)) / peaks
        tall = height * uniform((count, 1, 1), 0.55, 1.0, generator)
        steep = uniform((count, 1, 1), 1.0, 1.5, generator)
        line = torch.maximum(line, tall - steep * (x - at).abs())
    return line


def _sky(scenes: Sequence[Landscape], size: int, generator: Generator) -> Tensor:
    count = len(scenes)
    x, y = coordinates(size)
    top = _column([SKY[s.sky][0] for s in scenes])
    low = _column([SKY[s.sky][1] for s in scenes])
    shade = normal((count, 3, 1, 1), generator) * 0.025
    fall = (y / uniform((count, 1, 1), 0.58, 0.75, generator)).clamp(0, 1).unsqueeze(1)
    picture = (
        torch.lerp(top.expand(-1, -1, size, size), low.expand(-1, -1, size, size), fall) + shade
    ).clamp(0, 1)

    night = _rows([s.sky for s in scenes], "night")
    if len(night):
        away, chance = dots(len(night), size, 7, generator)
        stars = coverage(away - 0.012, size) * (2.2 * chance - 1.2).clamp(min=0)
        picture[night] = blend(picture[night], _column([(1.0, 1.0, 0.92)]), stars)

    heavy = torch.tensor([{"cloudy": 1.0, "day": 0.45, "sunset": 0.2}.get(s.sky, 0.0) for s in scenes])
    tone = _column(
        [{"cloudy": (0.92, 0.93, 0.94), "sunset": (0.98, 0.72, 0.62)}.get(s.sky, (1, 1, 1)) for s in scenes]
    )
    for _ in range(3):
        rows = (torch.rand(count, generator=generator) < heavy).nonzero()[:, 0]
        if not len(rows):
            continue
        shape = (len(rows), 1, 1)
        u, v = x - uniform(shape, 0.08, 0.92, generator), y - uniform(shape, 0.08, 0.36, generator)
        wide = uniform(shape, 0.7, 1.2, generator)
        cloud = sdf.box(u, v - 0.035 * wide, 0.12 * wide, 0.022 * wide)
        for dx, dy, r in ((-0.07, 0.01, 0.05), (0.0, -0.02, 0.07), (0.07, 0.015, 0.045)):
            cloud = torch.minimum(cloud, torch.hypot(u - dx * wide, v - dy * wide) - r * wide)
        picture[rows] = blend(picture[rows], tone[rows], coverage(cloud, size) * 0.9)
    return picture


def _light(picture: Tensor, scenes: Sequence[Landscape], size: int, generator: Generator) -> Tensor:
    """The sun in all of the pictures, or the moon."""
    count = len(scenes)
    x, y = coordinates(size)
    side = torch.tensor([SIDE_X[s.light_side] for s in scenes]).view(-1, 1, 1)
    cx = side + uniform((count, 1, 1), -0.05, 0.05, generator)
    low = torch.tensor([0.16 if s.sky == "sunset" else 0.0 for s in scenes]).view(-1, 1, 1)
    cy = uniform((count, 1, 1), 0.15, 0.27, generator) + low
    radius = uniform((count, 1, 1), 0.075, 0.105, generator)
    away = torch.hypot(x - cx, y - cy)
    if scenes[0].light == "sun":
        glow, disc, tone = 0.55, away - radius, (1.0, 0.86, 0.22)
    else:
        bite = torch.hypot(x - cx - 0.55 * radius, y - cy + 0.25 * radius) - 0.85 * radius
        crescent = uniform((count, 1, 1), 0, 1, generator) < 0.5
        disc = torch.where(crescent, torch.maximum(away - radius, -bite), away - radius * 0.9)
        glow, tone = 0.19, (0.96, 0.95, 0.84)
    halo = torch.exp(-((away / (radius * 1.8)) ** 2)) * glow
    picture = blend(picture, _column([(1.0, 0.95, 0.65)]), halo)
    return blend(picture, _column([tone]), coverage(disc, size))


def _layer(picture: Tensor, colour: Tensor, top: Tensor, size: int) -> Tensor:
    """Fill everything below the line `top` ([B, 1, size], y in image widths) with a falling shade."""
    y = coordinates(size)[1]
    depth = (y - top).clamp(0, 0.5).unsqueeze(1)
    return blend(picture, colour * (1 - 0.45 * depth), coverage(top - y, size))


def _hills(picture: Tensor, colour: Tensor, size: int, generator: Generator, base: float = 0.60) -> Tensor:
    count = len(picture)
    for index, (drop, amplitude, shade) in enumerate(
        ((0.0, 0.05, 0.80), (0.13, 0.045, 0.92), (0.26, 0.035, 1.05))
    ):
        top = (
            base
            + drop
            + uniform((count, 1, 1), -0.03, 0.03, generator)
            + waves(count, size, amplitude, generator)
        )
        haze = colour * shade + (0.06 if index == 0 else 0.0)
        picture = _layer(picture, haze.clamp(0, 1), top, size)
    return picture


def _dunes(picture: Tensor, colour: Tensor, size: int, generator: Generator) -> Tensor:
    count = len(picture)
    for drop, shade in ((0.0, 0.88), (0.17, 1.02)):
        top = 0.64 + drop + waves(count, size, 0.035, generator)
        picture = _layer(picture, (colour * shade).clamp(0, 1), top, size)
    return picture


def _mountains(picture: Tensor, colour: Tensor, size: int, generator: Generator) -> Tensor:
    count = len(picture)
    y = coordinates(size)[1]
    foot = HORIZON["mountains"] + uniform((count, 1, 1), -0.02, 0.04, generator)
    for peaks, height, shade in ((3, 0.46, 1.15), (4, 0.30, 0.85)):
        top = foot - _peaks(count, size, peaks, height, generator)
        picture = _layer(picture, (colour * shade).clamp(0, 1), top, size)
        if peaks == 3:
            ragged = 0.42 + waves(count, size, 0.012, generator) + 0.012 * torch.sin(y * 0 + top * 160)
            snow = coverage(torch.maximum(top - y, y - ragged), size)
            picture = blend(
                picture, (colour * 0.4 + 0.6 * colour.amax(1, keepdim=True) * 1.9).clamp(0, 1), snow
            )
    meadow = colour * torch.tensor([0.62, 1.05, 0.50]).view(1, 3, 1, 1)
    return _layer(picture, meadow.clamp(0, 1), foot + waves(count, size, 0.012, generator), size)


def _sea(picture: Tensor, colour: Tensor, size: int, generator: Generator) -> Tensor:
    count = len(picture)
    x, y = coordinates(size)
    horizon = HORIZON["sea"] + uniform((count, 1, 1), -0.04, 0.04, generator)
    depth = ((y - horizon) / 0.42).clamp(0, 1)
    water = colour * (1.18 - 0.45 * depth.unsqueeze(1))
    phase = uniform((count, 1, 1), 0, 6.2832, generator)
    crest = torch.sin(34 * depth.sqrt() + 1.6 * torch.sin(12 * x / (0.4 + depth) + phase) + phase)
    water = water * (1 + 0.22 * ((crest - 0.72).clamp(min=0) * 3.5).clamp(max=1).unsqueeze(1))
    return blend(picture, water.clamp(0, 1), coverage(horizon - y, size))


def _field(picture: Tensor, colour: Tensor, size: int, generator: Generator) -> Tensor:
    count = len(picture)
    x, y = coordinates(size)
    horizon = HORIZON["field"] + uniform((count, 1, 1), -0.04, 0.04, generator)
    vanish = uniform((count, 1, 1), 0.3, 0.7, generator)
    depth = (y - horizon).clamp(min=1e-3)
    furrow = torch.sin(9.0 * (x - vanish) / (depth + 0.10))
    crop = colour * (1 + (0.20 * furrow * (depth / 0.12).clamp(max=1)).unsqueeze(1))
    return blend(picture, crop.clamp(0, 1), coverage(horizon - y, size))


def _forest(picture: Tensor, colour: Tensor, size: int, generator: Generator) -> Tensor:
    count = len(picture)
    x, y = coordinates(size)
    for base, height, wide, shade in ((0.66, 0.26, 0.10, 0.75), (0.80, 0.34, 0.15, 1.1)):
        start = uniform((count, 1, 1), 0, 1, generator)
        cell = torch.floor(x / wide + start)
        local = x / wide + start - cell - 0.5
        tall = height * (0.8 + 0.2 * torch.sin(cell * 12.9898 + start * 78.233))
        fir = y - (base - tall + tall * local.abs() * 2.0)
        layers = 0.25 * torch.remainder((y - base) / 0.085, 1.0) * local.abs()
        picture = blend(picture, (colour * shade).clamp(0, 1), coverage(-(fir + layers * 0.15), size))
        picture = _layer(picture, (colour * shade).clamp(0, 1), torch.full((count, 1, 1), base), size)
    return _layer(picture, (colour * 1.5).clamp(0, 1), 0.84 + waves(count, size, 0.012, generator), size)


def _city(picture: Tensor, colour: Tensor, size: int, generator: Generator) -> Tensor:
    count = len(picture)
    x, y = coordinates(size)
    lit = (colour.mean((1, 2, 3)) < 0.24).float().view(-1, 1, 1, 1)
    for wide, low, spread, shade in ((0.14, 0.40, 0.26, 1.25), (0.19, 0.56, 0.24, 0.80)):
        start = uniform((count, 1, 1), 0, 1, generator)
        cell = torch.floor(x / wide + start)
        local = x / wide + start - cell
        roof = low + spread * (0.5 + 0.5 * torch.sin(cell * 2.4 + start * 91.7))
        wall = coverage(roof - y, size)
        picture = blend(picture, (colour * shade).clamp(0, 1), wall)
        column, row = torch.remainder(local * 3, 1.0), torch.remainder((y - roof) / 0.085, 1.0)
        pane = ((column - 0.5).abs() < 0.26) & ((row - 0.5).abs() < 0.28) & (y > roof + 0.02)
        glass = lit * torch.tensor([1.0, 0.86, 0.45]).view(1, 3, 1, 1) + (1 - lit) * (
            colour * shade * 0.55 + 0.2
        )
        picture = blend(picture, glass, pane.float() * wall * 0.9)
    return _layer(picture, (colour * 0.55).clamp(0, 1), torch.full((count, 1, 1), 0.93), size)


_DRAW: dict[str, Callable[[Tensor, Tensor, int, Generator], Tensor]] = {
    "hills": _hills,
    "mountains": _mountains,
    "sea": _sea,
    "desert": _dunes,
    "snow": _hills,
    "forest": _forest,
    "field": _field,
    "city": _city,
}


def _prop(
    picture: Tensor, prop: str, scenes: Sequence[Landscape], ambient: Tensor, size: int, generator: Generator
) -> Tensor:
    """The same tree, house or boat in all of the pictures, each on its side."""
    count = len(scenes)
    x, y = coordinates(size)
    side = torch.tensor([SIDE_X[s.prop_side] for s in scenes]).view(-1, 1, 1)
    cx = side + uniform((count, 1, 1), -0.04, 0.04, generator)
    foot = uniform((count, 1, 1), 0.80, 0.86, generator)
    scale = uniform((count, 1, 1), 0.9, 1.15, generator)
    u, v = (x - cx) / scale, (y - foot) / scale

    def paint(colour: tuple[float, float, float], distance: Tensor) -> None:
        nonlocal picture
        picture = blend(picture, (_column([colour]) * ambient).clamp(0, 1), coverage(distance, size))

    if prop == "tree":
        paint((0.42, 0.26, 0.14), sdf.box(u, v + 0.09, 0.02, 0.10))
        crown = torch.hypot(u, v + 0.27) - 0.095
        for dx, dy in ((-0.065, -0.20), (0.065, -0.20)):
            crown = torch.minimum(crown, torch.hypot(u - dx, v - dy) - 0.075)
        paint((0.13, 0.48, 0.18), crown)
    elif prop == "house":
        paint((0.95, 0.90, 0.80), sdf.box(u, v + 0.075, 0.10, 0.075))
        paint((0.80, 0.22, 0.16), torch.maximum(v + 0.15, 0.78 * (u.abs() - 0.13) - 0.62 * (v + 0.15)))
        paint((0.40, 0.24, 0.14), sdf.box(u + 0.035, v + 0.042, 0.022, 0.042))
        paint((0.45, 0.72, 0.95), sdf.box(u - 0.05, v + 0.085, 0.024, 0.024))
    else:
        v = v + 0.06
        hull = torch.maximum(sdf.box(u, v + 0.02, 0.2, 0.025), u.abs() + 0.9 * v - 0.115)
        paint((0.62, 0.20, 0.14), hull)
        sail = torch.maximum(u.abs() - 0.45 * v - 0.145, v + 0.06).maximum(-u - 0.01)
        paint((0.97, 0.96, 0.92), sail)
        paint((0.30, 0.20, 0.12), sdf.box(u + 0.012, v + 0.17, 0.006, 0.14))
    return picture


def draw(scenes: Sequence[Landscape], size: int, generator: Generator, jitter: float = 1.0) -> Tensor:
    """[B, 3, size, size] float32 in 0..1. `jitter` scales the shade of the ground only; places vary."""
    picture = _sky(scenes, size, generator)
    for light in LIGHTS:
        rows = _rows([s.light for s in scenes], light)
        if len(rows):
            picture[rows] = _light(picture[rows], [scenes[i] for i in rows], size, generator)
    ambient = _column([SKY[s.sky][2] for s in scenes])
    base = []
    for s in scenes:
        tint = s.ground == "hills" and s.hill_colour != "green"
        base.append(COLOURS[s.hill_colour] if tint else GROUND[s.ground])
    colour = _column(base) * (1 + normal((len(scenes), 3, 1, 1), generator) * 0.05 * jitter) * ambient
    for kind, function in _DRAW.items():
        rows = _rows([s.ground for s in scenes], kind)
        if len(rows):
            picture[rows] = function(picture[rows], colour[rows].clamp(0, 1), size, generator)
    for prop in PROPS:
        rows = _rows([s.prop for s in scenes], prop)
        if len(rows):
            chosen = [scenes[i] for i in rows]
            picture[rows] = _prop(picture[rows], prop, chosen, ambient[rows], size, generator)
    picture = picture.clamp(0, 1)
    for kind, fall in weather.DRAW.items():
        rows = _rows([s.weather for s in scenes], kind)
        if len(rows):
            picture[rows] = fall(picture[rows], ambient[rows], size, generator)
    return picture.clamp(0, 1)
