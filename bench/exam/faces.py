"""Who a portrait shows: of the people who differ from the one asked for in one attribute, the likeliest."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bench.exam.eye import shrunk
from engines.embedded.likeness import FIELDS
from engines.embedded.person import Portrait
from engines.embedded.portrait import draw

SIDE = 96
"""Pixels at which pictures are compared: at 64, one in twenty hats and mouths is misread."""
BLUR = 5
"""Pixels over which both are smoothed: a mouth out of place is still nearer to its ideal than no mouth."""
ZOOMS, TILTS = (0.95, 1.0, 1.05), (-0.09, 0.0, 0.09)
ACROSS, DOWN = (-0.04, -0.02, 0.0, 0.02, 0.04), (-0.03, 0.0, 0.03)
"""How else a head may lie: sizes as ratios, radians, and image widths."""


def shown(picture: Tensor, person: Portrait, names: Iterable[str]) -> dict[str, bool]:
    """Whether [3, S, S] in 0..1 shows these attributes (keys of FIELDS) rather than other values of them.

    The rest of the person is taken as asked for. Absolute differences where the ideals differ, each at its
    best size, tilt and place.
    """
    others = {name: [_changed(person, name, value) for value in FIELDS[name][1]] for name in names}
    everyone = list(dict.fromkeys(other for group in others.values() for other in group))
    ideals = F.avg_pool2d(_soft(draw(everyone, SIDE, Generator(), jitter=0.0)), 2)
    seen = _soft(shrunk(picture.unsqueeze(0), SIDE))[0]
    grids = _grids()
    moved = F.grid_sample(
        seen.expand(len(grids), -1, -1, -1), grids, padding_mode="border", align_corners=False
    )
    answers = {}
    for name, group in others.items():
        these = ideals[[everyone.index(other) for other in group]]
        differ = (these.amax(0) - these.amin(0)).amax(0) > 0.1
        gaps = torch.cdist(these[:, :, differ].flatten(1), moved[:, :, differ].flatten(1), p=1.0)
        answers[name] = group[int(gaps.amin(1).argmin())] == person
    return answers


def _changed(person: Portrait, name: str, value: str | bool | None) -> Portrait:
    other: Portrait = replace(person, **{FIELDS[name][0]: value})  # type: ignore[arg-type]
    if other.hat is None:
        return other
    return replace(other, hat_colour=other.hat_colour or ("blue" if person.background == "red" else "red"))


@functools.cache
def _grids() -> Tensor:
    """[N, SIDE / 2, SIDE / 2, 2] for grid_sample: every zoom with every tilt and move."""
    thetas = []
    for zoom, tilt, x, y in itertools.product(ZOOMS, TILTS, ACROSS, DOWN):
        cos, sin = zoom * math.cos(tilt), zoom * math.sin(tilt)
        thetas.append([[cos, -sin, 2 * x], [sin, cos, 2 * y]])
    shape = [len(thetas), 3, SIDE // 2, SIDE // 2]
    return F.affine_grid(torch.tensor(thetas), shape, align_corners=False)


def _soft(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(pictures, BLUR, 1, BLUR // 2, count_include_pad=False)
