"""Looks: what is measured rises with every defect a picture can have, and not with what it shows."""

import pytest
import torch
import torch.nn.functional as F

from bench.exam.finish import distance, pyramid
from bench.exam.papers import paper, quotas
from bench.exam.sitting import drawn


@pytest.fixture(scope="module")
def renders():
    questions = paper(quotas(40), False, 3)
    return drawn(questions, 64, 1), drawn(questions, 64, 2)


def blurred(pictures):
    return F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


def grainy(pictures):
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(4))
    return (pictures + 0.04 * noise).clamp(0, 1)


def haloed(pictures):
    return (pictures + 1.5 * (pictures - blurred(pictures))).clamp(0, 1)


def washed(pictures):
    return 0.5 + 0.6 * (pictures - 0.5)


def test_the_same_pictures_are_alike(renders):
    assert distance(renders[0], renders[0]) == 0


@pytest.mark.parametrize("defect", [blurred, grainy, haloed, washed])
def test_a_defect_is_further_from_renders_than_renders_from_each_other(renders, defect):
    own = distance(renders[1], renders[0])
    assert distance(defect(renders[1]), renders[0]) > 1.5 * own


def test_more_of_a_defect_is_further(renders):
    once, twice = blurred(renders[1]), blurred(blurred(renders[1]))
    assert distance(twice, renders[0]) > 1.1 * distance(once, renders[0])


def test_a_pyramid_splits_a_picture_down_to_32_pixels():
    assert [level.shape[-1] for level in pyramid(torch.rand(1, 3, 256, 256))] == [256, 128, 64]
