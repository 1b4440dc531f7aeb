"""Flat shapes on a plain ground, measured: segmented from the pixels alone, without the caption.

Everything is at SIDE pixels. The ground may fall off to one side, a thing may have a sheen, an outline and a
shadow: the renderer draws all of these, and a generated picture adds a little blur of its own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.exam.eye import shrunk
from engines.embedded import sdf
from engines.embedded.canvas import coordinates
from engines.embedded.render import RADIUS
from engines.embedded.scene import COLOURS, PLACES, SHAPES

SIDE = 128
LEAST = 0.004
"""Share of the picture under which a spot is no thing; the smallest thing, a star of a group, has 0.010."""
RIM = 6
APART = 0.11
"""Distance in RGB from the ground, shaded or not, that makes a pixel part of a thing."""
SHADOW = 0.69
"""The ground in the darkest of the renderer's shadows. Gray is to white as 0.54."""
PATCH = 32


@dataclass(frozen=True)
class Found:
    """One thing as measured. x, y: its centre in image widths; radius: as RADIUS, if it is of its shape."""

    shape: str
    colour: str
    x: float
    y: float
    area: float  # share of the picture
    rgb: Tensor  # [3]

    @property
    def place(self) -> str:
        """The nearest of PLACES."""
        return min(PLACES, key=lambda p: (PLACES[p][0] - self.x) ** 2 + (PLACES[p][1] - self.y) ** 2)

    @property
    def size(self) -> str:
        """The nearest of RADIUS, as ratios; a big thing that is not in the middle is drawn smaller."""
        radius = (self.area / unit_areas()[self.shape]) ** 0.5
        radii = RADIUS | ({} if self.place == "center" else {"big": 0.25})
        return min(radii, key=lambda size: max(radii[size] / radius, radius / radii[size]))


@dataclass(frozen=True)
class Seen:
    """A picture as measured: the colour of its ground, and its things, largest first."""

    background: str
    things: tuple[Found, ...]


def named(rgb: Tensor) -> str:
    """The named colour nearest to [3]."""
    table = torch.tensor(list(COLOURS.values()))
    return list(COLOURS)[int((table - rgb).square().sum(1).argmin())]


def look(picture: Tensor) -> Seen:
    """Measure one picture [3, S, S] in 0..1."""
    picture = shrunk(picture.unsqueeze(0), SIDE)[0]
    ground, middle = _ground(picture)
    away = _from_shades(picture, ground, SHADOW, 1.0)
    spots = components(away > APART)
    things = [found for spot in spots if (found := _measured(picture, ground, spot)) is not None]
    return Seen(named(middle), tuple(sorted(things, key=lambda found: -found.area)))


def _ground(picture: Tensor) -> tuple[Tensor, Tensor]:
    """The ground as if nothing lay on it [3, S, S], and its colour [3]: a plane fitted to the rim."""
    x, y = coordinates(SIDE)
    rim = torch.ones(SIDE, SIDE, dtype=torch.bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    pixels = picture[:, rim].T
    terms = torch.stack([torch.ones(SIDE, SIDE), x[0] - 0.5, y[0] - 0.5], -1)
    middle = pixels.median(0).values
    kept = (pixels - middle).abs().amax(1) < 0.25
    for limit in (0.12, 0.06):
        if int(kept.sum()) < len(pixels) // 4:
            break  # no plain ground: the median has to do
        plane = torch.linalg.lstsq(terms[rim][kept], pixels[kept]).solution
        kept = (terms[rim] @ plane - pixels).abs().amax(1) < limit
    else:
        return (terms @ plane).permute(2, 0, 1), plane[0]
    return middle.view(3, 1, 1).expand_as(picture), middle


def _from_shades(picture: Tensor, colour: Tensor, darkest: float, lightest: float) -> Tensor:
    """How far each pixel is from the colour at any brightness in between: [S, S], in RGB."""
    share = (picture * colour).sum(0) / colour.square().sum(0).clamp(min=1e-4)
    return (picture - colour * share.clamp(darkest, lightest)).square().sum(0).sqrt()


def components(mask: Tensor) -> list[Tensor]:
    """The connected spots [S, S] of a mask that cover at least LEAST of the picture."""
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view(1, 1, *mask.shape) * mask
    while True:
        spread = F.max_pool2d(F.max_pool2d(labels, (1, 3), 1, (0, 1)), (3, 1), 1, (1, 0)) * mask
        # A label is a pixel of the same spot: what that pixel has by now saves the way there.
        spread = spread.flatten()[(spread.long() - 1).clamp(min=0)] * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    numbers, sizes = labels[0, 0][mask].unique(return_counts=True)
    return [labels[0, 0] == number for number in numbers[sizes >= LEAST * mask.numel()]]


def _measured(picture: Tensor, ground: Tensor, spot: Tensor) -> Found | None:
    """The thing in a spot. Its outline, if it has one, is darker than it and belongs to it."""
    rgb = picture[:, _core(spot)].median(1).values
    own = _from_shades(picture, rgb.view(3, 1, 1), 0.3, 1.15)
    other = _from_shades(picture, ground, SHADOW, 1.0)
    body = spot & (own < other)
    if float(body.float().mean()) < LEAST:
        return None
    rows, columns = ((at.float() + 0.5) / SIDE for at in body.nonzero().T)
    return Found(
        shape_of(body), named(rgb), float(columns.mean()), float(rows.mean()), float(body.float().mean()), rgb
    )


def _core(spot: Tensor) -> Tensor:
    """The spot without its outline, if anything is left."""
    core = spot
    for _ in range(3):
        thinner = F.max_pool2d((~core)[None].float(), 3, 1, 1)[0] == 0
        if int(thinner.sum()) < 25:
            break
        core = thinner
    return core


def shape_of(mask: Tensor) -> str:
    """The shape whose outline, moved, scaled and tilted, covers the mask [S, S] best."""
    shapes, patches = templates()
    patch = _patch(mask.float())
    together = torch.minimum(patches, patch).sum((1, 2)) / torch.maximum(patches, patch).sum((1, 2))
    return shapes[int(together.argmax())]


def _patch(mask: Tensor) -> Tensor:
    """The mask around its centre, scaled to equal areas: [PATCH, PATCH]."""
    rows, columns = ((at.float() + 0.5) / SIDE * 2 - 1 for at in (mask > 0.5).nonzero().T)
    reach = 1.9 * float((mask > 0.5).float().mean()) ** 0.5
    theta = torch.tensor([[[reach, 0, float(columns.mean())], [0, reach, float(rows.mean())]]])
    grid = F.affine_grid(theta, [1, 1, PATCH, PATCH], align_corners=False)
    return F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]


@functools.cache
def templates() -> tuple[list[str], Tensor]:
    """Every shape at three sizes and seven tilts: names, and patches [N, PATCH, PATCH]."""
    x, y = coordinates(SIDE)
    shapes, patches = [], []
    for shape in SHAPES:
        for radius in (0.12, 0.18, 0.28):
            for tilt in torch.linspace(-0.15, 0.15, 7):
                u, v = (x - 0.5) / radius, (y - 0.5) / radius
                u, v = u * tilt.cos() + v * tilt.sin(), v * tilt.cos() - u * tilt.sin()
                shapes.append(shape)
                patches.append(_patch((sdf.SHAPE_DISTANCE[shape](u, v)[0] < 0).float()))
    return shapes, torch.stack(patches)


@functools.cache
def unit_areas() -> dict[str, float]:
    """Area of each shape of radius 1."""
    x, y = coordinates(512)
    u, v = (x - 0.5) * 3, (y - 0.5) * 3
    return {shape: float((sdf.SHAPE_DISTANCE[shape](u, v) < 0).float().mean()) * 9 for shape in SHAPES}
