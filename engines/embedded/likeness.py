"""Which value of an attribute a portrait shows: the one whose ideal picture is nearest where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from engines.embedded.palette import COLOURS
from engines.embedded.person import (
    EXPRESSIONS,
    EYE_COLOURS,
    EYEWEAR,
    HAIR_COLOURS,
    HAIR_STYLES,
    HAT_COLOURS,
    HATS,
    PEOPLE,
    SKINS,
    Portrait,
    portrait_attributes,
)
from engines.embedded.portrait import draw

FIELDS: dict[str, tuple[str, tuple[str | bool | None, ...]]] = {
    "who": ("who", PEOPLE),
    "skin": ("skin", tuple(SKINS)),
    "hair style": ("hair", HAIR_STYLES),
    "hair colour": ("hair_colour", tuple(HAIR_COLOURS)),
    "eyes": ("eyes", tuple(EYE_COLOURS)),
    "eyewear": ("eyewear", (None, *EYEWEAR)),
    "hat": ("hat", (None, *HATS)),
    "hat colour": ("hat_colour", HAT_COLOURS),
    "beard": ("beard", (False, True)),
    "expression": ("expression", EXPRESSIONS),
    "shirt": ("shirt", tuple(COLOURS)),
    "background": ("background", tuple(COLOURS)),
}
"""Attribute to field of Portrait and its values."""
REACH = 0.047
"""A head may lie this far from its ideal place, in image widths."""


def _with(person: Portrait, field: str, value: str | bool | None) -> Portrait:
    changed: Portrait = replace(person, **{field: value})  # type: ignore[arg-type]
    if changed.hat is not None and changed.hat_colour is None:
        return replace(changed, hat_colour="red" if person.background != "red" else "blue")
    return changed


def _soft(pictures: Tensor) -> Tensor:
    """Blurred over 5 % of the width: a mouth out of place is still nearer to its ideal than no mouth."""
    width = pictures.shape[-1] // 40 * 2 + 1
    return F.avg_pool2d(pictures, width, stride=1, padding=width // 2, count_include_pad=False)


def shows(picture: Tensor, person: Portrait, attribute: str) -> bool:
    """Whether [3, S, S] in 0..1 shows this attribute of the person rather than another value of it.

    Everything else is taken as it is in `person`, so leave what was not asked for as it most likely is.
    Compares mean absolute differences at the best of 49 shifts. KeyError for an attribute not in FIELDS.
    """
    field, values = FIELDS[attribute]
    size = picture.shape[-1]
    ideals = _soft(draw([_with(person, field, value) for value in values], size, Generator(), jitter=0.0))
    picture = _soft(picture.unsqueeze(0))[0]
    differ = (ideals.amax(0) - ideals.amin(0)).amax(0) > 0.1
    step = REACH * size / 3
    moves = [round(step * i) for i in range(-3, 4)]
    gaps = [
        (ideals - torch.roll(picture, (dy, dx), (1, 2)))[:, :, differ].abs().mean((1, 2))
        for dy in moves
        for dx in moves
    ]
    nearest = int(torch.stack(gaps).amin(0).argmin())
    return bool(values[nearest] == getattr(person, field))


def portrait_results(picture: Tensor, person: Portrait, named: Sequence[str]) -> dict[str, float]:
    """1 or 0 for each named attribute that can be seen in `person` at all."""
    seen = portrait_attributes(person)
    wanted = [a for a in named if a in FIELDS and (seen[a] != "none" or a in ("eyewear", "hat", "beard"))]
    return {f"portrait {attribute}": float(shows(picture, person, attribute)) for attribute in wanted}
