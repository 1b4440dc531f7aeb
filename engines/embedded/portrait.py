"""Portraits: a cartoon head on shoulders, with all that is named drawn large and flat. Batched torch.

What no caption names (place, size, tilt, proportions, shades, brows, side of the light, cut of hair and
shirt) is drawn from the generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from engines.embedded import headwear
from engines.embedded.person import EXPRESSIONS, Portrait
from engines.embedded.sitter import Sitters, ellipse, seated

IRIS, MOUTH = 0.036, 0.150
FEATURES, BELOW, ABOVE = (0.22, 0.88), (0.40, 1.0), (0.0, 0.64)
"""The parts of the picture's height that can hold eyes to mouth, beard and body, hats."""
LIPS = {
    "man": (0.54, 0.11, 0.11),
    "woman": (0.88, 0.10, 0.22),
    "boy": (0.60, 0.14, 0.13),
    "girl": (0.90, 0.25, 0.36),
}
WHITE, LASH, PUPIL = (0.99, 0.99, 0.98), (0.07, 0.06, 0.08), (0.03, 0.03, 0.04)
PALE_LIPS, TEETH, GAP, GOLD = (1.0, 0.55, 0.58), (0.98, 0.97, 0.95), (0.24, 0.03, 0.05), (0.97, 0.80, 0.25)


def _face(h: Sitters) -> Tensor:
    narrowing = 1 - h.build["jaw"] * (h.v.clamp(min=0) / h.build["tall"]).square()
    return ellipse(h.u / narrowing, h.v, h.build["wide"], h.build["tall"])


def _background(h: Sitters) -> None:
    slope = 0.30 * h.knob["ramp"].abs() * (h.x * h.knob["light"] + h.y * h.knob["part"])
    h.picture.copy_((h.tone["background"] * (1 + slope).unsqueeze(1)).clamp(0, 1))


def _body(h: Sitters) -> None:
    skin, shirt = h.tone["skin"], h.tone["shirt"]
    top = h.build["tall"] + 0.055
    torso = ellipse(h.x, h.y - top - 0.30, h.build["shoulder"], 0.30)
    torso = torch.minimum(torso, torch.maximum(h.x.abs() - h.build["shoulder"], top + 0.30 - h.y))
    h.paint(shirt, torso)
    deep = 0.075 + 0.02 * h.knob["neckline"]
    pointed = (h.x.abs() * 0.85 + (h.y - top - 0.005)) - 1.15 * deep
    round_ = torch.hypot(h.x, h.y - top + 0.015) - deep
    opening = torch.where(h.knob["neckline"] > 0.2, pointed, round_)
    opening = torch.maximum(opening, h.x.abs() - h.build["neck"] - 0.045)
    h.paint(shirt * 0.72, torch.maximum(opening - 0.016, torso - 0.005))
    neck = torch.maximum(h.x.abs() - h.build["neck"], (h.y - 0.16).abs() - (top - 0.14))
    h.paint(skin * 0.84, torch.minimum(neck, torch.maximum(opening, torso)))


def _head(h: Sitters) -> None:
    skin = h.tone["skin"]
    ears = torch.hypot(h.u.abs() - h.build["wide"] + 0.004, h.v - 0.03) - 0.043
    h.paint(skin * 0.90, ears)
    women = h.those(lambda p: p.who == "woman")
    women.paint(GOLD, torch.hypot(women.u.abs() - women.build["wide"] - 0.006, women.v - 0.098) - 0.021)
    face = _face(h)
    h.paint(skin, face)
    lit = ellipse(h.u * h.side("light") + 0.07, h.v + 0.02, 0.26, 0.36)
    h.paint(skin * 0.86, torch.maximum(face, -lit))
    rosy = torch.hypot(h.u.abs() - 0.135, h.v - 0.105) - 0.0224 * (1.2 + h.knob["cheeks"])
    h.paint(skin * torch.tensor([1.0, 0.84, 0.84]).view(1, 3, 1, 1), rosy)


def _beard(h: Sitters) -> None:
    men = h.those(lambda p: p.beard)
    upper = 0.092 - 0.55 * (men.u.abs() - 0.09).clamp(min=0) + 0.012 * men.knob["beard"]
    grown = torch.maximum(_face(men) - 0.014, upper - men.v)
    shaved = ellipse(men.u, men.v - MOUTH - 0.014, 0.110, 0.054)
    men.paint(men.tone["hair"] * 0.90, torch.maximum(grown, -shaved))


def _eyes(h: Sitters) -> None:
    eye = h.build["eye"]
    side, v = h.u.abs() - h.build["apart"], h.v - h.build["look"]
    wide_open = h.flag(lambda p: p.expression == "surprised")
    sad = h.flag(lambda p: p.expression == "sad")
    away = torch.hypot(side, v)
    white = ellipse(side, v, 0.058 * eye, (0.052 + 0.010 * wide_open) * eye)
    lid = v + 0.026 * eye - 0.45 * side  # the outer half of the eye is covered
    white = torch.where(sad, torch.maximum(white, -lid), white)
    lashes = h.flag(lambda p: p.who in ("woman", "girl"))
    h.paint(LASH, torch.maximum(white - 0.008 - 0.006 * lashes, v + 0.012 * eye))
    h.paint(WHITE, white)
    h.paint(h.tone["eyes"], torch.maximum(away - IRIS * eye, white))
    h.paint(PUPIL, torch.maximum(away - 0.0145 * eye, white))
    h.paint(WHITE, torch.hypot(side, v + 0.018 * eye) - 0.009 * eye)


def _brows(h: Sitters) -> None:
    raised = 0.028 * h.flag(lambda p: p.expression == "surprised") + 0.006 * h.knob["brow"]
    sad, happy = h.flag(lambda p: p.expression == "sad"), h.flag(lambda p: p.expression == "happy")
    side = (h.u.abs() - h.build["apart"]) / 0.058
    height = h.build["look"] - 0.082 * h.build["eye"] ** 0.5 - raised
    arch = (0.010 + 0.008 * h.knob["arch"] + 0.006 * happy) * (side.square() - 0.5)
    line = height + arch + 0.026 * sad * side
    thick = h.build["brow"] * (1 + 0.2 * h.knob["arch"])
    brow = torch.maximum((h.v - line).abs() - thick, (side.abs() - 1) * 0.058)
    h.paint(h.tone["hair"] * 0.55, brow)


def _nose(h: Sitters) -> None:
    wide = 0.024 + 0.006 * h.knob["nose"]
    h.paint(h.tone["skin"] * 0.76, ellipse(h.u, h.v - 0.075 - 0.006 * h.knob["nose"], wide, 0.015))


def _mouth(h: Sitters) -> None:
    for mood in EXPRESSIONS:
        some = h.those(lambda p, mood=mood: p.expression == mood)  # type: ignore[misc]
        if not some.people:
            continue
        lips = torch.tensor([LIPS[p.who] for p in some.people]).view(-1, 3, 1, 1)
        pale = torch.tensor(PALE_LIPS).view(1, 3, 1, 1).expand_as(lips)
        lips = torch.where(some.flag(lambda p: p.skin == "dark").unsqueeze(1), lips.lerp(pale, 0.5), lips)
        u, v = some.u, some.v - MOUTH - 0.006 * some.knob["mouth"]
        half = 0.088 + 0.008 * some.knob["mouth"]
        bow, ends = (u / half).square(), u.abs() - half
        if mood == "surprised":
            round_ = ellipse(u, v - 0.008, 0.042, 0.054 + 0.005 * some.knob["grin"])
            some.paint(lips, round_ - 0.009)
            some.paint(GAP, round_)
        elif mood == "neutral":
            some.paint(lips, torch.maximum(v.abs() - 0.0120, u.abs() - 0.066))
        elif mood == "sad":
            some.paint(lips, torch.maximum((v + 0.008 - 0.058 * bow).abs() - 0.0140, ends))
        else:
            deep = 0.060 + 0.014 * some.knob["grin"]
            grin = torch.maximum(v + 0.004 - deep * (1 - bow), torch.maximum(-v - 0.004 - 0.022 * bow, ends))
            some.paint(lips, grin - 0.004)
            some.paint(TEETH, torch.maximum(grin + 0.008, v - 0.022))


def draw(people: Sequence[Portrait], size: int, generator: Generator, jitter: float = 1.0) -> Tensor:
    """[B, 3, size, size] float32 in 0..1, sRGB. `jitter=0` is the ideal picture: middling in everything."""
    h = seated(people, size, generator, jitter)
    features, below, above = h.band(*FEATURES), h.band(*BELOW), h.band(*ABOVE)
    _background(h)
    headwear.hair_behind(h)
    _body(below)
    _head(h)
    _beard(below)
    headwear.lenses(features)
    _eyes(features)
    _brows(features)
    _nose(features)
    _mouth(features)
    headwear.hair(h)
    headwear.bow(above)
    headwear.glasses(features)
    headwear.hats(above)
    return h.picture.clamp_(0, 1)
