"""What a picture can show: the grammar behind both the renderer and the captions. No torch here.

A scene is complete (every field has a value); a caption may name only some of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

from engines.embedded.palette import COLOURS as COLOURS
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
    portrait_attributes,
)
from engines.embedded.person import Portrait as Portrait
from engines.embedded.person import random_portrait as random_portrait

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond")
SIZES = ("small", "medium", "big")
PLACES: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "top left": (0.27, 0.27),
    "top": (0.5, 0.27),
    "top right": (0.73, 0.27),
    "left": (0.27, 0.5),
    "right": (0.73, 0.5),
    "bottom left": (0.27, 0.73),
    "bottom": (0.5, 0.73),
    "bottom right": (0.73, 0.73),
}
"""Centre of a thing, (x, y) in image widths from the top left corner."""

RELATIONS = ("left of", "right of", "above", "below")
SKIES = ("day", "night", "sunset", "cloudy")
GROUNDS = ("hills", "mountains", "sea", "desert", "snow", "forest", "field", "city")
HILL_COLOURS = ("green", "yellow", "orange", "red", "purple", "blue", "pink")
SIDES = ("left", "middle", "right")
LIGHTS = ("sun", "moon")
PROPS = ("tree", "house", "boat")
WEATHERS = ("rain", "snowfall", "fog")
COUNTS = (2, 3, 4, 5)
STYLES = ("watercolor", "neon", "snow", "film noir", "line art", "jungle", "mars", "vibrant")
"""The looks that fal-ai/instantid/lcm names (its Headshot and Spring Festival left out)."""


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
    style: str | None = None


@dataclass(frozen=True)
class Group:
    """`count` (one of COUNTS) equal things, apart from each other, on a plain background."""

    shape: str
    colour: str
    count: int
    background: str
    style: str | None = None


@dataclass(frozen=True)
class Landscape:
    """A sky over a ground; `light`, `prop` and `weather` are of LIGHTS, PROPS, WEATHERS, or None (clear)."""

    sky: str
    ground: str
    hill_colour: str = "green"
    light: str | None = None
    light_side: str = "middle"
    prop: str | None = None
    prop_side: str = "middle"
    weather: str | None = None
    style: str | None = None


Scene = Still | Group | Landscape | Portrait

_COLOURS = tuple(COLOURS)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": ("thing", "pair", "group", "landscape", "portrait"),
    "shape": ("none", *SHAPES),
    "colour": ("none", *_COLOURS),
    "place": ("none", *PLACES),
    "size": ("none", *SIZES),
    "background": ("none", *_COLOURS),
    "second shape": ("none", *SHAPES),
    "second colour": ("none", *_COLOURS),
    "relation": ("none", *RELATIONS),
    "count": ("none", *map(str, COUNTS)),
    "sky": ("none", *SKIES),
    "ground": ("none", *GROUNDS),
    "hill colour": ("none", *HILL_COLOURS),
    "light": ("none", *LIGHTS),
    "light side": ("none", *SIDES),
    "prop": ("none", *PROPS),
    "prop side": ("none", *SIDES),
    "weather": ("none", *WEATHERS),
    "style": ("none", *STYLES),
    "who": ("none", *PEOPLE),
    "skin": ("none", *SKINS),
    "hair style": ("none", *HAIR_STYLES),
    "hair colour": ("none", *HAIR_COLOURS),
    "eyes": ("none", *EYE_COLOURS),
    "eyewear": ("none", *EYEWEAR),
    "hat": ("none", *HATS),
    "hat colour": ("none", *HAT_COLOURS),
    "beard": ("none", "beard"),
    "expression": ("none", *EXPRESSIONS),
    "shirt": ("none", *_COLOURS),
}
"""Everything a caption can ask for, with all its values; "none" where a kind of scene lacks it."""


def _named(scene: Scene) -> dict[str, str | None]:
    """The attributes that this kind of scene has."""
    if isinstance(scene, Still):
        first = scene.things[0]
        named: dict[str, str | None] = {"kind": "thing", "shape": first.shape, "colour": first.colour}
        if scene.relation is None:
            return named | {"place": first.place, "size": first.size, "background": scene.background}
        second = scene.things[1]
        named |= {"second shape": second.shape, "second colour": second.colour, "relation": scene.relation}
        return named | {"kind": "pair", "background": scene.background}
    if isinstance(scene, Portrait):
        return {"kind": "portrait", **portrait_attributes(scene)}
    if isinstance(scene, Group):
        named = {"kind": "group", "shape": scene.shape, "colour": scene.colour, "count": str(scene.count)}
        return named | {"background": scene.background}
    return {
        "kind": "landscape",
        "sky": scene.sky,
        "ground": scene.ground,
        "hill colour": scene.hill_colour if scene.ground == "hills" else None,
        "light": scene.light,
        "light side": scene.light_side if scene.light else None,
        "prop": scene.prop,
        "prop side": scene.prop_side if scene.prop else None,
        "weather": scene.weather,
    }


def attributes(scene: Scene) -> dict[str, str]:
    """One value of ATTRIBUTES[key] for every key."""
    named = _named(scene) | {"style": scene.style}
    return {key: named.get(key) or "none" for key in ATTRIBUTES}


def _tenth(*names: str | None) -> bool:
    """True for a fixed pseudo-random tenth of all combinations of names."""
    words = "|".join(name or "none" for name in names)
    return hashlib.blake2b(words.encode(), digest_size=8).digest()[0] < 26


def is_held_out(scene: Scene) -> bool:
    """Whether training never shows this combination, so that the exam can ask for something new.

    A tenth of (shape, colour, background), of (sky, ground, light, prop) and of (hair colour, skin, eyewear,
    hat), each by a hash of the words.
    """
    if isinstance(scene, Portrait):
        hair = "bald" if scene.hair == "bald" else scene.hair_colour
        return _tenth(hair, scene.skin, scene.eyewear, scene.hat)
    if isinstance(scene, Landscape):
        ground = f"{scene.hill_colour} hills" if scene.ground == "hills" else scene.ground
        return _tenth(scene.sky, ground, scene.light, scene.prop)
    things = (scene,) if isinstance(scene, Group) else scene.things
    return any(_tenth(thing.shape, thing.colour, scene.background) for thing in things)


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
    weather = rng.choice(WEATHERS) if rng.random() < 0.36 else None
    return Landscape(sky, ground, hill_colour, light, rng.choice(SIDES), prop, rng.choice(SIDES), weather)


def _group(rng: Random) -> Group:
    background = rng.choice(list(COLOURS))
    colour = rng.choice([c for c in COLOURS if c != background])
    return Group(rng.choice(SHAPES), colour, rng.choice(COUNTS), background)


_KINDS: dict[str, Callable[[Random], Scene]] = {
    "thing": lambda rng: _still(rng, 1),
    "pair": lambda rng: _still(rng, 2),
    "group": _group,
    "landscape": _landscape,
    "portrait": random_portrait,
}
SHARES: dict[str, float] = {"thing": 0.36, "pair": 0.12, "group": 0.09, "landscape": 0.22, "portrait": 0.21}
"""How often each kind of scene is drawn."""


def _styled(scene: Scene, rng: Random) -> Scene:
    barred: set[str] = set()
    if isinstance(scene, Landscape):
        if scene.weather is not None:
            barred |= {"neon", "line art"}  # they would outline every drop
        if scene.ground == "snow" or scene.weather == "snowfall":
            barred.add("snow")
    return replace(scene, style=rng.choice([style for style in STYLES if style not in barred]))


def random_scene(rng: Random, held_out: bool = False, shares: Mapping[str, float] = SHARES) -> Scene:
    """A scene of a kind drawn by `shares` (keys of SHARES); 15 % of them in a style.

    Training draws never show what is_held_out names; `held_out` draws show nothing else.
    """
    kind = _KINDS[rng.choices(tuple(shares), tuple(shares.values()))[0]]
    scene = kind(rng)
    while is_held_out(scene) != held_out:
        scene = kind(rng)
    return _styled(scene, rng) if rng.random() < 0.15 else scene
