"""What grows and sits on a portrait's head: hair, a bow, glasses and hats. Batched torch."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.embedded import sdf
from engines.embedded.person import HATS
from engines.embedded.sitter import HAT_LINE, Sitters, ellipse

BOW, FRAME, GLARE = (0.96, 0.16, 0.38), (0.07, 0.06, 0.08), (0.55, 0.60, 0.70)
GLASS = (0.42, 0.46, 0.50)


def _outline(h: Sitters, style: str) -> Tensor:
    """The silhouette of head and hair."""
    wide, tall = h.build["wide"], h.build["tall"]
    if style == "curly":
        radius = torch.hypot(h.u / (wide + 0.065), (h.v + 0.045) / (tall + 0.060))
        bumps = 0.022 * torch.cos(torch.atan2(h.u, -h.v - 0.03) * 11 + 2 * h.knob["curl"])
        return torch.maximum((radius - 1) * (wide + 0.05) - bumps, h.v - 0.13 - 0.04 * h.knob["length"])
    cap = ellipse(h.u, h.v + 0.025, wide + 0.030, tall + 0.035)
    if style == "short":
        quiff = ellipse(h.u - 0.09 * h.knob["part"], h.v + 0.255, 0.115, 0.055 + 0.02 * h.knob["curl"])
        return torch.minimum(cap, quiff)
    end = 0.37 + 0.05 * h.knob["length"] + 0.012 * torch.sin(45 * h.u + 3 * h.knob["curl"])
    flare = wide + 0.026 + 0.12 * (h.v + 0.08).clamp(min=0)
    return torch.minimum(cap, torch.maximum(torch.maximum(h.u.abs() - flare, h.v - end), -h.v - 0.08))


def _under_hat(h: Sitters, hair: Tensor) -> Tensor:
    """A hat presses the hair flat."""
    return torch.where(h.flag(lambda p: p.hat is not None), torch.maximum(hair, HAT_LINE - h.v), hair)


def _front(h: Sitters, style: str) -> Tensor:
    """Hair in front of the face: above the hairline and down the sides."""
    line = -0.135 + 0.02 * h.knob["fringe"] + 0.9 * (h.u - 0.09 * h.knob["part"]).square()
    line = line + 0.16 * h.knob["part"] * h.u
    if style == "curly":
        line = line + 0.014 * torch.cos(48 * h.u + 2 * h.knob["curl"])
    cut = h.build["cut"]
    end = {"short": cut, "long": cut + 0.6, "curly": 0.5 * cut + 0.06}[style]
    sides = torch.maximum(h.v - end, h.build["wide"] - 0.022 - 0.02 * h.v.clamp(max=0.1) - h.u.abs())
    return _under_hat(h, torch.maximum(_outline(h, style), torch.minimum(h.v - line, sides)))


def hair_behind(h: Sitters) -> None:
    """What falls behind neck and shoulders."""
    for style in ("long", "curly"):
        some = h.those(lambda p, style=style: p.hair == style)  # type: ignore[misc]
        some.paint(some.tone["hair"] * 0.80, _under_hat(some, _outline(some, style)))


def hair(h: Sitters) -> None:
    """The hair around the face, with a streak of light."""
    for style in ("short", "long", "curly"):
        some = h.those(lambda p, style=style: p.hair == style)  # type: ignore[misc]
        if not some.people:
            continue
        front = _front(some, style)
        some.paint(some.tone["hair"], front)
        side = some.side("light") * 0.05
        arc = (torch.hypot(some.u - side, some.v + 0.02) - 0.235).abs() - 0.014
        streak = torch.maximum(arc, (some.u - 2 * side).abs() - 0.085)
        streak = torch.maximum(torch.maximum(streak, front + 0.012), some.v + 0.15)
        some.paint((some.tone["hair"] * 1.12 + 0.05).clamp(max=1), streak)


def bow(h: Sitters) -> None:
    """A girl without a hat has a bow in her hair, on either side."""
    some = h.those(lambda p: p.who == "girl" and p.hat is None)
    side = some.side("brim")
    u, v = some.u - 0.125 * side, some.v + 0.225 + 0.35 * side * (some.u - 0.125 * side)
    wings = torch.maximum(v.abs() - 0.022 - 0.42 * u.abs(), u.abs() - 0.085)
    some.paint(BOW, wings)
    some.paint(tuple(0.72 * c for c in BOW), torch.hypot(u, v) - 0.026)


def _lens(h: Sitters) -> Tensor:
    """Both lenses, round or square."""
    side, v = h.u.abs() - h.build["apart"] - 0.002, h.v - h.build["look"] - 0.003
    round_ = torch.hypot(side, v) - 0.077
    square = torch.hypot((side.abs() - 0.055).clamp(min=0), (v.abs() - 0.042).clamp(min=0)) - 0.023
    return torch.where(h.knob["lens"] > 0, round_, square)


def lenses(h: Sitters) -> None:
    """The pale glass of clear lenses, behind the eyes: it keeps dark frames apart from dark skin."""
    some = h.those(lambda p: p.eyewear == "glasses")
    some.paint(some.tone["skin"] * 0.5 + torch.tensor(GLASS).view(1, 3, 1, 1), _lens(some))


def glasses(h: Sitters) -> None:
    some = h.those(lambda p: p.eyewear is not None)
    lens, side, v = _lens(some), some.u.abs() - some.build["apart"], some.v - some.build["look"] + 0.01
    dark = some.flag(lambda p: p.eyewear == "sunglasses")
    frame = torch.where(dark, lens - 0.010, lens.abs() - 0.0105)
    bridge = torch.maximum(v.abs() - 0.010, some.u.abs() - 0.03)
    arms = torch.maximum((v + 0.006).abs() - 0.011, (some.u.abs() - 0.19).abs() - 0.028)
    some.paint(FRAME, torch.minimum(frame, torch.minimum(bridge, arms)))
    shine = torch.maximum((side + 0.8 * v + 0.03).abs() - 0.012, lens + 0.018)
    some.paint(GLARE, torch.where(dark, shine, 9.0))


def hats(h: Sitters) -> None:
    for kind in HATS:
        some = h.those(lambda p, kind=kind: p.hat == kind)  # type: ignore[misc]
        if not some.people:
            continue
        hat, wide = some.tone["hat"], some.build["wide"]
        deep, pale = hat * 0.74 + 0.02, (hat * 0.86 + 0.10).clamp(max=1)
        u, v = some.u, some.v - HAT_LINE
        if kind == "top hat":
            some.paint(hat, sdf.box(u / (1 - 0.25 * v), v + 0.17, 0.175, 0.155))
            some.paint(deep * 0.7, sdf.box(u, v + 0.055, 0.172, 0.028))
            some.paint(hat, ellipse(u, v + 0.012, 0.295 + 0.02 * some.knob["brim"], 0.034))
            continue
        height = 0.235 + some.build["tall"] - 0.26
        dome = torch.maximum(ellipse(u, v, wide + 0.040, height), v)
        if kind == "cap":
            some.paint(hat, dome)
            some.paint(deep, ellipse(u, v + height, 0.032, 0.016))
            some.paint(deep, ellipse(u - 0.07 * some.side("brim"), v + 0.004, 0.225, 0.036))
        else:
            ball = torch.hypot(u, v + height + 0.018) - 0.045
            some.paint(pale, torch.where(some.knob["pompom"] > -0.2, ball, 9.0))
            some.paint(hat, dome)
            some.paint(deep, sdf.box(u, v + 0.028, wide + 0.035, 0.020) - 0.012)
