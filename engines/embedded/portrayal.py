"""Portraits in words: which attributes to name, and a sentence or a list that names them. No torch here."""

from __future__ import annotations

from collections.abc import Set
from random import Random

from engines.embedded.palette import COLOURS
from engines.embedded.person import EYE_COLOURS, HAIR_COLOURS, Portrait, portrait_attributes

WHO_WORDS = {
    "man": ("man", "man", "guy"),
    "woman": ("woman", "woman", "lady"),
    "boy": ("boy",),
    "girl": ("girl",),
    "none": ("person", "person", "character", "face"),
}
SKIN_WORDS = {
    "light": ("light", "pale", "fair"),
    "tan": ("tan", "tanned"),
    "brown": ("brown",),
    "dark": ("dark",),
}
TONE_WORDS = {"gray": ("gray", "grey"), "purple": ("purple", "violet"), "cyan": ("cyan", "turquoise")}
HAIR_WORDS = {"blonde": ("blonde", "blond"), "red": ("red", "ginger"), "gray": ("gray", "grey")}
EYEWEAR_WORDS = {"glasses": ("glasses", "glasses", "spectacles"), "sunglasses": ("sunglasses",)}
HAT_WORDS = {
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "beanie", "knit hat"),
    "top hat": ("top hat",),
}
SHIRT_WORDS = ("shirt", "shirt", "top", "sweater")
MOOD_ADJECTIVES = {
    "happy": ("happy", "smiling", "cheerful"),
    "sad": ("sad", "unhappy"),
    "surprised": ("surprised", "shocked"),
    "neutral": ("serious", "calm"),
}
MOOD_PHRASES = {
    "happy": ("smiling", "with a smile", "happy"),
    "sad": ("sad", "frowning", "looking sad"),
    "surprised": ("surprised", "with an open mouth", "looking surprised"),
    "neutral": ("neutral expression", "serious"),
}
FRAMES = (
    *(
        "{}",
        "{}",
        "{}",
        "a portrait of {}",
        "a portrait of {}",
        "portrait of {}",
        "an avatar of {}",
        "avatar of {}",
    ),
    *("a cartoon of {}", "a headshot of {}", "the face of {}", "a photo of {}"),
)
OFTEN = {
    **{
        "who": 0.95,
        "hair style": 0.85,
        "hair colour": 0.85,
        "eyewear": 0.92,
        "hat": 0.95,
        "hat colour": 0.92,
    },
    **{"beard": 0.9, "expression": 0.75, "background": 0.75, "skin": 0.5, "eyes": 0.55, "shirt": 0.45},
}
"""How often a caption that leaves nothing open on purpose still names each attribute."""
LONGEST = 26
"""Words and commas of a portrait's caption; a style and the marks of start and end still fit 32 tokens."""


def _a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _tone(colour: str, rng: Random) -> str:
    return rng.choice(TONE_WORDS.get(colour, (colour,)))


def _hair(p: Portrait, named: Set[str], rng: Random) -> str:
    words = [p.hair] if "hair style" in named else []
    if "hair colour" in named:
        words.append(rng.choice(HAIR_WORDS.get(p.hair_colour, (p.hair_colour,))))
    if len(words) == 2 and rng.random() < 0.25:
        words.reverse()
    return " ".join([*words, "hair"]) if words else ""


def _hat(p: Portrait, named: Set[str], rng: Random) -> str:
    if p.hat is None or p.hat_colour is None or not named & {"hat", "hat colour"}:
        return ""
    colour = [_tone(p.hat_colour, rng)] if "hat colour" in named else []
    return " ".join([*colour, rng.choice(HAT_WORDS[p.hat]) if "hat" in named else "hat"])


def portray(p: Portrait, named: Set[str], rng: Random, listed: bool = False) -> str:
    """Words for the attributes `named` (keys of portrait_attributes), no others; `listed` is shorter."""
    who = rng.choice(WHO_WORDS[p.who if "who" in named else "none"])
    adjectives, mood = [], ""
    if "expression" in named:
        if listed or rng.random() < 0.6:
            adjectives.append(rng.choice(MOOD_ADJECTIVES[p.expression]))
        else:
            mood = rng.choice(MOOD_PHRASES[p.expression])
    has, wears = [], []
    if p.hair == "bald":
        if "hair style" in named:
            adjectives.append("bald")
    else:
        has.append(_hair(p, named, rng))
    if "skin" in named:
        has.append(f"{rng.choice(SKIN_WORDS[p.skin])} skin")
    if "eyes" in named:
        has.append(f"{p.eyes} eyes")
    if "beard" in named:
        if rng.random() < 0.3:
            adjectives.append("bearded")
        else:
            has.append("beard")
    if "eyewear" in named and p.eyewear is not None:
        wears.append(rng.choice(EYEWEAR_WORDS[p.eyewear]))
    wears.append(_hat(p, named, rng))
    if "shirt" in named:
        wears.append(f"{_tone(p.shirt, rng)} {rng.choice(SHIRT_WORDS)}")
    rng.shuffle(has)
    rng.shuffle(wears)
    has, wears = [w for w in has if w], [w for w in wears if w]
    head = " ".join([*adjectives, who])
    background = f"{_tone(p.background, rng)} background" if "background" in named else ""
    if listed:
        things = has + wears
        rng.shuffle(things)
        return ", ".join(w for w in (head, *things, mood, background) if w)
    words = rng.choice(FRAMES).format(_a(head))
    if rng.random() < 0.15:
        words = words.removeprefix("a ").removeprefix("an ")
    articled = [
        w if w.endswith(("glasses", "spectacles", "hair", "skin", "eyes")) else _a(w) for w in (*has, *wears)
    ]
    has, wears = articled[: len(has)], articled[len(has) :]
    if rng.random() < 0.5:
        has, wears = has + wears, []
    if has:
        words += rng.choice((" with ", " with ", ", ")) + _joined(has)
    if wears:
        words += rng.choice((" wearing ", " wearing ", " in ", ", ")) + _joined(wears)
    if mood:
        words += f", {mood}"
    if background:
        words += "," if mood else ""
        words += rng.choice((" on ", " on ", " against ")) + _a(background)
    return words


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def length(words: str) -> int:
    """Tokens of the words: a comma is one too."""
    return len(words.split()) + words.count(",")


def describe(p: Portrait, rng: Random, openness: float = 0.0, plain: bool = False) -> str:
    """A caption of at most LONGEST tokens. `plain` names all that is there, else chance decides."""
    seen = {key for key, value in portrait_attributes(p).items() if value != "none"}
    if plain:
        words = portray(p, seen, rng)
        return words if length(words) <= LONGEST else portray(p, seen, rng, listed=True)
    quiet = 0.35 if p.expression == "neutral" else 1.0
    odds = {
        key: OFTEN[key] * (quiet if key == "expression" else 1.0) * (1 - openness) for key in sorted(seen)
    }
    named = {key for key, chance in odds.items() if rng.random() < chance}
    limit, listed = LONGEST - (0 if p.style is None else 4), rng.random() < 0.3
    words = portray(p, named, rng, listed)
    while length(words) > limit:
        named.discard(rng.choice(sorted(named - {"who"})))
        words = portray(p, named, rng, listed)
    return words


def phrases() -> list[str]:
    """Every phrase of this grammar, for the lexicon."""
    tables = (
        WHO_WORDS,
        SKIN_WORDS,
        TONE_WORDS,
        HAIR_WORDS,
        EYEWEAR_WORDS,
        HAT_WORDS,
        MOOD_ADJECTIVES,
        MOOD_PHRASES,
    )
    texts = [phrase for table in tables for choices in table.values() for phrase in choices]
    texts += [*SHIRT_WORDS, *FRAMES, *COLOURS, *HAIR_COLOURS, *EYE_COLOURS]
    return [
        *texts,
        "short long curly bald hair skin eyes beard bearded hat wearing against background in with and",
    ]
