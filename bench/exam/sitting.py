"""A sitting: a paper answered by whatever paints, at several numbers of steps, and the answers marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bench.exam import finish
from bench.exam.judge import Marker, Tally, tally
from bench.exam.order import Order, Paint
from bench.exam.papers import Question
from engines.embedded.render import render

Draw = Callable[[Sequence[str], Sequence[int], int, float], Tensor]
"""Prompts, seeds, steps and guidance to [N, 3, S, S] in 0..1."""
GUIDANCE = 4.0


@dataclass(frozen=True)
class Answered:
    """One paper: the judge's own marks on right pictures, and the model's by number of steps.

    renders and codec: of pictures that are right by construction, as they are and after the model's codec.
    looks: `finish.distance` to renders; own_look: that of renders drawn again.
    """

    questions: list[Question]
    renders: Tally
    codec: Tally | None
    marks: dict[int, Tally]
    looks: dict[int, float]
    own_look: float
    pictures: dict[int, Tensor]


def sit(
    marker: Marker,
    questions: list[Question],
    paint: Paint,
    steps: Sequence[int],
    seed: int,
    through: Callable[[Tensor], Tensor] | None = None,
    name: str = "",
    every: int = 1,
) -> Answered:
    """Let `paint` answer all questions at each number of steps.

    through: the model's codec, if known; it is judged on `every` so many-th picture, for it is slow on a CPU.
    """
    pictures = {
        n: paint([Order(q.prompt, q.seed, n, GUIDANCE) for q in questions], f"{name}, {n} steps")
        for n in steps
    }
    side = next(iter(pictures.values())).shape[-1]
    clean, again = (drawn(questions, side, seed + turn) for turn in (1, 2))
    return Answered(
        questions,
        tally(marker.marks(clean, questions)),
        tally(marker.marks(through(clean[::every]), questions[::every])) if through else None,
        {n: tally(marker.marks(pictures[n], questions)) for n in steps},
        {n: finish.distance(pictures[n], clean) for n in steps},
        finish.distance(again, clean),
        pictures,
    )


def drawn(questions: Sequence[Question], side: int, seed: int) -> Tensor:
    """What the renderer makes of the scenes: right by construction."""
    generator = Generator().manual_seed(seed)
    scenes = [q.scene for q in questions]
    return torch.cat([render(scenes[at : at + 64], side, generator) for at in range(0, len(scenes), 64)])


def painting(draw: Draw) -> Paint:
    """A Paint of a Draw: for orders without an image, steps and guidance the same in each call or not."""

    def paint(orders: Sequence[Order], what: str) -> Tensor:
        if any(order.image is not None for order in orders):
            raise ValueError("a Draw takes no image: examine drawings through a server")
        alike: dict[tuple[int, float], list[int]] = {}
        for row, order in enumerate(orders):
            alike.setdefault((order.steps, order.guidance), []).append(row)
        answers: dict[int, Tensor] = {}
        for (steps, guidance), rows in alike.items():
            asked = [orders[row] for row in rows]
            made = draw([o.prompt for o in asked], [o.seed for o in asked], steps, guidance)
            answers |= dict(zip(rows, made.float().cpu(), strict=True))
        return torch.stack([answers[row] for row in range(len(orders))])

    return paint
