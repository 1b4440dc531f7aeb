"""Portraits: a cartoon head on shoulders, with all that is named drawn large and flat. Batched torch.

Lengths are in image widths; u, v are measured from the middle of the head along its own (tilted) axes,
v downwards. What no caption names (place, size, tilt, proportions, shades, brows, side of the light, cut of
hair and shirt) is drawn from the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from engines.embedded import sdf
from engines.embedded.canvas import coordinates, coverage, normal, uniform
from engines.embedded.palette import COLOURS
from engines.embedded.person import EYE_COLOURS, HAIR_COLOURS, SKINS, Portrait

# Half width and half height of the face, how much it narrows towards the chin, half width of neck and
# shoulders, size and height of the eyes, half thickness of the brows, where short hair ends at the sides.
BUILD: dict[str, dict[str, float]] = {
    "man": dict(
        wide=0.212, tall=0.275, jaw=0.10, neck=0.105, shoulder=0.44, eye=0.94, look=0.0, brow=0.016, cut=-0.03
    ),
    "woman": dict(
        wide=0.202, tall=0.265, jaw=0.36, neck=0.064, shoulder=0.32, eye=1.06, look=0.0, brow=0.0085, cut=0.12
    ),
    "boy": dict(
        wide=0.228,
        tall=0.240,
        jaw=0.18,
        neck=0.056,
        shoulder=0.26,
        eye=1.14,
        look=0.035,
        brow=0.012,
        cut=-0.01,
    ),
    "girl": dict(
        wide=0.222,
        tall=0.238,
        jaw=0.26,
        neck=0.050,
        shoulder=0.24,
        eye=1.18,
        look=0.035,
        brow=0.008,
        cut=0.12,
    ),
}
KNOBS = (
    *(
        "x",
        "y",
        "size",
        "tilt",
        "wide",
        "tall",
        "jaw",
        "eyes",
        "apart",
        "brow",
        "arch",
        "nose",
        "mouth",
        "grin",
    ),
    *(
        "part",
        "fringe",
        "curl",
        "length",
        "light",
        "lens",
        "brim",
        "pompom",
        "neckline",
        "ramp",
        "cheeks",
        "beard",
    ),
)
EYE_APART, IRIS, MOUTH, HAT_LINE = 0.096, 0.036, 0.150, -0.125
HEADROOM = {None: 0.0, "cap": 0.01, "beanie": 0.035, "top hat": 0.09}
DARK = (0.07, 0.06, 0.08)
LIPS = {
    "man": (0.66, 0.18, 0.17),
    "woman": (0.88, 0.10, 0.22),
    "boy": (0.74, 0.22, 0.20),
    "girl": (0.90, 0.25, 0.36),
}
TEETH, GAP, GOLD, BOW = (0.98, 0.97, 0.95), (0.24, 0.03, 0.05), (0.97, 0.80, 0.25), (0.96, 0.16, 0.38)


@dataclass(frozen=True)
class Heads:
    """People of one batch of a batch: coordinates [B, S, S], numbers [B, 1, 1], tones [B, 3, 1, 1]."""

    people: tuple[Portrait, ...]
    u: Tensor
    v: Tensor
    x: Tensor  # as u and v, but upright: the body does not tilt
    y: Tensor
    knob: dict[str, Tensor]  # -1..1
    build: dict[str, Tensor]
    tone: dict[str, Tensor]

    def those(self, wanted: Callable[[Portrait], bool]) -> tuple[Tensor, Heads]:
        """Rows [N] int64 of the people wanted, and only them."""
        rows = torch.tensor([i for i, p in enumerate(self.people) if wanted(p)], dtype=torch.long)
        if len(rows) == len(self.people):
            return rows, self
        tables = ({name: t[rows] for name, t in d.items()} for d in (self.knob, self.build, self.tone))
        grids = (grid[rows] for grid in (self.u, self.v, self.x, self.y))
        return rows, Heads(tuple(self.people[int(i)] for i in rows), *grids, *tables)

    def flag(self, wanted: Callable[[Portrait], bool]) -> Tensor:
        """[B, 1, 1] 1.0 or 0.0."""
        return torch.tensor([float(wanted(p)) for p in self.people]).view(-1, 1, 1)


def heads(people: Sequence[Portrait], size: int, generator: Generator, jitter: float = 1.0) -> Heads:
    """Draw from the generator all that the captions leave open; the same draws for whatever is portrayed."""
    count = len(people)
    knobs = uniform((count, len(KNOBS)), -1, 1, generator) * jitter
    knob = {name: knobs[:, i].view(-1, 1, 1) for i, name in enumerate(KNOBS)}
    build = {name: torch.tensor([BUILD[p.who][name] for p in people]).view(-1, 1, 1) for name in BUILD["man"]}
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
    tilt = 0.13 * knob["tilt"]
    return Heads(
        tuple(people),
        x * tilt.cos() + y * tilt.sin(),
        y * tilt.cos() - x * tilt.sin(),
        x,
        y,
        knob,
        build,
        tone,
    )


def _fill(picture: Tensor, rows: Tensor, colour: Tensor | tuple[float, ...], distance: Tensor) -> None:
    """Paint the inside of `distance` [N, S, S] over those rows, in place."""
    if isinstance(colour, tuple):
        colour = torch.tensor(colour).view(1, 3, 1, 1)
    alpha = coverage(distance, picture.shape[-1]).unsqueeze(1)
    if len(rows) == len(picture):
        picture.lerp_(colour.expand_as(picture), alpha)
    elif len(rows):
        part = picture[rows]
        picture[rows] = part.lerp_(colour.expand_as(part), alpha)


def _ellipse(u: Tensor, v: Tensor, wide: Tensor | float, tall: Tensor | float) -> Tensor:
    """About the distance to an ellipse; right near the outline of one that is not very long."""
    return (torch.hypot(u / wide, v / tall) - 1) * (wide + tall) * 0.5


def _face(h: Heads) -> Tensor:
    narrowing = 1 - h.build["jaw"] * (h.v.clamp(min=0) / h.build["tall"]).square()
    return _ellipse(h.u / narrowing, h.v, h.build["wide"], h.build["tall"])


def _hair_outline(h: Heads, style: str) -> Tensor:
    """The silhouette of head and hair."""
    wide, tall = h.build["wide"], h.build["tall"]
    if style == "curly":
        radius = torch.hypot(h.u / (wide + 0.065), (h.v + 0.045) / (tall + 0.060))
        bumps = 0.022 * torch.cos(torch.atan2(h.u, -h.v - 0.03) * 11 + 2 * h.knob["curl"])
        return torch.maximum((radius - 1) * (wide + 0.05) - bumps, h.v - 0.13 - 0.04 * h.knob["length"])
    cap = _ellipse(h.u, h.v + 0.025, wide + 0.030, tall + 0.035)
    if style == "short":
        quiff = _ellipse(h.u - 0.09 * h.knob["part"], h.v + 0.255, 0.115, 0.055 + 0.02 * h.knob["curl"])
        return torch.minimum(cap, quiff)
    end = 0.37 + 0.05 * h.knob["length"] + 0.012 * torch.sin(45 * h.u + 3 * h.knob["curl"])
    flare = wide + 0.026 + 0.12 * (h.v + 0.08).clamp(min=0)
    return torch.minimum(cap, torch.maximum(torch.maximum(h.u.abs() - flare, h.v - end), -h.v - 0.08))


def _hair(h: Heads, style: str) -> Tensor:
    """Hair in front of the face: above the hairline and down the sides."""
    line = -0.135 + 0.02 * h.knob["fringe"] + 0.9 * (h.u - 0.09 * h.knob["part"]).square()
    line = line + 0.16 * h.knob["part"] * h.u
    if style == "curly":
        line = line + 0.014 * torch.cos(48 * h.u + 2 * h.knob["curl"])
    end = {"short": h.build["cut"], "long": 0.6, "curly": h.build["cut"] * 0.5 + 0.06}[style]
    sides = torch.maximum(h.v - end, h.build["wide"] - 0.022 - 0.02 * h.v.clamp(max=0.1) - h.u.abs())
    hair = torch.maximum(_hair_outline(h, style), torch.minimum(h.v - line, sides))
    return torch.where(h.flag(lambda p: p.hat is not None) > 0, torch.maximum(hair, HAT_LINE - h.v), hair)


def _behind(picture: Tensor, h: Heads) -> None:
    """Background and the hair that falls behind neck and shoulders."""
    slope = 0.30 * h.knob["ramp"].abs() * (h.x * h.knob["light"] + h.y * h.knob["part"])
    picture.copy_((h.tone["background"] * (1 + slope).unsqueeze(1)).clamp(0, 1))
    for style in ("long", "curly"):
        rows, some = h.those(lambda p, style=style: p.hair == style)
        outline = _hair_outline(some, style)
        hatted = some.flag(lambda p: p.hat is not None)
        outline = torch.where(hatted > 0, torch.maximum(outline, HAT_LINE - some.v), outline)
        _fill(picture, rows, some.tone["hair"] * 0.80, outline)


def _body(picture: Tensor, rows: Tensor, h: Heads) -> None:
    skin, shirt = h.tone["skin"], h.tone["shirt"]
    top = h.build["tall"] + 0.055
    torso = _ellipse(h.x, h.y - top - 0.30, h.build["shoulder"], 0.30)
    torso = torch.minimum(torso, torch.maximum(h.x.abs() - h.build["shoulder"], top + 0.30 - h.y))
    _fill(picture, rows, shirt, torso)
    deep = 0.075 + 0.02 * h.knob["neckline"]
    pointed = (h.x.abs() * 0.85 + (h.y - top - 0.005)) - 1.15 * deep
    round_ = torch.hypot(h.x, h.y - top + 0.015) - deep
    opening = torch.where(h.knob["neckline"] > 0.2, pointed, round_)
    opening = torch.maximum(opening, h.x.abs() - h.build["neck"] - 0.045)
    _fill(picture, rows, shirt * 0.72, torch.maximum(opening - 0.016, torso - 0.005))
    neck = torch.maximum(h.x.abs() - h.build["neck"], (h.y - 0.16).abs() - (top - 0.10))
    _fill(picture, rows, skin * 0.84, torch.minimum(neck, torch.maximum(opening, torso)))


def _head(picture: Tensor, rows: Tensor, h: Heads) -> Tensor:
    skin = h.tone["skin"]
    ears = torch.hypot(h.u.abs() - h.build["wide"] + 0.004, h.v - 0.03) - 0.043
    _fill(picture, rows, skin * 0.90, ears)
    women, some = h.those(lambda p: p.who == "woman")
    ring = torch.hypot(some.u.abs() - some.build["wide"] - 0.006, some.v - 0.098) - 0.021
    _fill(picture, women, GOLD, ring)
    face = _face(h)
    _fill(picture, rows, skin, face)
    side = torch.sign(h.knob["light"] + 1e-6)
    shade = torch.maximum(face, _ellipse(h.u * side + 0.07, h.v + 0.02, 0.26, 0.36).neg())
    _fill(picture, rows, skin * 0.86, shade)
    rosy = torch.hypot(h.u.abs() - 0.135, h.v - 0.105) - 0.028 * (1.2 + h.knob["cheeks"]) * 0.8
    _fill(picture, rows, skin * torch.tensor([1.0, 0.84, 0.84]).view(1, 3, 1, 1), rosy)
    return face


def _beard(picture: Tensor, h: Heads, face: Tensor) -> None:
    rows, some = h.those(lambda p: p.beard)
    upper = 0.092 - 0.55 * (some.u.abs() - 0.09).clamp(min=0) + 0.012 * some.knob["beard"]
    grown = torch.maximum(face[rows] - 0.014, upper - some.v)
    grown = torch.maximum(grown, -_ellipse(some.u, some.v - MOUTH - 0.010, 0.098, 0.044))
    _fill(picture, rows, some.tone["hair"] * 0.90, grown)


def _eyes(picture: Tensor, rows: Tensor, h: Heads) -> None:
    eye = h.build["eye"]
    side, v = h.u.abs() - h.build["apart"], h.v - h.build["look"]
    wide_open = h.flag(lambda p: p.expression == "surprised")
    sad = h.flag(lambda p: p.expression == "sad")
    away = torch.hypot(side, v)
    white = _ellipse(side, v, 0.058 * eye, (0.052 + 0.010 * wide_open) * eye)
    lid = v + 0.026 * eye - 0.45 * side  # the outer half of the eye is covered
    white = torch.where(sad > 0, torch.maximum(white, -lid), white)
    lashes = h.flag(lambda p: p.who in ("woman", "girl"))
    _fill(picture, rows, DARK, torch.maximum(white - 0.008 - 0.006 * lashes, v + 0.012 * eye))
    _fill(picture, rows, (0.99, 0.99, 0.98), white)
    _fill(picture, rows, h.tone["eyes"], torch.maximum(away - IRIS * eye, white))
    pupil = torch.maximum(away - 0.0145 * eye, white)
    _fill(picture, rows, (0.03, 0.03, 0.04), pupil)
    _fill(picture, rows, (1.0, 1.0, 1.0), torch.hypot(side, v + 0.018 * eye) - 0.009 * eye)


def _brows(picture: Tensor, rows: Tensor, h: Heads) -> None:
    raised = 0.028 * h.flag(lambda p: p.expression == "surprised") + 0.006 * h.knob["brow"]
    sad, happy = h.flag(lambda p: p.expression == "sad"), h.flag(lambda p: p.expression == "happy")
    side = (h.u.abs() - h.build["apart"]) / 0.058
    height = h.build["look"] - 0.082 * h.build["eye"] ** 0.5 - raised
    arch = (0.010 + 0.008 * h.knob["arch"] + 0.006 * happy) * (side.square() - 0.5)
    line = height + arch + 0.026 * sad * side
    thick = h.build["brow"] * (1 + 0.2 * h.knob["arch"])
    brow = torch.maximum((h.v - line).abs() - thick, (side.abs() - 1) * 0.058)
    _fill(picture, rows, h.tone["hair"] * 0.55, brow)


def _nose_and_mouth(picture: Tensor, rows: Tensor, h: Heads) -> None:
    nose = _ellipse(h.u, h.v - 0.075 - 0.006 * h.knob["nose"], 0.024 + 0.006 * h.knob["nose"], 0.015)
    _fill(picture, rows, h.tone["skin"] * 0.76, nose)
    for mood in ("happy", "sad", "surprised", "neutral"):
        rows, some = h.those(lambda p, mood=mood: p.expression == mood)
        if not len(rows):
            continue
        u, v = some.u, some.v - MOUTH - 0.006 * some.knob["mouth"]
        half = 0.078 + 0.008 * some.knob["mouth"]
        lips = torch.tensor([LIPS[p.who] for p in some.people]).view(-1, 3, 1, 1)
        if mood == "surprised":
            opening = _ellipse(u, v - 0.008, 0.036, 0.048 + 0.006 * some.knob["grin"])
            _fill(picture, rows, lips, opening - 0.009)
            _fill(picture, rows, GAP, opening)
        elif mood == "neutral":
            _fill(picture, rows, lips, torch.maximum(v.abs() - 0.0095, u.abs() - 0.062))
        elif mood == "sad":
            arc = v - 0.012 - 0.050 * (u / half).square() + 0.012
            _fill(picture, rows, lips, torch.maximum(arc.abs() - 0.0115, u.abs() - half))
        else:
            lower = v - 0.052 * (1 - (u / half).square()) - 0.002
            upper = -v - 0.018 * (u / half).square()
            opening = torch.maximum(lower, torch.maximum(upper - 0.004, u.abs() - half))
            shut = torch.maximum(
                (v - 0.048 * (1 - (u / half).square()) + 0.012).abs() - 0.0115, u.abs() - half
            )
            mouth = torch.where(some.knob["grin"] > -0.3, opening, shut)
            _fill(picture, rows, lips, mouth - 0.004)
            teeth = torch.maximum(opening + 0.007, v - 0.020)
            _fill(picture, rows, TEETH, torch.where(some.knob["grin"] > -0.3, teeth, teeth + 9))


def _locks(picture: Tensor, h: Heads) -> None:
    """The hair around the face, with a streak of light."""
    for style in ("short", "long", "curly"):
        rows, some = h.those(lambda p, style=style: p.hair == style)
        if not len(rows):
            continue
        hair = _hair(some, style)
        _fill(picture, rows, some.tone["hair"], hair)
        side = torch.sign(some.knob["light"] + 1e-6) * 0.05
        arc = (torch.hypot(some.u - side, some.v + 0.02) - 0.235).abs() - 0.014
        streak = torch.maximum(torch.maximum(arc, hair + 0.012), (some.u - 2.0 * side).abs() - 0.085)
        _fill(
            picture,
            rows,
            (some.tone["hair"] * 1.12 + 0.05).clamp(max=1),
            torch.maximum(streak, some.v + 0.15),
        )


def _bow(picture: Tensor, h: Heads) -> None:
    """A girl without a hat has a bow in her hair, on either side."""
    rows, some = h.those(lambda p: p.who == "girl" and p.hat is None)
    side = torch.sign(some.knob["brim"] + 1e-6)
    u, v = some.u - 0.125 * side, some.v + 0.225 + 0.35 * side * (some.u - 0.125 * side)
    wings = torch.maximum(v.abs() - 0.022 - 0.42 * u.abs(), u.abs() - 0.085)
    _fill(picture, rows, BOW, wings)
    _fill(picture, rows, tuple(0.72 * c for c in BOW), torch.hypot(u, v) - 0.026)


def _lens(h: Heads) -> Tensor:
    """Both lenses, round or square."""
    side, v = h.u.abs() - h.build["apart"] - 0.002, h.v - h.build["look"] - 0.003
    round_ = torch.hypot(side, v) - 0.077
    square = torch.hypot((side.abs() - 0.055).clamp(min=0), (v.abs() - 0.042).clamp(min=0)) - 0.023
    return torch.where(h.knob["lens"] > 0, round_, square)


def _glass(picture: Tensor, h: Heads) -> None:
    """The pale glass of clear lenses, behind the eyes: it keeps dark frames apart from dark skin."""
    rows, some = h.those(lambda p: p.eyewear == "glasses")
    _fill(
        picture,
        rows,
        some.tone["skin"] * 0.5 + torch.tensor([0.42, 0.46, 0.50]).view(1, 3, 1, 1),
        _lens(some),
    )


def _glasses(picture: Tensor, h: Heads) -> None:
    rows, some = h.those(lambda p: p.eyewear is not None)
    lens, side, v = _lens(some), some.u.abs() - some.build["apart"], some.v - some.build["look"] + 0.01
    dark = some.flag(lambda p: p.eyewear == "sunglasses")
    frame = torch.where(dark > 0, lens - 0.010, lens.abs() - 0.0105)
    bridge = torch.maximum(v.abs() - 0.010, some.u.abs() - 0.03)
    arms = torch.maximum((v + 0.006).abs() - 0.011, (some.u.abs() - 0.19).abs() - 0.028)
    _fill(picture, rows, DARK, torch.minimum(frame, torch.minimum(bridge, arms)))
    shine = torch.maximum((side + 0.8 * v + 0.03).abs() - 0.012, lens + 0.018) + 9 * (1 - dark)
    _fill(picture, rows, (0.55, 0.60, 0.70), shine)


def _hats(picture: Tensor, h: Heads) -> None:
    for kind in ("cap", "beanie", "top hat"):
        rows, some = h.those(lambda p, kind=kind: p.hat == kind)
        if not len(rows):
            continue
        hat, wide = some.tone["hat"], some.build["wide"]
        deep, pale = hat * 0.74 + 0.02, (hat * 0.86 + 0.10).clamp(max=1)
        u, v = some.u, some.v - HAT_LINE
        if kind == "top hat":
            _fill(picture, rows, hat, sdf.box(u / (1 - 0.25 * v), v + 0.17, 0.175, 0.155))
            _fill(picture, rows, deep * 0.7, sdf.box(u, v + 0.055, 0.172, 0.028))
            _fill(picture, rows, hat, _ellipse(u, v + 0.012, 0.295 + 0.02 * some.knob["brim"], 0.034))
            continue
        height = 0.235 + some.build["tall"] - 0.26
        dome = torch.maximum(_ellipse(u, v, wide + 0.040, height), v)
        if kind == "cap":
            front = torch.sign(some.knob["brim"] + 1e-6)
            _fill(picture, rows, hat, dome)
            _fill(picture, rows, deep, _ellipse(u, v + height, 0.032, 0.016))
            _fill(picture, rows, deep, _ellipse(u - 0.07 * front, v + 0.004, 0.225, 0.036))
        else:
            ball = torch.hypot(u, v + height + 0.018) - 0.045
            ball = torch.where(some.knob["pompom"] > -0.2, ball, ball + 9)
            _fill(picture, rows, pale, ball)
            _fill(picture, rows, hat, dome)
            _fill(picture, rows, deep, sdf.box(u, v + 0.028, wide + 0.035, 0.020) - 0.012)


def draw(people: Sequence[Portrait], size: int, generator: Generator, jitter: float = 1.0) -> Tensor:
    """[B, 3, size, size] float32 in 0..1, sRGB; `jitter=0` is the ideal picture, placed as `spots` says."""
    h = heads(people, size, generator, jitter)
    every = torch.arange(len(people))
    picture = torch.empty(len(people), 3, size, size)
    _behind(picture, h)
    _body(picture, every, h)
    face = _head(picture, every, h)
    _beard(picture, h, face)
    _glass(picture, h)
    _eyes(picture, every, h)
    _brows(picture, every, h)
    _nose_and_mouth(picture, every, h)
    _locks(picture, h)
    _bow(picture, h)
    _glasses(picture, h)
    _hats(picture, h)
    return picture.clamp_(0, 1)
