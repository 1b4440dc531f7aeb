from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from engines.lcm import Lcm
from engines.messages import Job
from tests.engines import tiny


@pytest.fixture
def guarded(folder: Any) -> Lcm:
    """A pipeline whose checker knows one concept: the picture of seed 1."""
    ours = Lcm(str(folder(safety=True)), device="cpu", max_batch=2)
    ours.load(lambda *_: None)
    assert ours.safety is not None
    checker = ours.safety.checker
    (row,) = tiny.drawn(ours, [Job("the sea", 1, 64, 64, steps=1, safety=False)])
    (picture,) = ours.decode([row])
    seen = ours.safety.processor([picture], return_tensors="pt").pixel_values
    with torch.no_grad():
        concept = checker.visual_projection(checker.vision_model(seen)[1])[0]
        checker.concept_embeds[0] = concept
        checker.concept_embeds_weights[0] = 0.999  # the checker rounds to three places
    return ours


def test_a_flagged_picture_is_black_and_says_so_and_its_neighbour_is_untouched(guarded: Lcm) -> None:
    flagged, fine = Job("the sea", 1, 64, 64, steps=1), Job("a red circle", 5, 64, 64, steps=1)
    rows = tiny.drawn(guarded, [flagged, fine])
    files = [
        guarded.encode(row, image, replace(row.job, format="png"))
        for row, image in zip(rows, guarded.decode(rows), strict=True)
    ]
    assert [unsafe for _, unsafe in files] == [True, False]
    black, picture = (np.asarray(tiny.opened(data)) for data, _ in files)
    assert not black.any()
    assert picture.any()
    assert all(row.timings["safety"] > 0 for row in rows)


def test_a_flagged_filling_shows_nothing_of_the_picture_around_it(guarded: Lcm) -> None:
    flagged = Job("the sea", 1, 64, 64, steps=1)
    (pixels,) = guarded.decode(tiny.drawn(guarded, [flagged]))
    job = replace(flagged, image=tiny.picture(1), mask=tiny.stencil((0, 0, 32, 32)), mask_only=True)
    job = replace(job, format="png")
    (row,) = tiny.drawn(guarded, [job])
    data, unsafe = guarded.encode(row, pixels, job)
    assert unsafe
    assert not np.asarray(tiny.opened(data)).any()


def test_a_job_may_do_without_the_check(guarded: Lcm) -> None:
    rows = tiny.drawn(guarded, [Job("the sea", 1, 64, 64, steps=1, safety=False)])
    (picture,) = guarded.decode(rows)
    assert picture.any()
    assert not guarded.encode(rows[0], picture, rows[0].job)[1]
    assert "safety" not in rows[0].timings  # by which the answer tells that nobody looked


def test_a_model_tells_whether_it_has_a_checker(guarded: Lcm, pipeline: Any) -> None:
    assert guarded.models[0].safety
    without = pipeline()
    assert not without.models[0].safety
    rows = tiny.drawn(without, [replace(Job("", 0, 64, 64), safety=True)])
    assert not without.encode(rows[0], without.decode(rows)[0], rows[0].job)[1]
    assert "safety" not in rows[0].timings
