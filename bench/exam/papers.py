"""The questions of the exam: seeded captions of the grammar, ordinary ones and held-out combinations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from engines.embedded.captions import COUNT_WORDS, GROUND_WORDS, PLACE_WORDS, caption
from engines.embedded.scene import (
    COLOURS,
    COUNTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SKIES,
    STYLES,
    Group,
    Landscape,
    Portrait,
    Scene,
    Still,
    Thing,
    attributes,
    random_scene,
)

QUOTAS = {"thing": 180, "pair": 90, "group": 80, "landscape": 120, "portrait": 70, "styled": 64}
"""Captions of each kind in one paper. Their sum is what an ordinary paper has, and again a held-out one."""
SETS = {"ordinary": False, "held out": True}
"""Papers, and whether all their combinations are held out of training."""


def quotas(count: int) -> dict[str, int]:
    """About `count` captions in the proportions of QUOTAS, some of each kind."""
    return {kind: max(2, round(quota * count / sum(QUOTAS.values()))) for kind, quota in QUOTAS.items()}


@dataclass(frozen=True)
class Question:
    """A caption, the scene it tells, and the seed to draw it with. named: the marks it can be given, or ()
    for all that its kind of scene has."""

    scene: Scene
    prompt: str
    seed: int
    named: tuple[str, ...] = ()


def kind_of(scene: Scene) -> str:
    """A key of QUOTAS."""
    return "styled" if scene.style is not None else attributes(scene)["kind"]


def paper(quotas: Mapping[str, int], held_out: bool, seed: int) -> list[Question]:
    """Fresh captions that name all there is, no scene twice; all of held-out combinations, or none."""
    rng = Random(f"{seed} {held_out}")
    scenes: dict[Scene, None] = {}
    left = dict(quotas)
    while any(left.values()):
        scene = random_scene(rng, held_out=held_out)
        kind = kind_of(scene)
        if kind == "styled" and left[kind]:
            scene = _turned(scene, STYLES[left[kind] % len(STYLES)])
        if left[kind] and scene not in scenes:
            left[kind] -= 1
            scenes[scene] = None
    return [
        Question(scene, caption(scene, rng, plain=True), 1000 * seed + index)
        for index, scene in enumerate(scenes)
    ]


def _turned(scene: Scene, style: str) -> Scene:
    """In this style, if the scene can be; so that every style is asked for about as often."""
    wet = isinstance(scene, Landscape) and scene.weather is not None
    white = isinstance(scene, Landscape) and (scene.ground == "snow" or scene.weather == "snowfall")
    if (wet and style in ("neon", "line art")) or (white and style == "snow"):
        return scene
    return replace(scene, style=style)


def open_paper(count: int, seed: int) -> list[Question]:
    """Captions that leave most of the picture open; `named` says what they do not. Six forms in turn."""
    rng = Random(f"open {seed}")
    questions = []
    for index in range(count):
        form = FORMS[index % len(FORMS)]
        scene, prompt, marks = form(rng)
        questions.append(Question(scene, prompt.replace("a orange", "an orange"), 1000 * seed + index, marks))
    return questions


Form = tuple[Scene, str, tuple[str, ...]]


def _coloured(rng: Random) -> Form:
    colour, ground, shape = *rng.sample(list(COLOURS), 2), rng.choice(SHAPES)
    return Still((Thing(shape, colour),), ground), f"a {colour} {shape}", ("object colour", "shape")


def _grounded(rng: Random) -> Form:
    colour, ground, shape = *rng.sample(list(COLOURS), 2), rng.choice(SHAPES)
    words = f"a {shape} on a {ground} background"
    return Still((Thing(shape, colour),), ground), words, ("background colour", "shape")


def _placed(rng: Random) -> Form:
    colour, ground, shape = *rng.sample(list(COLOURS), 2), rng.choice(SHAPES)
    place = rng.choice([place for place in PLACES if place != "center"])
    words = f"a {shape} {PLACE_WORDS[place][0]}"
    return Still((Thing(shape, colour, place),), ground), words, ("position", "shape")


def _counted(rng: Random) -> Form:
    colour, ground, shape = *rng.sample(list(COLOURS), 2), rng.choice(SHAPES)
    count = rng.choice(COUNTS)
    words = f"{COUNT_WORDS[count][0]} {shape}s"
    return Group(shape, colour, count, ground), words, ("count", "shape")


def _related(rng: Random) -> Form:
    first, second, ground = rng.sample(list(COLOURS), 3)
    relation = rng.choice(RELATIONS)
    things = Thing(rng.choice(SHAPES), first), Thing(rng.choice(SHAPES), second)
    words = f"a {first} {things[0].shape} {relation} a {second} {things[1].shape}"
    return Still(things, ground, relation), words, ("relation", "shapes of both")


def _outdoors(rng: Random) -> Form:
    scene = Landscape(rng.choice(SKIES), rng.choice(list(GROUND_WORDS)))
    return scene, GROUND_WORDS[scene.ground][0], ("ground",)


FORMS = (_coloured, _grounded, _placed, _counted, _related, _outdoors)


def one_thing(count: int, seed: int) -> list[Question]:
    """Captions of one thing that is not small: what a person would draw over or paint out."""
    rng = Random(f"one {seed}")
    questions: list[Question] = []
    while len(questions) < count:
        scene = random_scene(rng)
        plain = isinstance(scene, Still) and scene.relation is None and scene.style is None
        if plain and isinstance(scene, Still) and scene.things[0].size != "small":
            questions.append(Question(scene, caption(scene, rng, plain=True), 1000 * seed + len(questions)))
    return questions


def other_thing(scene: Still, rng: Random) -> Still:
    """Another shape in another colour, in the same place on the same ground."""
    thing = scene.things[0]
    colour = rng.choice([c for c in COLOURS if c not in (thing.colour, scene.background)])
    shape = rng.choice([s for s in SHAPES if s != thing.shape])
    return replace(scene, things=(replace(thing, colour=colour, shape=shape),))


def people(questions: list[Question]) -> list[Question]:
    return [q for q in questions if isinstance(q.scene, Portrait) and q.scene.style is None]
