"""Looks: what watercolor, neon, film noir and the other style words do to any picture. Batched torch.

Each keeps the content in its place, and all but film noir and line art keep its colours nameable. Each leaves
a mark that a pixel test finds on any picture: a margin of paper, a dark ground, a bank of snow, leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from engines.embedded.canvas import blend, coordinates, coverage, dots, normal, uniform
from engines.embedded.scene import STYLES

RAINBOW = (
    (1.0, 0.1, 0.1),
    (1.0, 0.6, 0.0),
    (1.0, 1.0, 0.1),
    (0.1, 0.9, 0.2),
    (0.1, 0.6, 1.0),
    (0.7, 0.1, 1.0),
)


def _colour(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1)


def _grey(picture: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, [B, 1, S, S]."""
    return (picture * _colour(0.299, 0.587, 0.114)).sum(1, keepdim=True)


def _blur(picture: Tensor, width: int) -> Tensor:
    """The mean over `width` (odd) pixels each way, twice: nearly a Gaussian."""
    half = width // 2
    for kernel, pad in (((1, width), (0, half)), ((width, 1), (half, 0))) * 2:
        picture = functional.avg_pool2d(picture, kernel, 1, pad, count_include_pad=False)
    return picture


def _swell(picture: Tensor) -> Tensor:
    """The maximum over 3 x 3 pixels; ten times as fast on a CPU as max_pool2d."""
    wide = functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    rows = torch.maximum(torch.maximum(wide[:, :, :-2], wide[:, :, 1:-1]), wide[:, :, 2:])
    return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def _edges(picture: Tensor, reach: float) -> Tensor:
    """How much the colour changes within `reach` image widths: [B, 1, S, S] (morphological gradient)."""
    high, low = picture, -picture
    for _ in range(max(1, round(reach * picture.shape[-1]))):
        high, low = _swell(high), _swell(low)
    return (high + low).amax(1, keepdim=True)


def _clouds(count: int, cells: int, size: int, generator: Generator) -> Tensor:
    """Smooth noise of about unit scale that changes `cells` times over the picture: [B, 1, S, S]."""
    coarse = normal((count, 1, cells, cells), generator)
    return functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)


def _odd(share: float, size: int) -> int:
    """The odd number of pixels next to a share of the picture's width, at least 3."""
    return max(3, int(share * size) // 2 * 2 + 1)


def _inset(size: int) -> Tensor:
    """Distance to the nearest border, in image widths: [1, size, size]."""
    x, y = coordinates(size)
    return torch.minimum(torch.minimum(x, 1 - x), torch.minimum(y, 1 - y))


def _bank(count: int, size: int, height: float, generator: Generator) -> Tensor:
    """Signed distance to a rolling bank along the bottom: [B, S, S], negative inside."""
    x, y = coordinates(size)
    phase, pace = uniform((count, 1, 1), 0, 6.2832, generator), uniform((count, 1, 1), 5, 9, generator)
    top = 1 - height + 0.018 * torch.sin(pace * x + phase) + uniform((count, 1, 1), -0.015, 0.015, generator)
    return top - y


def watercolor(picture: Tensor, generator: Generator) -> Tensor:
    """Bleeding edges, uneven pigment, paper grain, and a ragged margin of bare paper."""
    count, _, size, _ = picture.shape
    x, y = coordinates(size)
    drift = torch.cat([_clouds(count, 14, size, generator) for _ in range(2)], 1).permute(0, 2, 3, 1) * 0.012
    grid = torch.stack([x, y], -1) * 2 - 1 + drift
    wet = functional.grid_sample(picture, grid, padding_mode="border", align_corners=False)
    wet = wet * (1 - 0.12 * _edges(wet, 0.008)) * (1 + 0.06 * _clouds(count, 6, size, generator))
    wet = torch.lerp(wet, torch.ones(()), 0.16 + 0.03 * _clouds(count, 48, size, generator))
    paper = _colour(0.98, 0.97, 0.94)
    ragged = 0.035 + 0.012 * _clouds(count, 20, size, generator)[:, 0] - _inset(size)
    return blend(wet, paper, (0.5 + ragged * size / 3).clamp(0, 1))


def neon(picture: Tensor, generator: Generator) -> Tensor:
    """A dark room in which the outlines glow in the colours of what they part."""
    size = picture.shape[-1]
    power = uniform((len(picture), 1, 1, 1), 3.0, 4.5, generator)
    line = ((_edges(picture, 0.016) - 0.10) * power).clamp(0, 1)
    high, low = picture.amax(1, keepdim=True), picture.amin(1, keepdim=True)
    pure = (picture - 0.75 * low) / (high - 0.75 * low + 0.12)
    lit = line * pure
    glow = _blur(lit, _odd(0.06, size)) * 0.8
    return picture * 0.07 + pure * high * 0.17 + 0.9 * lit + glow


def snow(picture: Tensor, generator: Generator) -> Tensor:
    """Cold light, a bank of snow along the bottom, and flakes."""
    count, _, size, _ = picture.shape
    cold = torch.lerp(picture, _grey(picture) * _colour(0.85, 0.95, 1.1) + 0.08, 0.25) * 0.95
    bank = _bank(count, size, 0.13, generator)
    white = blend(cold, _colour(0.93, 0.96, 1.0), coverage(bank, size))
    away, chance = dots(count, size, 7, generator)
    flakes = coverage(away - 0.012 - 0.02 * chance, size) * (chance < 0.55)
    return blend(white, _colour(1.0, 1.0, 1.0), flakes)


def film_noir(picture: Tensor, generator: Generator) -> Tensor:
    """Black and white, contrast pulled up, edges in rim light, a dark vignette and grain."""
    count, _, size, _ = picture.shape
    grey = _grey(picture)
    middle, spread = grey.mean((2, 3), keepdim=True), grey.std((2, 3), keepdim=True)
    hard = 0.40 + (grey - middle) * (0.28 / (spread + 0.06)).clamp(min=1.0)
    hard = torch.sigmoid((hard - 0.45) * 8) + 0.5 * _edges(_blur(picture, _odd(0.02, size)), 0.008)
    x, y = coordinates(size)
    away = torch.hypot(x - 0.5, y - 0.5).unsqueeze(1)
    dark = 1 - (away / uniform((count, 1, 1, 1), 0.72, 0.82, generator)).clamp(max=1) ** 3
    return (hard * dark + 0.025 * _clouds(count, size // 2, size, generator)).expand(-1, 3, -1, -1)


def line_art(picture: Tensor, generator: Generator) -> Tensor:
    """Black lines on white where the colours change."""
    firm = uniform((len(picture), 1, 1, 1), 5.0, 8.0, generator)
    soft = _blur(picture, _odd(0.02, picture.shape[-1]))
    line = ((_edges(soft, 0.008) - 0.08) * firm).clamp(0, 1)
    return (0.985 - 0.96 * line).expand(-1, 3, -1, -1)


def jungle(picture: Tensor, generator: Generator) -> Tensor:
    """Green light, and big leaves that reach in from the border."""
    count, _, size, _ = picture.shape
    x, y = coordinates(size)
    picture = torch.lerp(picture, picture * _colour(0.62, 0.95, 0.55) + _colour(0.0, 0.05, 0.0), 0.5)
    leaves = 16
    cover, shade = torch.zeros(count, size, size), torch.zeros(count, size, size)
    for index in range(leaves):
        along = (index + uniform((count, 1, 1), 0.1, 0.9, generator)) / leaves * 4
        side, at = along.floor(), along - along.floor()
        root_x = torch.where(side == 0, at, torch.where(side == 1, 1.0, torch.where(side == 2, 1 - at, 0.0)))
        root_y = torch.where(side == 0, 0.0, torch.where(side == 1, at, torch.where(side == 2, 1.0, 1 - at)))
        turn = (side + 1) * 1.5708 + uniform((count, 1, 1), -0.9, 0.9, generator)
        length, wide = (
            uniform((count, 1, 1), 0.21, 0.29, generator),
            uniform((count, 1, 1), 0.05, 0.075, generator),
        )
        u = (x - root_x) * turn.cos() + (y - root_y) * turn.sin() + 0.05
        v = ((y - root_y) * turn.cos() - (x - root_x) * turn.sin()).abs()
        share = (u / length).clamp(0, 1)
        leaf = torch.maximum(v - wide * 4 * share * (1 - share), torch.maximum(-u, u - length))
        tone = uniform((count, 1, 1), 0.6, 1.4, generator) * (1 + 0.7 * coverage(v - 0.006, size))
        leaf = coverage(leaf, size)
        shade, cover = torch.lerp(shade, tone, leaf), torch.maximum(cover, leaf)
    return blend(picture, _colour(0.10, 0.40, 0.12) * shade.unsqueeze(1), cover)


def mars(picture: Tensor, generator: Generator) -> Tensor:
    """A rusty cast, dust in the air, and red dunes with stones along the bottom."""
    count, _, size, _ = picture.shape
    y = coordinates(size)[1]
    rust = _grey(picture) * _colour(1.25, 0.62, 0.36) + _colour(0.12, 0.03, 0.0)
    picture = torch.lerp(picture, rust, 0.25)
    bank = _bank(count, size, 0.13, generator)
    dust = torch.exp(-bank.clamp(min=0) / 0.10) * 0.45
    picture = blend(picture, _colour(0.86, 0.48, 0.28), dust)
    red = _colour(0.70, 0.28, 0.13) * (1 - 0.5 * (y - 0.87).clamp(min=0) / 0.13).unsqueeze(1)
    picture = blend(picture, red * uniform((count, 1, 1, 1), 0.9, 1.15, generator), coverage(bank, size))
    away, chance = dots(count, size, 9, generator)
    stones = coverage(away - 0.010 - 0.02 * chance, size) * (chance < 0.7) * coverage(bank + 0.02, size)
    return blend(picture, _colour(0.36, 0.12, 0.07), stones)


def vibrant(picture: Tensor, generator: Generator) -> Tensor:
    """Colours at full strength, and a rainbow along the border."""
    count, _, size, _ = picture.shape
    middle = picture.mean(1, keepdim=True)
    picture = (middle + (picture - middle) * 1.6 - 0.5) * 1.15 + 0.5
    x, y = coordinates(size)
    hue = torch.remainder(torch.atan2(y - 0.5, x - 0.5) / 6.2832 + uniform((count, 1, 1), 0, 1, generator), 1)
    steps = hue * len(RAINBOW)
    table = torch.tensor([*RAINBOW, RAINBOW[0]])
    low = steps.long().clamp(max=len(RAINBOW) - 1)
    rainbow = torch.lerp(table[low], table[low + 1], (steps - low).unsqueeze(-1)).permute(0, 3, 1, 2)
    frame = ((0.05 - _inset(size)) / 0.02).clamp(0, 1)
    return blend(picture.clamp(0, 1), rainbow, frame.expand(count, -1, -1))


_APPLY: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "watercolor": watercolor,
    "neon": neon,
    "snow": snow,
    "film noir": film_noir,
    "line art": line_art,
    "jungle": jungle,
    "mars": mars,
    "vibrant": vibrant,
}


def apply(pictures: Tensor, styles: Sequence[str | None], generator: Generator) -> Tensor:
    """The pictures [B, 3, S, S] (float32, 0..1), each in its style of STYLES, or as it is for None."""
    styled = pictures.clone()
    for style in STYLES:
        rows = torch.tensor([i for i, s in enumerate(styles) if s == style], dtype=torch.long)
        if len(rows):
            styled[rows] = _APPLY[style](pictures[rows], generator).clamp(0, 1)
    return styled
