"""What a picture shows beside what its caption says: right or wrong, mark by mark. Never asks the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from bench.exam import faces
from bench.exam.eye import SCENE, Eye, load, shrunk
from bench.exam.papers import Question
from bench.exam.things import SIDE, Found, Seen, look
from engines.embedded.likeness import FIELDS
from engines.embedded.person import Portrait, portrait_attributes
from engines.embedded.scene import Group, Landscape, Still, attributes

Marks = dict[str, bool]
Tally = dict[str, tuple[int, int]]
"""(right, asked) by mark."""
AVATAR = tuple(f"avatar: {name}" for name in FIELDS)
WORDS = ("sky and time", "ground", "hill colour", "weather")
"""The marks of a landscape that the bar for scene words counts."""
_NAMES = {"sky": "sky and time"}


class Marker(Protocol):
    """A Judge, or several: see bench.exam.jury."""

    def marks(self, pictures: Tensor, questions: Sequence[Question]) -> list[Marks]:
        """One set of marks per picture of [N, 3, S, S], 0..1."""


@dataclass(frozen=True)
class Judge:
    """`eye` reads landscapes and styles; everything else is arithmetic on pixels. Sees SIDE pixels a side."""

    eye: Eye

    def marks(self, pictures: Tensor, questions: Sequence[Question]) -> list[Marks]:
        """One set of marks per picture of [N, 3, S, S], 0..1."""
        pictures = shrunk(pictures, SIDE)
        read = self.eye.read(pictures)
        given = []
        for picture, seen, question in zip(pictures, read, questions, strict=True):
            marks = _marks(picture, seen, question)
            given.append({k: v for k, v in marks.items() if not question.named or k in question.named})
        return given


def judge() -> Judge:
    return Judge(load())


def _marks(picture: Tensor, read: dict[str, str], question: Question) -> Marks:
    scene = question.scene
    if scene.style is not None:
        return {"style": read["style"] == scene.style}
    if isinstance(scene, Portrait):
        return _portrait(picture, scene)
    if isinstance(scene, Landscape):
        return _landscape(read, attributes(scene))
    seen = look(picture)
    marks = {"background colour": seen.background == scene.background}
    if isinstance(scene, Group):
        return marks | _group(seen, scene)
    return marks | (_thing(seen, scene) if scene.relation is None else _pair(seen, scene))


def _portrait(picture: Tensor, scene: Portrait) -> Marks:
    """The caption names all there is; no more than that of hat, eyewear and beard is a mark of its own."""
    seen = portrait_attributes(scene)
    named = [name for name in FIELDS if seen[name] != "none"]
    unasked = [name for name in ("eyewear", "hat", "beard") if seen[name] == "none"]
    shows = faces.shown(picture, scene, [*named, *unasked])
    marks = {f"avatar: {name}": shows[name] for name in named}
    return marks | ({"avatar, nothing unasked": all(shows[name] for name in unasked)} if unasked else {})


def _landscape(read: dict[str, str], asked: dict[str, str]) -> Marks:
    marks = {_NAMES.get(k, k): read[k] == asked[k] for k in SCENE if asked[k] != "none"}
    unasked = [k for k in ("light", "prop", "weather") if asked[k] == "none"]
    if unasked:
        marks["nothing unasked"] = all(read[k] == "none" for k in unasked)
    return marks


def _thing(seen: Seen, scene: Still) -> Marks:
    asked = scene.things[0]
    if not seen.things:
        names = ("object colour", "colour at its place", "position", "shape", "size", "one thing only")
        return dict.fromkeys(names, False)
    first = seen.things[0]
    return {
        "object colour": first.colour == asked.colour,
        "colour at its place": any(t.place == asked.place and t.colour == asked.colour for t in seen.things),
        "position": first.place == asked.place,
        "shape": first.shape == asked.shape,
        "size": first.size == asked.size,
        "one thing only": len(seen.things) == 1,
    }


def _group(seen: Seen, scene: Group) -> Marks:
    most = {
        what: Counter(getattr(thing, what) for thing in seen.things).most_common(1)
        for what in ("colour", "shape")
    }
    return {
        "count": len(seen.things) == scene.count,
        "object colour": bool(most["colour"]) and most["colour"][0][0] == scene.colour,
        "shape": bool(most["shape"]) and most["shape"][0][0] == scene.shape,
    }


def _pair(seen: Seen, scene: Still) -> Marks:
    """Who is who is told by colour; a pair of one colour is no pair."""
    wrong = dict.fromkeys(("relation", "colours of both", "shapes of both"), False)
    if len(seen.things) < 2:
        return wrong
    by_name = {thing.colour: thing for thing in seen.things[1::-1]}
    first, second = (by_name.get(thing.colour) for thing in scene.things)
    if first is None or second is None:
        return wrong
    shapes = [thing.shape for thing in (first, second)] == [thing.shape for thing in scene.things]
    return {
        "relation": relation(first, second) == scene.relation,
        "colours of both": True,
        "shapes of both": shapes,
    }


def relation(first: Found, second: Found) -> str:
    """Where the first is, seen from the second: one of RELATIONS."""
    x, y = first.x - second.x, first.y - second.y
    if abs(x) > abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def tally(given: Iterable[Marks]) -> Tally:
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for marks in given:
        right.update(mark for mark, fine in marks.items() if fine)
        asked.update(marks.keys())  # of a mapping it would add the values
    return {mark: (right[mark], asked[mark]) for mark in asked}


def pooled(tallied: Tally, marks: Sequence[str]) -> tuple[int, int]:
    """(right, asked) over several marks."""
    rows = [tallied[mark] for mark in marks if mark in tallied]
    return sum(r for r, _ in rows), sum(n for _, n in rows)


def codec(folder: Path, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """There and back through the picture codec of a model: the best that model could draw."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(folder, subfolder="vae", dtype=torch.float32, local_files_only=True)
    vae.eval().to(device)

    @torch.no_grad()
    def through(pictures: Tensor) -> Tensor:
        parts = [vae(part.to(device) * 2 - 1).sample.cpu() for part in pictures.split(32)]
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)

    return through
