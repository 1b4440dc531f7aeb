"""People sitting for a portrait: their coordinates, builds and tones, and all that is drawn by chance.

Lengths are in image widths of a head that fills two thirds of the height; u, v are measured from the middle
of the head along its own (tilted) axes, v downwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from engines.embedded.canvas import coordinates, coverage, normal, uniform
from engines.embedded.palette import COLOURS
from engines.embedded.person import EYE_COLOURS, HAIR_COLOURS, SKINS, Portrait

# Half width and half height of the face, how much it narrows towards the chin, half widths of neck and
# shoulders, size and height of the eyes, half thickness of the brows, where short hair ends at the sides.
MEASURES = ("wide", "tall", "jaw", "neck", "shoulder", "eye", "look", "brow", "cut")
BUILD: dict[str, tuple[float, ...]] = {
    "man": (0.212, 0.275, 0.10, 0.105, 0.44, 0.94, 0.000, 0.0160, -0.03),
    "woman": (0.202, 0.265, 0.36, 0.064, 0.32, 1.06, 0.000, 0.0085, 0.12),
    "boy": (0.228, 0.240, 0.18, 0.056, 0.26, 1.14, 0.035, 0.0120, -0.01),
    "girl": (0.222, 0.238, 0.26, 0.050, 0.24, 1.18, 0.035, 0.0080, 0.12),
}
PLACING = ("x", "y", "size", "tilt", "light", "ramp")
FACE = ("wide", "tall", "jaw", "eyes", "apart", "brow", "arch", "nose", "mouth", "grin", "cheeks")
CUTS = ("beard", "part", "fringe", "curl", "length", "lens", "brim", "pompom", "neckline")
KNOBS = PLACING + FACE + CUTS
EYE_APART, HAT_LINE = 0.096, -0.125
HEADROOM = {None: 0.0, "cap": 0.01, "beanie": 0.035, "top hat": 0.09}


@dataclass(frozen=True)
class Sitters:
    """Some people of a batch and the pictures they are painted in."""

    people: tuple[Portrait, ...]
    rows: Tensor  # [N] int64, their rows in `picture`
    picture: Tensor  # [B, 3, S, S], painted in place
    u: Tensor  # [N, S, S]
    v: Tensor
    x: Tensor  # as u and v, but upright: the body does not tilt
    y: Tensor
    knob: dict[str, Tensor]  # [N, 1, 1] in -1..1
    build: dict[str, Tensor]  # [N, 1, 1]
    tone: dict[str, Tensor]  # [N, 3, 1, 1]

    def those(self, wanted: Callable[[Portrait], bool]) -> Sitters:
        """Only the people wanted."""
        keep = [i for i, p in enumerate(self.people) if wanted(p)]
        if len(keep) == len(self.people):
            return self
        at = torch.tensor(keep, dtype=torch.long)
        grids = {name: getattr(self, name)[at] for name in ("rows", "u", "v", "x", "y")}
        knob, build, tone = (
            {name: t[at] for name, t in table.items()} for table in (self.knob, self.build, self.tone)
        )
        people = tuple(self.people[i] for i in keep)
        return replace(self, people=people, knob=knob, build=build, tone=tone, **grids)

    def band(self, top: float, bottom: float) -> Sitters:
        """The same people between two heights (in image widths) of the picture: less to compute."""
        size = self.picture.shape[-1]
        rows = slice(int(top * size), round(bottom * size))
        grids = {name: getattr(self, name)[:, rows] for name in ("u", "v", "x", "y")}
        return replace(self, picture=self.picture[:, :, rows], **grids)

    def flag(self, wanted: Callable[[Portrait], bool]) -> Tensor:
        """[N, 1, 1] bool."""
        return torch.tensor([wanted(p) for p in self.people], dtype=torch.bool).view(-1, 1, 1)

    def side(self, knob: str) -> Tensor:
        """[N, 1, 1] -1.0 or 1.0."""
        return (self.knob[knob] >= 0).float() * 2 - 1

    def paint(self, colour: Tensor | tuple[float, ...], distance: Tensor) -> None:
        """Fill the inside of `distance` [N, S, S], in image widths. colour: sRGB or [N, 3, 1, 1]."""
        if isinstance(colour, tuple):
            colour = torch.tensor(colour).view(1, 3, 1, 1)
        alpha = coverage(distance, self.picture.shape[-1]).unsqueeze(1)
        if len(self.rows) == len(self.picture):
            self.picture.lerp_(colour.expand_as(self.picture), alpha)
        elif len(self.rows):
            part = self.picture[self.rows]
            self.picture[self.rows] = part.lerp_(colour.expand_as(part), alpha)


def ellipse(u: Tensor, v: Tensor, wide: Tensor | float, tall: Tensor | float) -> Tensor:
    """About the distance to an ellipse; right near the outline of one that is not very long."""
    return (torch.hypot(u / wide, v / tall) - 1) * (wide + tall) * 0.5


def seated(people: Sequence[Portrait], size: int, generator: Generator, jitter: float = 1.0) -> Sitters:
    """Draw from the generator what captions leave open: as many draws whoever is portrayed."""
    count = len(people)
    knobs = uniform((count, len(KNOBS)), -1, 1, generator) * jitter
    knob = {name: knobs[:, i].view(-1, 1, 1) for i, name in enumerate(KNOBS)}
    builds = torch.tensor([BUILD[p.who] for p in people])
    build = {name: builds[:, i].view(-1, 1, 1) for i, name in enumerate(MEASURES)}
    build["wide"] = build["wide"] * (1 + 0.06 * knob["wide"])
    build["tall"] = build["tall"] * (1 + 0.05 * knob["tall"])
    build["jaw"] = build["jaw"] + 0.07 * knob["jaw"]
    build["eye"] = build["eye"] * (1 + 0.06 * knob["eyes"])
    build["apart"] = EYE_APART + 0.006 * knob["apart"]
    tone = {}
    for name, table, chosen in (
        ("skin", SKINS, [p.skin for p in people]),
        ("hair", HAIR_COLOURS, [p.hair_colour for p in people]),
        ("eyes", EYE_COLOURS, [p.eyes for p in people]),
        ("hat", COLOURS, [p.hat_colour or "black" for p in people]),
        ("shirt", COLOURS, [p.shirt for p in people]),
        ("background", COLOURS, [p.background for p in people]),
    ):
        colour = torch.tensor([table[c] for c in chosen])
        colour = colour * (1 + normal((count, 1), generator) * 0.035 * jitter)
        tone[name] = (colour + normal((count, 3), generator) * 0.015 * jitter).clamp(0, 1).view(-1, 3, 1, 1)
    room = torch.tensor([HEADROOM[p.hat] for p in people]).view(-1, 1, 1)
    x, y = coordinates(size)
    scale = (1.18 - 1.6 * room) * (1 + 0.06 * knob["size"])
    x = (x - 0.5 - 0.035 * knob["x"]) / scale
    y = (y - 0.47 - room - 0.025 * knob["y"]) / scale
    cos, sin = (0.13 * knob["tilt"]).cos(), (0.13 * knob["tilt"]).sin()
    picture = torch.empty(count, 3, size, size)
    u, v = x * cos + y * sin, y * cos - x * sin
    return Sitters(tuple(people), torch.arange(count), picture, u, v, x, y, knob, build, tone)
