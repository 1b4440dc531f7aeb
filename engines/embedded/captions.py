"""Scenes in words: synonyms, word order, and leaving things out. No torch here."""

from __future__ import annotations

from random import Random

from engines.embedded import portrayal
from engines.embedded.scene import Group, Landscape, Portrait, Scene, Still, Thing

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
PLURALS = {"box": "boxes", "rhombus": "rhombuses"}
"""Where it is not the word with an s."""
COUNT_WORDS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4"), 5: ("five", "5")}
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
WEATHER_WORDS = {
    "rain": ("in the rain", "in heavy rain", "with rain", "in rainy weather"),
    "snowfall": ("in falling snow", "with falling snow", "in snowfall", "with snowfall"),
    "fog": ("in fog", "in the fog", "in thick fog", "in foggy weather"),
}
WEATHER_HEADS = {
    "rain": ("rain over {}", "rainy weather over {}"),
    "snowfall": ("falling snow over {}", "snowfall over {}"),
    "fog": ("fog over {}", "foggy weather over {}"),
}
WEATHER_ADJECTIVES = {"rain": "rainy", "fog": "foggy"}
STYLE_WORDS = {
    "watercolor": ("in watercolor style", "in watercolor", "watercolor style", "as a watercolor"),
    "neon": ("in neon style", "neon style", "in neon light", "neon lights"),
    "snow": ("in the snow", "covered in snow", "in snow style", "snow style"),
    "film noir": ("film noir", "in film noir style", "film noir style"),
    "line art": ("line art", "as line art", "in line art style"),
    "jungle": ("in the jungle", "in a jungle", "jungle style"),
    "mars": ("on mars", "on planet mars", "mars style"),
    "vibrant": ("in vibrant colors", "vibrant colors", "vibrant color style", "in vivid colors"),
}
STYLE_HEADS = {
    "watercolor": ("a watercolor of {}", "watercolor of {}", "watercolor painting of {}"),
    "neon": ("neon lights, {}", "neon sign of {}"),
    "snow": ("snow style, {}",),
    "film noir": ("film noir, {}", "film noir of {}"),
    "line art": ("line art of {}", "line drawing of {}"),
    "jungle": ("jungle style, {}",),
    "mars": ("mars style, {}",),
    "vibrant": ("vibrant picture of {}", "vibrant colors, {}"),
}
LONGEST = 30
"""Words and commas of a caption: with a start and an end they fill 32 tokens of a short text encoder."""
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


def _background(colour: str, rng: Random, openness: float) -> str:
    if rng.random() < openness:
        return ""
    words = rng.choice(("on a {} background", "on a {} background", "on a {} background", "on {}"))
    return words.format(colour_word(colour, rng)).replace("a orange", "an orange")


def _still(scene: Still, rng: Random, openness: float, plain: bool) -> str:
    background = _background(scene.background, rng, openness)
    first = _thing(scene.things[0], rng, openness)
    if scene.relation is not None:
        second = _thing(scene.things[1], rng, openness)
        if scene.relation == "left of" and not plain and rng.random() < 0.2:
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


def _group(scene: Group, rng: Random, openness: float) -> str:
    words = ["some" if rng.random() < openness else rng.choice(COUNT_WORDS[scene.count])]
    if rng.random() >= openness:
        words.append(colour_word(scene.colour, rng))
    one = "shape" if rng.random() < openness else rng.choice(SHAPE_WORDS[scene.shape])
    words += [PLURALS.get(one, f"{one}s"), _background(scene.background, rng, openness)]
    return " ".join(words).strip()


def _clear(words: str) -> bool:
    """Whether the words contradict rain, snow and fog."""
    return any(word in words for word in ("clear", "sunny", "starry"))


def _landscape(scene: Landscape, rng: Random, openness: float, plain: bool) -> str:
    ground = rng.choice(GROUND_WORDS[scene.ground])
    coloured = plain or scene.hill_colour != "green" or rng.random() < 0.5
    if scene.ground == "hills" and coloured and rng.random() >= openness:
        ground = f"{scene.hill_colour} {ground}"
    if rng.random() < openness:
        ground = "a landscape"
    sky = ""
    if rng.random() >= openness:
        table = SKY_WORDS if rng.random() < 0.6 else TIME_WORDS
        sky = rng.choice([w for w in table[scene.sky] if scene.weather is None or not _clear(w)])
        if table is SKY_WORDS:
            sky = f"{'under' if rng.random() < 0.7 else 'with'} {_article(sky, rng)}"
    extras = []
    for what, side in ((scene.prop, scene.prop_side), (scene.light, scene.light_side)):
        if what is None or (not plain and rng.random() < 0.05 + openness):
            continue
        article = "the" if what in ("sun", "moon") and rng.random() < 0.5 else "a"
        where = "" if not plain and rng.random() < 0.2 else " " + rng.choice(SIDE_WORDS[side])
        extras.append(f"{article} {what}{where}")
    if scene.prop is not None and extras and extras[0].split()[1] == scene.prop and rng.random() < 0.2:
        preposition = "on" if scene.ground in ("sea", "hills", "snow") else "in"
        head = f"{extras.pop(0)} {preposition} {ground}"
    else:
        head = ground
    words = f"{head} {sky}".strip()
    if extras:
        words += rng.choice((" with ", ", ", " and ")) + " and ".join(extras)
    return words if scene.weather is None else _in_weather(words, scene.weather, rng)


def _in_weather(words: str, weather: str, rng: Random) -> str:
    draw = rng.random()
    if draw < 0.2:
        return rng.choice(WEATHER_HEADS[weather]).format(words)
    if draw < 0.4 and weather in WEATHER_ADJECTIVES and words.split()[0] not in ("a", "an", "the"):
        return f"{WEATHER_ADJECTIVES[weather]} {words}"
    return words + rng.choice((" ", ", ")) + rng.choice(WEATHER_WORDS[weather])


def _in_style(words: str, style: str, rng: Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(STYLE_HEADS[style]).format(words)
    return words + rng.choice((" ", ", ")) + rng.choice(STYLE_WORDS[style])


def _whole(scene: Scene, rng: Random, openness: float, plain: bool) -> str:
    words = _bare(scene, rng, openness, plain)
    return words if scene.style is None else _in_style(words, scene.style, rng)


def _bare(scene: Scene, rng: Random, openness: float, plain: bool) -> str:
    """The scene without its style."""
    if isinstance(scene, Portrait):
        return portrayal.describe(scene, rng, openness, plain)
    if isinstance(scene, Landscape):
        return _landscape(scene, rng, openness, plain)
    if isinstance(scene, Group):
        return _group(scene, rng, openness)
    return _still(scene, rng, openness, plain)


def _length(words: str) -> int:
    return len(words.replace(",", " ,").split())


def caption(scene: Scene, rng: Random, plain: bool = False) -> str:
    """One way of saying the scene, at most LONGEST long; three in ten leave things open.

    `plain` captions name all that can be measured (a thing without a place word is in the center, one without
    a size word of medium size) and nothing else.
    """
    openness = 0.0 if plain or rng.random() < 0.7 else rng.choice((0.2, 0.5, 0.8))
    words = _whole(scene, rng, openness, plain)
    while _length(words) > LONGEST:
        words = _whole(scene, rng, openness, plain)
    if plain:
        return words
    spare = LONGEST - _length(words)
    if rng.random() < 0.1 and spare >= 12:
        words = f"{rng.choice(FILLERS)} {words}"
    if rng.random() < 0.08 and spare >= 12:
        words = f"{words}, {rng.choice(TAILS)}"
    if rng.random() < 0.06 and spare >= 12:
        stray = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 6)))
        at = rng.randint(0, words.count(" ") + 1)
        split = words.split(" ")
        words = " ".join([*split[:at], stray, *split[at:]])
    return words


def lexicon() -> list[str]:
    """Every word the grammar knows, sorted; plus a few that people type anyway."""
    texts: list[str] = [*FILLERS, *TAILS, "a an the and with on in at under of shape background landscape"]
    texts += ["next to beside sun moon tree house boat sky color colour it is two one"]
    things = (COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, PLACE_WORDS, RELATION_WORDS)
    lands = (SKY_WORDS, TIME_WORDS, GROUND_WORDS, SIDE_WORDS, WEATHER_WORDS, WEATHER_HEADS)
    for table in (*things, *lands, STYLE_WORDS, STYLE_HEADS):
        texts += [phrase for phrases in table.values() for phrase in phrases]
    texts += [PLURALS.get(word, f"{word}s") for words in SHAPE_WORDS.values() for word in (*words, "shape")]
    texts += [*WEATHER_ADJECTIVES.values(), "some two three four five group person people face"]
    texts += portrayal.phrases()
    texts.append("red orange yellow green cyan blue purple pink brown white gray black light")
    return sorted({word for text in texts for word in text.replace(",", " ").replace("{}", " ").split()})
