"""Drawing over, painting out, guidance and seeds: what is measured on several pictures at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bench.exam.judge import Marker, Tally, pooled, tally
from bench.exam.order import Order, Paint, png
from bench.exam.papers import Question, one_thing, open_paper, other_thing
from bench.figures import spearman
from engines.embedded.captions import caption
from engines.embedded.render import place_of, render
from engines.embedded.scene import Still

STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FREE = 0.6
"""From this strength on a picture is held to its prompt."""
SEAM_CELLS = 2
"""Cells of the codec, 8 pixels each, around a mask that a filled area may bleed into."""
TASKS = ("what was drawn", "another thing", "another picture")
ASKED = ("background colour", "object colour", "position", "shape")
"""Marks of a picture drawn over: all that its prompt names."""
FILLED = ("object colour", "shape")
"""Marks of a filled mask: the ground is given and the mask says where."""


@dataclass(frozen=True)
class Sweep:
    """Image to image over STRENGTHS. distance[task]: mean absolute difference to the drawing, by strength."""

    drawings: Tensor  # [N, 3, S, S]
    prompts: dict[str, list[str]]
    pictures: dict[str, Tensor]  # [N, strengths, 3, S, S]
    distance: dict[str, list[float]]
    rank: dict[str, float]  # of similarity against falling strength, over the means
    rank_single: dict[str, float]  # the same for each drawing, then the mean
    followed: dict[str, dict[float, Tally]]


@dataclass(frozen=True)
class Filling:
    """Inpainting. outside: mean absolute difference in levels of 255, by whether only the mask may change."""

    sources: Tensor
    masks: Tensor  # [N, 1, S, S], 1 where it is filled
    prompts: list[str]
    pictures: dict[bool, Tensor]
    outside: dict[bool, float]
    inside: dict[bool, Tally]


@dataclass(frozen=True)
class Freedom:
    """Open captions at several guidance scales.

    variation: distance between pictures of one caption, seeds apart, as a share of that between captions.
    gained, lost: marks right at the last scale and wrong at the first, of the same caption and seed, and the
    other way round.
    """

    adherence: dict[float, Tally]
    variation: dict[float, float]
    gained: int
    lost: int


def rough(scene: Still, side: int, seed: int) -> Tensor:
    """The scene as a hand would draw it: flat, wobbly, the colours a little off. [3, side, side]."""
    generator = Generator().manual_seed(seed)
    flat = render([scene], side, generator, jitter=0.0)
    bend = 0.05 * torch.randn(1, 2, 5, 5, generator=generator)
    bend = F.interpolate(bend, (side, side), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    still = F.affine_grid(torch.eye(2, 3)[None], [1, 3, side, side], align_corners=False)
    drawn = F.grid_sample(flat, still + bend, padding_mode="border", align_corners=False)[0]
    return (drawn + 0.05 * torch.randn(3, 1, 1, generator=generator)).clamp(0, 1)


def sweep(judge: Marker, paint: Paint, side: int, count: int, strengths: Sequence[float], seed: int) -> Sweep:
    """Each drawing is redrawn under three prompts: its own, one for another thing there, and a stranger's."""
    rng = Random(seed)
    own = one_thing(count, seed)
    drawings = torch.stack([rough(_still(q), side, q.seed) for q in own])
    asked = {"what was drawn": own}
    swapped = [replace(q, scene=other_thing(_still(q), rng)) for q in own]
    asked["another thing"] = [replace(q, prompt=caption(q.scene, rng, plain=True)) for q in swapped]
    strangers = [*own[1:], own[0]]
    asked["another picture"] = [replace(q, seed=d.seed) for q, d in zip(strangers, own, strict=True)]
    pictures, distance, rank, single, followed = {}, {}, {}, {}, {}
    for task, questions in asked.items():
        orders = [
            Order(q.prompt, q.seed, strength=strength, image=png(drawing))
            for q, drawing in zip(questions, drawings, strict=True)
            for strength in strengths
        ]
        drawn = paint(orders, f"image to image, {task}").unflatten(0, (count, len(strengths)))
        away = (drawn - drawings.unsqueeze(1)).abs().mean((2, 3, 4))
        pictures[task], distance[task] = drawn, away.mean(0).tolist()
        rank[task] = spearman(strengths, distance[task])
        single[task] = sum(spearman(strengths, row) for row in away.tolist()) / count
        followed[task] = {
            strength: tally(judge.marks(drawn[:, at], questions))
            for at, strength in enumerate(strengths)
            if strength >= FREE
        }
    prompts = {task: [q.prompt for q in questions] for task, questions in asked.items()}
    return Sweep(drawings, prompts, pictures, distance, rank, single, followed)


def filling(judge: Marker, paint: Paint, side: int, count: int, seed: int) -> Filling:
    """A thing is painted out of a rendered picture and another one asked for in its place."""
    rng, generator = Random(seed), Generator().manual_seed(seed)
    own = one_thing(count, seed)
    sources = render([_still(q) for q in own], side, generator)
    scenes = [other_thing(_still(q), rng) for q in own]
    asked = [
        replace(q, scene=s, prompt=caption(s, rng, plain=True)) for q, s in zip(own, scenes, strict=True)
    ]
    masks = torch.stack([hole(_still(q), side) for q in own])
    kept = F.max_pool2d(masks, 16 * SEAM_CELLS + 1, 1, 8 * SEAM_CELLS) == 0
    pictures, outside, inside = {}, {}, {}
    for only in (False, True):
        orders = [
            Order(q.prompt, q.seed, image=png(source), mask=png(mask.expand(3, -1, -1)), mask_only=only)
            for q, source, mask in zip(asked, sources, masks, strict=True)
        ]
        pictures[only] = paint(orders, "inpainting")
        away = (pictures[only] - png_levels(sources)).abs().mean(1, keepdim=True)
        outside[only] = 255 * float(away[kept].mean())
        inside[only] = tally(judge.marks(pictures[only], asked))
    return Filling(sources, masks, [q.prompt for q in asked], pictures, outside, inside)


def png_levels(pictures: Tensor) -> Tensor:
    """As they are after a file of eight bits a channel."""
    return pictures.clamp(0, 1).mul(255).round() / 255


def hole(scene: Still, side: int) -> Tensor:
    """A square over the thing, wherever chance puts it, and its shadow, in whole cells: [1, S, S]."""
    x, y, radius = place_of(scene, 0)
    cells, reach = side // 8, 1.1 * radius + 0.08
    mask = torch.zeros(1, side, side)
    (left, right), (top, bottom) = (
        (max(0, int((at - reach) * cells)), min(cells, int((at + reach) * cells) + 1)) for at in (x, y)
    )
    mask[:, 8 * top : 8 * bottom, 8 * left : 8 * right] = 1
    return mask


def freedom(
    judge: Marker, paint: Paint, count: int, seeds: int, scales: Sequence[float], seed: int
) -> Freedom:
    questions = open_paper(count, seed)
    repeated = [q for q in questions for _ in range(seeds)]
    given, variation = {}, {}
    for scale in scales:
        orders = [
            Order(q.prompt, q.seed + 7919 * again, guidance=scale)
            for q in questions
            for again in range(seeds)
        ]
        drawn = paint(orders, f"guidance {scale:g}")
        given[scale] = judge.marks(drawn, repeated)
        variation[scale] = seed_share(drawn.unflatten(0, (count, seeds)))
    pairs = list(zip(given[scales[0]], given[scales[-1]], strict=True))
    gained = sum(high[mark] and not low[mark] for low, high in pairs for mark in low)
    lost = sum(low[mark] and not high[mark] for low, high in pairs for mark in low)
    return Freedom({scale: tally(marks) for scale, marks in given.items()}, variation, gained, lost)


def seed_share(pictures: Tensor) -> float:
    """Mean pixel distance between seeds of one caption over that between captions: [N, seeds, 3, S, S]."""
    between_seeds = (pictures[:, 1:] - pictures[:, :-1]).abs().mean()
    others = torch.roll(pictures, 1, 0)
    return float(between_seeds / (pictures - others).abs().mean().clamp(min=1e-6))


def seeds(paint: Paint, questions: Sequence[Question], count: int, again: int) -> float:
    """seed_share of `count` of these captions, which say everything, drawn with `again` seeds each."""
    some = questions[:: max(1, len(questions) // count)][:count]
    orders = [Order(q.prompt, q.seed + 7919 * turn) for q in some for turn in range(again)]
    return seed_share(paint(orders, "seeds").unflatten(0, (len(some), again)))


def followed(tallied: Tally) -> tuple[int, int]:
    """(right, asked) of all that the prompt of a picture drawn over names."""
    return pooled(tallied, ASKED)


def _still(question: Question) -> Still:
    assert isinstance(question.scene, Still)
    return question.scene
