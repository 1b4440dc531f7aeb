"""The questions: enough, fresh each seed, and held out of training where they say so."""

from collections import Counter
from random import Random

import pytest

from bench.exam.papers import QUOTAS, SETS, kind_of, open_paper, other_thing, paper, quotas
from engines.embedded.scene import COLOURS, STYLES, Still, is_held_out, random_scene


@pytest.fixture(scope="module", params=SETS)
def whole(request):
    return SETS[request.param], paper(QUOTAS, SETS[request.param], 7)


def test_a_paper_has_five_hundred_captions_of_every_kind_and_no_scene_twice(whole):
    _, questions = whole
    assert len(questions) >= 500
    assert Counter(kind_of(q.scene) for q in questions) == QUOTAS
    assert len({q.scene for q in questions}) == len(questions)
    assert len({q.seed for q in questions}) == len(questions)
    assert {q.scene.style for q in questions} == {None, *STYLES}


def test_held_out_means_all_of_it_and_ordinary_none(whole):
    held, questions = whole
    assert {is_held_out(q.scene) for q in questions} == {held}


def test_what_training_draws_never_meets_a_held_out_scene():
    """Styles aside, as is_held_out does: the same combination in another style is still that combination."""
    rng = Random(20)
    drawn = [random_scene(rng) for _ in range(20_000)]
    assert not any(is_held_out(scene) for scene in drawn)
    asked = {(s.things[0].shape, s.things[0].colour, s.background) for s in stills(drawn)}
    held = [q.scene for q in paper(QUOTAS, True, 7)]
    new = {(s.things[0].shape, s.things[0].colour, s.background) for s in stills(held)}
    assert len(new) > 50
    assert not new & asked


def stills(scenes):
    return [s for s in scenes if isinstance(s, Still) and s.relation is None]


def test_the_same_seed_asks_the_same_and_another_seed_does_not():
    first, again, other = (paper(quotas(60), True, seed) for seed in (7, 7, 8))
    assert first == again
    assert not {q.prompt for q in first} & {q.prompt for q in other}


def test_small_papers_keep_every_kind():
    assert all(count >= 2 for count in quotas(10).values())
    assert quotas(sum(QUOTAS.values())) == QUOTAS


def test_open_captions_name_only_what_they_are_marked_for():
    questions = open_paper(60, 7)
    assert {mark for q in questions for mark in q.named} == {
        *("object colour", "background colour", "position", "count", "relation", "shapes of both"),
        *("shape", "ground"),
    }
    for question in questions:
        words = question.prompt.split()
        assert ("background" in words) == ("background colour" in question.named)
        coloured = any(colour in words for colour in COLOURS)
        marked = {"object colour", "background colour", "relation"} & set(question.named)
        assert coloured == bool(marked), question


def test_another_thing_differs_in_shape_and_colour_and_keeps_place_and_ground():
    rng = Random(1)
    for scene in stills([random_scene(rng) for _ in range(60)]):
        other = other_thing(scene, rng)
        (was,), (now,) = scene.things, other.things
        assert was.shape != now.shape
        assert now.colour not in (was.colour, scene.background)
        assert (was.place, was.size, scene.background) == (now.place, now.size, other.background)
