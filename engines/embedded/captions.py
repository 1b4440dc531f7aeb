"""Scenes in words: synonyms, word order, and leaving things out. No torch here."""

from __future__ import annotations

from random import Random

from engines.embedded.scene import Landscape, Scene, Still, Thing

COLOUR_WORDS = {
    "gray": ("gray", "grey"),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise", "light blue"),
}
SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "dot", "ball"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "diamond": ("diamond", "rhombus"),
}
SIZE_WORDS = {"small": ("small", "tiny", "little"), "medium": ("medium",), "big": ("big", "large", "huge")}
PLACE_WORDS = {
    "center": ("in the center", "in the middle", "in the centre"),
    "top left": ("in the top left", "in the top left corner", "in the upper left"),
    "top": ("at the top",),
    "top right": ("in the top right", "in the top right corner", "in the upper right"),
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "bottom left": ("in the bottom left", "in the bottom left corner", "in the lower left"),
    "bottom": ("at the bottom",),
    "bottom right": ("in the bottom right", "in the bottom right corner", "in the lower right"),
}
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
SKY_WORDS = {
    "day": ("blue sky", "clear sky", "sunny sky", "bright sky", "day sky"),
    "night": ("night sky", "night sky", "starry sky", "dark sky", "starry night sky"),
    "sunset": ("sunset sky", "sunset sky", "orange sky", "evening sky"),
    "cloudy": ("cloudy sky", "cloudy sky", "gray sky", "grey sky", "overcast sky"),
}
TIME_WORDS = {
    "day": ("by day", "in daylight", "on a sunny day"),
    "night": ("at night", "at night", "by night"),
    "sunset": ("at sunset", "at sunset", "at dusk", "in the evening", "at sunrise"),
    "cloudy": ("on a cloudy day", "on a gray day", "under clouds"),
}
GROUND_WORDS = {
    "hills": ("hills", "hills", "rolling hills"),
    "mountains": ("mountains", "mountains", "snowy mountains", "a mountain"),
    "sea": ("the sea", "the ocean", "a sea", "the water"),
    "desert": ("a desert", "the desert", "sand dunes", "desert"),
    "snow": ("snow", "snowy hills", "a snowy landscape", "white hills"),
    "forest": ("a forest", "the forest", "pine trees", "the woods", "forest"),
    "field": ("a field", "a wheat field", "a golden field", "fields"),
    "city": ("a city", "the city", "a skyline", "city buildings", "houses of a city"),
}
SIDE_WORDS = {"left": ("on the left",), "middle": ("in the middle",), "right": ("on the right",)}
FILLERS = (
    "a picture of",
    "a drawing of",
    "an image of",
    "a painting of",
    "please draw",
    "illustration of",
    "simple",
)
TAILS = ("flat colors", "vector art", "beautiful", "minimal", "high quality", "4k", "clean")


def _article(words: str, rng: Random) -> str:
    if rng.random() < 0.12:
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def colour_word(colour: str, rng: Random) -> str:
    return rng.choice(COLOUR_WORDS.get(colour, (colour,)))


def _thing(thing: Thing, rng: Random, openness: float) -> str:
    words = [] if thing.size == "medium" else [rng.choice(SIZE_WORDS[thing.size])]
    if words and rng.random() < openness:
        words = []
    if rng.random() >= openness:
        words.append(colour_word(thing.colour, rng))
    words.append("shape" if rng.random() < openness else rng.choice(SHAPE_WORDS[thing.shape]))
    return _article(" ".join(words), rng)


def _still(scene: Still, rng: Random, openness: float) -> str:
    background = ""
    if rng.random() >= openness:
        name = colour_word(scene.background, rng)
        background = rng.choice(("on a {} background", "on a {} background", "on a {} background", "on {}"))
        background = background.format(name).replace("a orange", "an orange")
    first = _thing(scene.things[0], rng, openness)
    if scene.relation is not None:
        second = _thing(scene.things[1], rng, openness)
        if scene.relation == "left of" and rng.random() < 0.4:
            first = f"{first} {rng.choice(('and', 'next to', 'beside'))} {second}"
        else:
            first = f"{first} {rng.choice(RELATION_WORDS[scene.relation])} {second}"
        return f"{first} {background}".strip()
    place = ""
    thing = scene.things[0]
    named = thing.place != "center" or rng.random() < 0.15
    if named and rng.random() >= openness:
        place = rng.choice(PLACE_WORDS[thing.place])
    parts = [p for p in ((place, background) if rng.random() < 0.6 else (background, place)) if p]
    if place and rng.random() < 0.1:
        return ", ".join([place, " ".join([first, background]).strip()])
    return " ".join([first, *parts])


def _landscape(scene: Landscape, rng: Random, openness: float) -> str:
    ground = rng.choice(GROUND_WORDS[scene.ground])
    if (
        scene.ground == "hills"
        and (scene.hill_colour != "green" or rng.random() < 0.5)
        and rng.random() >= openness
    ):
        ground = f"{scene.hill_colour} {ground}"
    if rng.random() < openness:
        ground = "a landscape"
    sky = ""
    if rng.random() >= openness:
        sky = rng.choice(SKY_WORDS[scene.sky])
        sky = f"under {_article(sky, rng)}" if rng.random() < 0.7 else f"with {_article(sky, rng)}"
        if rng.random() < 0.4:
            sky = rng.choice(TIME_WORDS[scene.sky])
    extras = []
    for what, side in ((scene.prop, scene.prop_side), (scene.light, scene.light_side)):
        if what is None or rng.random() < 0.15 + openness:
            continue
        article = "the" if what in ("sun", "moon") and rng.random() < 0.5 else "a"
        where = "" if rng.random() < 0.3 else " " + rng.choice(SIDE_WORDS[side])
        extras.append(f"{article} {what}{where}")
    if scene.prop is not None and extras and extras[0].split()[1] == scene.prop and rng.random() < 0.2:
        preposition = "on" if scene.ground in ("sea", "hills", "snow") else "in"
        head = f"{extras.pop(0)} {preposition} {ground}"
    else:
        head = ground
    words = f"{head} {sky}".strip()
    if extras:
        words += rng.choice((" with ", ", ", " and ")) + " and ".join(extras)
    return words


def caption(scene: Scene, rng: Random, plain: bool = False) -> str:
    """One way of saying the scene. Three captions in ten leave things open, unless `plain`."""
    openness = 0.0 if plain or rng.random() < 0.7 else rng.choice((0.2, 0.5, 0.8))
    words = _still(scene, rng, openness) if isinstance(scene, Still) else _landscape(scene, rng, openness)
    if not plain and rng.random() < 0.1:
        words = f"{rng.choice(FILLERS)} {words}"
    if not plain and rng.random() < 0.08:
        words = f"{words}, {rng.choice(TAILS)}"
    if not plain and rng.random() < 0.06:
        stray = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 6)))
        at = rng.randint(0, words.count(" ") + 1)
        split = words.split(" ")
        words = " ".join([*split[:at], stray, *split[at:]])
    return words


def lexicon() -> list[str]:
    """Every word the grammar knows, sorted; plus a few that people type anyway."""
    texts: list[str] = [*FILLERS, *TAILS, "a an the and with on in at under of shape background landscape"]
    texts += ["next to beside sun moon tree house boat sky color colour it is two one"]
    tables = (COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, PLACE_WORDS, RELATION_WORDS)
    for table in (*tables, SKY_WORDS, TIME_WORDS, GROUND_WORDS, SIDE_WORDS):
        texts += [phrase for phrases in table.values() for phrase in phrases]
    texts.append("red orange yellow green cyan blue purple pink brown white gray black light")
    return sorted({word for text in texts for word in text.replace(",", " ").split()})
