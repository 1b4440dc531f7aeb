"""Who a portrait can show: the named attributes, their colours, and random people. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from engines.embedded.palette import COLOURS

PEOPLE = ("man", "woman", "boy", "girl")
SKINS: dict[str, tuple[float, float, float]] = {
    "light": (0.99, 0.85, 0.75),
    "tan": (0.88, 0.66, 0.47),
    "brown": (0.64, 0.42, 0.28),
    "dark": (0.33, 0.21, 0.16),
}
HAIR_COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.08, 0.07, 0.09),
    "brown": (0.48, 0.26, 0.08),
    "blonde": (0.96, 0.81, 0.36),
    "red": (0.82, 0.28, 0.06),
    "gray": (0.66, 0.67, 0.70),
    "blue": (0.16, 0.36, 0.90),
    "pink": (0.98, 0.46, 0.72),
}
EYE_COLOURS: dict[str, tuple[float, float, float]] = {
    "blue": (0.12, 0.45, 0.95),
    "green": (0.12, 0.66, 0.22),
    "brown": (0.46, 0.23, 0.06),
}
HAIR_STYLES = ("short", "long", "curly", "bald")
EYEWEAR = ("glasses", "sunglasses")
HATS = ("cap", "beanie", "top hat")
HAT_COLOURS = ("red", "yellow", "green", "blue", "purple", "white", "black")
EXPRESSIONS = ("happy", "sad", "surprised", "neutral")

# Backgrounds that hair or skin of that colour would melt into.
_ALIKE = {"blonde": ("yellow",), "dark": ("brown", "black"), "brown": ("brown",), "tan": ("orange",)}


@dataclass(frozen=True)
class Portrait:
    """One person from the shoulders up. Only men wear a beard; `hat_colour` is None without a hat."""

    who: str
    skin: str
    hair: str
    hair_colour: str
    eyes: str
    shirt: str
    background: str
    eyewear: str | None = None
    hat: str | None = None
    hat_colour: str | None = None
    beard: bool = False
    expression: str = "neutral"
    style: str | None = None


def random_portrait(rng: Random) -> Portrait:
    """A portrait in which everything named can be seen: nothing has the colour of what it lies on."""
    who, skin, eyes = rng.choice(PEOPLE), rng.choice(list(SKINS)), rng.choice(list(EYE_COLOURS))
    hair, hair_colour = rng.choice(HAIR_STYLES[:3]), rng.choice(list(HAIR_COLOURS))
    if who in ("man", "woman") and rng.random() < (0.25 if who == "man" else 0.08):
        hair = "bald"
    eyewear = rng.choice(("glasses", "glasses", "sunglasses")) if rng.random() < 0.4 else None
    hat = rng.choice(HATS) if rng.random() < 0.35 else None
    avoid = {hair_colour, *_ALIKE.get(skin, ()), *_ALIKE.get(hair_colour, ())}
    background = rng.choice([c for c in COLOURS if c not in avoid])
    shirt = rng.choice([c for c in COLOURS if c != background])
    hat_colour = None
    if hat is not None:
        hat_colour = rng.choice([c for c in HAT_COLOURS if c not in (background, hair_colour)])
    beard = who == "man" and rng.random() < 0.4
    expression = rng.choice(EXPRESSIONS)
    return Portrait(
        who, skin, hair, hair_colour, eyes, shirt, background, eyewear, hat, hat_colour, beard, expression
    )


def portrait_attributes(p: Portrait) -> dict[str, str]:
    """What can be seen of it, by name; "none" for what is not there or is hidden (eyes by sunglasses)."""
    return {
        "who": p.who,
        "skin": p.skin,
        "hair style": p.hair,
        "hair colour": "none" if p.hair == "bald" else p.hair_colour,
        "eyes": "none" if p.eyewear == "sunglasses" else p.eyes,
        "eyewear": p.eyewear or "none",
        "hat": p.hat or "none",
        "hat colour": p.hat_colour or "none",
        "beard": "beard" if p.beard else "none",
        "expression": p.expression,
        "shirt": p.shirt,
        "background": p.background,
    }
