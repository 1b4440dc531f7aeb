"""Pictures from worker processes: seeded, in order, and none twice."""

from itertools import islice
from random import Random

import pytest
import torch
from torch import Generator

from engines.embedded.painters import paint


def draw(rng: Random, generator: Generator) -> tuple[float, torch.Tensor]:
    return rng.random(), torch.rand(3, generator=generator)


def painted(workers: int, seed: int, count: int) -> list[tuple[float, ...]]:
    rng, generator = Random(seed), Generator().manual_seed(seed)
    return [(number, *row.tolist()) for number, row in islice(paint(draw, workers, rng, generator), count)]


def test_without_workers_the_given_chance_is_used_up():
    rng, generator = Random(4), Generator().manual_seed(4)
    first, row = next(paint(draw, 0, rng, generator))
    assert first == Random(4).random()
    assert torch.equal(row, torch.rand(3, generator=Generator().manual_seed(4)))
    assert rng.random() != first


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.timeout(60)
def test_workers_draw_the_same_for_the_same_seed_and_nothing_twice():
    once = painted(2, seed=4, count=8)
    assert once == painted(2, seed=4, count=8)
    assert len({numbers for numbers in once}) == 8
    assert not set(once) & set(painted(2, seed=5, count=8))
