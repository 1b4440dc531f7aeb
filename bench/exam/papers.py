"""The questions of the exam: seeded captions of the grammar, ordinary ones and held-out combinations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from engines.embedded.captions import GROUND_WORDS, caption
from engines.embedded.scene import (
    COLOURS,
    SHAPES,
    STYLES,
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
    """Captions that leave most of the picture open; `named` says what they do not."""
    rng = Random(f"open {seed}")
    questions = []
    for index in range(count):
        colour, ground = rng.sample(list(COLOURS), 2)
        thing = Thing(rng.choice(SHAPES), colour)
        scene: Scene = Still((thing,), ground)
        if index % 3 == 0:
            prompt, marks = f"a {colour} {thing.shape}", ("object colour", "shape")
        elif index % 3 == 1:
            prompt, marks = f"a {thing.shape} on a {ground} background", ("background colour", "shape")
        else:
            scene = Landscape("day", rng.choice(list(GROUND_WORDS)))
            prompt, marks = GROUND_WORDS[scene.ground][0], ("ground",)
        questions.append(Question(scene, prompt.replace("a orange", "an orange"), 1000 * seed + index, marks))
    return questions


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
