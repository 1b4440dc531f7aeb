"""Landscapes: a sky, a ground, perhaps a sun or moon, perhaps a tree, a house or a boat. Batched torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from engines.embedded import sdf
from engines.embedded.canvas import blend, coordinates, coverage, dots, normal, uniform
from engines.embedded.scene import COLOURS, Landscape

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


def _waves(count: int, size: int, amplitude: float, generator: Generator) -> Tensor:
    """A smooth ridge line: [B, 1, size], around zero, in image widths."""
    x = coordinates(size)[0][:, :1]
    line = torch.zeros(count, 1, size)
    for frequency, weight in ((1.1, 1.0), (2.3, 0.5), (4.1, 0.16)):
        phase = uniform((count, 1, 1), 0, 6.2832, generator)
        pace = frequency * uniform((count, 1, 1), 0.8, 1.2, generator)
        line = line + weight * torch.sin(6.2832 * pace * x + phase)
    return line * amplitude


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

    night = torch.tensor([s.sky == "night" for s in scenes]).view(-1, 1, 1).float()
    away, chance = dots(count, size, 7, generator)
    stars = coverage(away - 0.012, size) * (2.2 * chance - 1.2).clamp(min=0) * night
    picture = blend(picture, torch.tensor([1.0, 1.0, 0.92]).view(1, 3, 1, 1), stars)

    heavy = torch.tensor([{"cloudy": 1.0, "day": 0.45, "sunset": 0.2}.get(s.sky, 0.0) for s in scenes])
    tone = _column(
        [{"cloudy": (0.92, 0.93, 0.94), "sunset": (0.98, 0.72, 0.62)}.get(s.sky, (1, 1, 1)) for s in scenes]
    )
    for _ in range(3):
        present = (torch.rand(count, generator=generator) < heavy).float().view(-1, 1, 1)
        cx, cy = uniform((count, 1, 1), 0.08, 0.92, generator), uniform((count, 1, 1), 0.08, 0.36, generator)
        wide = uniform((count, 1, 1), 0.7, 1.2, generator)
        cloud = sdf.box(x - cx, y - cy - 0.035 * wide, 0.12 * wide, 0.022 * wide)
        for dx, dy, r in ((-0.07, 0.01, 0.05), (0.0, -0.02, 0.07), (0.07, 0.015, 0.045)):
            cloud = torch.minimum(cloud, torch.hypot(x - cx - dx * wide, y - cy - dy * wide) - r * wide)
        picture = blend(picture, tone, coverage(cloud, size) * 0.9 * present)
    return picture


def _light(picture: Tensor, scenes: Sequence[Landscape], size: int, generator: Generator) -> Tensor:
    count = len(scenes)
    x, y = coordinates(size)
    side = torch.tensor([SIDE_X[s.light_side] for s in scenes]).view(-1, 1, 1)
    cx = side + uniform((count, 1, 1), -0.05, 0.05, generator)
    low = torch.tensor([0.16 if s.sky == "sunset" else 0.0 for s in scenes]).view(-1, 1, 1)
    cy = uniform((count, 1, 1), 0.15, 0.27, generator) + low
    radius = uniform((count, 1, 1), 0.075, 0.105, generator)
    away = torch.hypot(x - cx, y - cy)
    sun = torch.tensor([s.light == "sun" for s in scenes]).view(-1, 1, 1).float()
    moon = torch.tensor([s.light == "moon" for s in scenes]).view(-1, 1, 1).float()
    glow = torch.exp(-((away / (radius * 1.8)) ** 2)) * 0.55 * (sun + 0.35 * moon)
    picture = blend(picture, torch.tensor([1.0, 0.95, 0.65]).view(1, 3, 1, 1), glow)
    picture = blend(
        picture, torch.tensor([1.0, 0.86, 0.22]).view(1, 3, 1, 1), coverage(away - radius, size) * sun
    )
    bite = torch.hypot(x - cx - 0.55 * radius, y - cy + 0.25 * radius) - 0.85 * radius
    crescent = (uniform((count, 1, 1), 0, 1, generator) < 0.5).float()
    disc = torch.where(crescent > 0, torch.maximum(away - radius, -bite), away - radius * 0.9)
    return blend(picture, torch.tensor([0.96, 0.95, 0.84]).view(1, 3, 1, 1), coverage(disc, size) * moon)


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
            + _waves(count, size, amplitude, generator)
        )
        haze = colour * shade + (0.06 if index == 0 else 0.0)
        picture = _layer(picture, haze.clamp(0, 1), top, size)
    return picture


def _dunes(picture: Tensor, colour: Tensor, size: int, generator: Generator) -> Tensor:
    count = len(picture)
    for drop, shade in ((0.0, 0.88), (0.17, 1.02)):
        top = 0.64 + drop + _waves(count, size, 0.035, generator)
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
            ragged = 0.42 + _waves(count, size, 0.012, generator) + 0.012 * torch.sin(y * 0 + top * 160)
            snow = coverage(torch.maximum(top - y, y - ragged), size)
            picture = blend(
                picture, (colour * 0.4 + 0.6 * colour.amax(1, keepdim=True) * 1.9).clamp(0, 1), snow
            )
    meadow = colour * torch.tensor([0.62, 1.05, 0.50]).view(1, 3, 1, 1)
    return _layer(picture, meadow.clamp(0, 1), foot + _waves(count, size, 0.012, generator), size)


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
    return _layer(picture, (colour * 1.5).clamp(0, 1), 0.84 + _waves(count, size, 0.012, generator), size)


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


def _props(
    picture: Tensor, scenes: Sequence[Landscape], ambient: Tensor, size: int, generator: Generator
) -> Tensor:
    count = len(scenes)
    x, y = coordinates(size)
    side = torch.tensor([SIDE_X[s.prop_side] for s in scenes]).view(-1, 1, 1)
    cx = side + uniform((count, 1, 1), -0.04, 0.04, generator)
    foot = uniform((count, 1, 1), 0.80, 0.86, generator)
    scale = uniform((count, 1, 1), 0.9, 1.15, generator)
    u, v = (x - cx) / scale, (y - foot) / scale

    def paint(kind: str, colour: tuple[float, float, float], distance: Tensor) -> None:
        nonlocal picture
        wanted = torch.tensor([s.prop == kind for s in scenes]).view(-1, 1, 1).float()
        tone = (_column([colour]) * ambient).clamp(0, 1)
        picture = blend(picture, tone, coverage(distance, size) * wanted)

    paint("tree", (0.42, 0.26, 0.14), sdf.box(u, v + 0.09, 0.02, 0.10))
    crown = torch.hypot(u, v + 0.27) - 0.095
    for dx, dy in ((-0.065, -0.20), (0.065, -0.20)):
        crown = torch.minimum(crown, torch.hypot(u - dx, v - dy) - 0.075)
    paint("tree", (0.13, 0.48, 0.18), crown)
    paint("house", (0.95, 0.90, 0.80), sdf.box(u, v + 0.075, 0.10, 0.075))
    roof = torch.maximum(v + 0.15, 0.78 * (u.abs() - 0.13) - 0.62 * (v + 0.15))
    paint("house", (0.80, 0.22, 0.16), roof)
    paint("house", (0.40, 0.24, 0.14), sdf.box(u + 0.035, v + 0.042, 0.022, 0.042))
    paint("house", (0.45, 0.72, 0.95), sdf.box(u - 0.05, v + 0.085, 0.024, 0.024))
    v = v + 0.06
    paint(
        "boat", (0.62, 0.20, 0.14), torch.maximum(sdf.box(u, v + 0.02, 0.2, 0.025), u.abs() + 0.9 * v - 0.115)
    )
    paint(
        "boat",
        (0.97, 0.96, 0.92),
        torch.maximum(u.abs() * 1.0 + 0.45 * (-v) - 0.145, v + 0.06).maximum(-u - 0.01),
    )
    paint("boat", (0.30, 0.20, 0.12), sdf.box(u + 0.012, v + 0.17, 0.006, 0.14))
    return picture


def _rain(picture: Tensor, light: Tensor, size: int, generator: Generator) -> Tensor:
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


def _snowfall(picture: Tensor, light: Tensor, size: int, generator: Generator) -> Tensor:
    """Flakes everywhere, some nearer than others."""
    picture = picture * 0.84
    for cells, radius in ((9, 0.013), (6, 0.020)):
        away, chance = dots(len(picture), size, cells, generator)
        flakes = coverage(away - radius - 0.005 * chance, size) * (chance < 0.7)
        picture = blend(picture, 0.3 + 0.7 * light, flakes)
    return picture


def _fog(picture: Tensor, light: Tensor, size: int, generator: Generator) -> Tensor:
    """A veil, thickest at the horizon, in drifting bands."""
    count = len(picture)
    y = coordinates(size)[1]
    height = uniform((count, 1, 1), 0.52, 0.64, generator) + _waves(count, size, 0.03, generator)
    veil = 0.32 + 0.44 * torch.exp(-(((y - height) / 0.26) ** 2))
    veil = veil + 0.05 * torch.sin(y * 26 + 60 * _waves(count, size, 0.03, generator))
    return blend(picture, light * 0.84 + 0.02, veil.clamp(0, 0.85))


_WEATHER: dict[str, Callable[[Tensor, Tensor, int, Generator], Tensor]] = {
    "rain": _rain,
    "snowfall": _snowfall,
    "fog": _fog,
}


def _rows(values: Sequence[str | None], wanted: str) -> Tensor:
    return torch.tensor([i for i, value in enumerate(values) if value == wanted], dtype=torch.long)


def draw(scenes: Sequence[Landscape], size: int, generator: Generator, jitter: float = 1.0) -> Tensor:
    """[B, 3, size, size] float32 in 0..1. `jitter` scales the shade of the ground only; places vary."""
    picture = _light(_sky(scenes, size, generator), scenes, size, generator)
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
    picture = _props(picture, scenes, ambient, size, generator).clamp(0, 1)
    for weather, function in _WEATHER.items():
        rows = _rows([s.weather for s in scenes], weather)
        if len(rows):
            picture[rows] = function(picture[rows], ambient[rows], size, generator)
    return picture.clamp(0, 1)
