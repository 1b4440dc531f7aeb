"""The renderer draws what the scene says: everything learned depends on it."""

from random import Random

import pytest
import torch

from engines.embedded.evaluate import exam_scenes, ground_references, landscape_results, still_results
from engines.embedded.render import example, render
from engines.embedded.scene import COLOURS, SHAPES, SKIES, Landscape, Still, Thing, random_scene
from engines.embedded.scribble import blobs, scribble_over

SIZE = 96


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mean_of(results: list[dict[str, float]], measure: str) -> float:
    values = [r[measure] for r in results if measure in r]
    assert values
    return sum(values) / len(values)


def test_stills_pass_the_pixel_tests_that_judge_the_model():
    scenes = [s for s in exam_scenes(60, seed=11) if isinstance(s, Still)]
    pictures = render(scenes, SIZE, generator())
    results = [still_results(p, s) for p, s in zip(pictures, scenes, strict=True)]
    for measure in (
        "background colour",
        "object colour at its place",
        "object colour anywhere",
        "place",
        "shape",
    ):
        assert mean_of(results, measure) >= 0.9, measure


def test_landscapes_pass_the_pixel_tests_that_judge_the_model():
    scenes = [s for s in exam_scenes(80, seed=12) if isinstance(s, Landscape)]
    pictures = render(scenes, SIZE, generator())
    references = {sky: ground_references(sky, SIZE) for sky in SKIES}
    results = [landscape_results(p, s, references[s.sky]) for p, s in zip(pictures, scenes, strict=True)]
    for measure in ("sky", "ground", "sun or moon on its side"):
        assert mean_of(results, measure) >= 0.9, measure


def test_pixel_tests_reject_a_picture_of_something_else():
    wrong = render([example("square", "green", "white")], SIZE, generator(), jitter=0.0)[0]
    results = still_results(wrong, Still((Thing("circle", "red", "top left", "small"),), "blue"))
    assert results["background colour"] == 0
    assert results["object colour at its place"] == 0
    assert results["object colour anywhere"] == 0
    assert results["place"] == 0
    assert results["overlap"] < 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_recognised_as_itself(shape):
    scene = example(shape, "red", "white")
    picture = render([scene], SIZE, generator(), jitter=0.0)[0]
    assert still_results(picture, scene)["shape"] == 1


def test_same_seed_draws_the_same_picture_and_another_seed_does_not():
    rng = Random(5)
    scenes = [random_scene(rng) for _ in range(8)]
    first, again, other = (render(scenes, 32, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.02)


def test_pictures_stay_between_zero_and_one():
    rng = Random(6)
    scenes = [random_scene(rng) for _ in range(40)]
    drawn = scribble_over(blobs(8, 64, generator()), generator())
    for pictures in (render(scenes, 64, generator()), drawn):
        assert torch.isfinite(pictures).all()
        assert pictures.min() >= 0
        assert pictures.max() <= 1


def test_night_is_darker_than_day_over_every_ground():
    for ground in ("hills", "sea", "city", "snow"):
        day, night = render([Landscape("day", ground), Landscape("night", ground)], 48, generator())
        assert night.mean() < day.mean() - 0.15, ground


def test_colours_are_told_apart_by_more_than_their_jitter():
    table = torch.tensor(list(COLOURS.values()))
    gaps = torch.cdist(table, table) + torch.eye(len(table)) * 9
    assert gaps.min() > 0.25
