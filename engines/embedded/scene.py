"""What a picture can show: the grammar behind both the renderer and the captions. No torch here.

A scene is complete (every field has a value); a caption may name only some of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.11, 0.13),
    "orange": (0.98, 0.53, 0.08),
    "yellow": (0.98, 0.87, 0.15),
    "green": (0.13, 0.62, 0.22),
    "cyan": (0.20, 0.82, 0.86),
    "blue": (0.13, 0.30, 0.85),
    "purple": (0.52, 0.18, 0.70),
    "pink": (0.98, 0.55, 0.75),
    "brown": (0.45, 0.26, 0.12),
    "white": (0.97, 0.97, 0.97),
    "gray": (0.52, 0.53, 0.55),
    "black": (0.05, 0.05, 0.06),
}
"""sRGB in 0..1; the renderer jitters them by about 0.03."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond")
SIZES = ("small", "medium", "big")
PLACES: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "top left": (0.25, 0.25),
    "top": (0.5, 0.25),
    "top right": (0.75, 0.25),
    "left": (0.25, 0.5),
    "right": (0.75, 0.5),
    "bottom left": (0.25, 0.75),
    "bottom": (0.5, 0.75),
    "bottom right": (0.75, 0.75),
}
"""Centre of a thing, (x, y) in image widths from the top left corner."""

RELATIONS = ("left of", "right of", "above", "below")
SKIES = ("day", "night", "sunset", "cloudy")
GROUNDS = ("hills", "mountains", "sea", "desert", "snow", "forest", "field", "city")
HILL_COLOURS = ("green", "yellow", "orange", "red", "purple", "blue", "pink")
SIDES = ("left", "middle", "right")


@dataclass(frozen=True)
class Thing:
    """One flat shape. `place` is a key of PLACES; `size` one of SIZES."""

    shape: str
    colour: str
    place: str = "center"
    size: str = "medium"


@dataclass(frozen=True)
class Still:
    """One or two things on a plain background. With two, `relation` places the first against the second."""

    things: tuple[Thing, ...]
    background: str
    relation: str | None = None


@dataclass(frozen=True)
class Landscape:
    """A sky over a ground; `light` is "sun", "moon" or None, `prop` "tree", "house", "boat" or None."""

    sky: str
    ground: str
    hill_colour: str = "green"
    light: str | None = None
    light_side: str = "middle"
    prop: str | None = None
    prop_side: str = "middle"


Scene = Still | Landscape


def _thing(rng: Random, avoid: tuple[str, ...], placed: bool) -> Thing:
    colour = rng.choice([c for c in COLOURS if c not in avoid])
    place = "center"
    if placed and rng.random() < 0.6:
        place = rng.choice(list(PLACES))
    size = rng.choice(SIZES) if placed and rng.random() < 0.5 else "medium"
    return Thing(rng.choice(SHAPES), colour, place, size)


def _still(rng: Random, count: int) -> Still:
    background = rng.choice(list(COLOURS))
    first = _thing(rng, (background,), placed=count == 1)
    if count == 1:
        return Still((first,), background)
    second = _thing(rng, (background, first.colour), placed=False)
    return Still((first, second), background, rng.choice(RELATIONS))


def _landscape(rng: Random) -> Landscape:
    sky, ground = rng.choice(SKIES), rng.choice(GROUNDS)
    light = None
    if sky != "cloudy" and rng.random() < 0.6:
        light = "moon" if sky == "night" else "sun"
    prop = None
    if ground == "sea":
        prop = "boat" if rng.random() < 0.5 else None
    elif ground not in ("city", "forest") and rng.random() < 0.5:
        prop = rng.choice(("tree", "house"))
    hill_colour = "green"
    if ground == "hills" and rng.random() < 0.45:
        hill_colour = rng.choice(HILL_COLOURS)
    return Landscape(sky, ground, hill_colour, light, rng.choice(SIDES), prop, rng.choice(SIDES))


def random_scene(rng: Random) -> Scene:
    """A scene: one thing (54 %), a landscape (40 %) or two things (6 %)."""
    draw = rng.random()
    if draw < 0.54:
        return _still(rng, 1)
    if draw < 0.60:
        return _still(rng, 2)
    return _landscape(rng)
