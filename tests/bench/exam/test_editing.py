"""Drawing over, painting out, guidance and seeds: with painters whose behaviour is known."""

from random import Random

import pytest
import torch

from bench.exam import editing, sheets
from bench.exam.editing import FILLED, TASKS, filling, followed, hole, rough, seed_share, sweep
from bench.exam.judge import judge, pooled
from bench.exam.order import pixels
from bench.exam.papers import one_thing, other_thing
from bench.exam.sitting import drawn
from bench.exam.things import look
from engines.embedded.render import place_of, render

SIDE = 64
STRENGTHS = (0.2, 0.6, 1.0)


@pytest.fixture(scope="module")
def judging():
    return judge()


def told_by(questions):
    """A painter that draws what the prompt says, over the drawing as far as the strength goes."""
    scenes = {q.prompt: q for q in questions}

    def paint(orders, what):
        pictures = []
        for order in orders:
            right = drawn([scenes[order.prompt]], SIDE, 1)[0]
            base = pixels(order.image)
            if order.mask is not None:
                mask = pixels(order.mask)
                pictures.append(torch.where(mask > 0.5, right, base))
            else:
                pictures.append(right if order.strength >= 0.6 else torch.lerp(base, right, order.strength))
        return torch.stack(pictures)

    return paint


def deaf(orders, what):
    """Gives back what it is given."""
    return torch.stack([pixels(order.image) for order in orders])


@pytest.fixture
def asked(monkeypatch):
    """Everything the editing exams will ask, so that a painter can know what a prompt means."""
    seen = []

    def remember(function):
        def wrapped(scene, rng, plain=False):
            words = function(scene, rng, plain=plain)
            seen.append((scene, words))
            return words

        return wrapped

    monkeypatch.setattr(editing, "caption", remember(editing.caption))
    return seen


def knowing(asked, count, seed):
    from bench.exam.papers import Question

    def paint(orders, what):
        questions = [*one_thing(count, seed), *(Question(scene, words, 1) for scene, words in asked)]
        return told_by(questions)(orders, what)

    return paint


def test_a_painter_that_listens_follows_and_leaves_the_drawing(judging, asked):
    swept = sweep(judging, knowing(asked, 3, 5), SIDE, 3, STRENGTHS, 5)
    for task in TASKS:
        assert swept.rank[task] >= 0.8
        right, of = followed(swept.followed[task][1.0])
        assert right >= 0.9 * of, task
    assert set(swept.followed[TASKS[0]]) == {0.6, 1.0}
    assert sheets.strengths(swept, STRENGTHS).width > 4 * SIDE


def test_giving_the_drawing_back_is_neither_following_nor_falling(judging):
    swept = sweep(judging, deaf, SIDE, 3, STRENGTHS, 5)
    right, of = followed(swept.followed["another thing"][1.0])
    assert right < 0.6 * of  # its place and ground are those of the drawing
    assert not swept.rank["another thing"] >= 0.95


def test_a_filled_mask_is_judged_inside_and_out(judging, asked):
    filled = filling(judging, knowing(asked, 4, 6), SIDE, 4, 6)
    assert filled.outside[False] <= 0.51
    right, of = pooled(filled.inside[False], FILLED)
    assert right >= 0.7 * of  # its ground is of another shade than that around it
    assert sheets.masks(filled).height > SIDE


def test_leaving_the_mask_as_it_was_fills_nothing(judging):
    filled = filling(judging, deaf, SIDE, 4, 6)
    assert filled.outside[False] <= 0.01
    right, of = pooled(filled.inside[False], FILLED)
    assert right <= 0.2 * of


def test_what_bleeds_out_of_the_mask_is_measured(judging):
    def bleeding(orders, what):
        return (deaf(orders, what) + 0.04).clamp(0, 1)

    assert filling(judging, bleeding, SIDE, 2, 6).outside[False] > 2


def test_a_hole_leaves_nothing_of_the_thing():
    questions = one_thing(40, 3)
    pictures = drawn(questions, 128, 5)
    for question, picture in zip(questions, pictures, strict=True):
        mask = hole(question.scene, 128)
        assert mask.mean() < 0.8
        outside = picture[:, mask[0] == 0]
        painted_out = torch.where(mask > 0, outside.median(1).values.view(3, 1, 1), picture)
        assert not any(
            thing.area > 0.01 and thing.colour == question.scene.things[0].colour
            for thing in look(painted_out).things
        )


def test_a_rough_drawing_is_still_of_its_scene(judging):
    questions = one_thing(6, 4)
    drawings = torch.stack([rough(q.scene, 128, q.seed) for q in questions])
    ideal = render([q.scene for q in questions], 128, torch.Generator(), jitter=0.0)
    assert (drawings - ideal).abs().mean() > 0.01
    marks = judging.marks(drawings, questions)
    assert sum(m["object colour"] and m["position"] for m in marks) >= 5


def test_the_share_of_seeds_is_one_without_captions_and_nothing_without_seeds():
    generator = torch.Generator().manual_seed(1)
    random = torch.rand(6, 3, 3, 8, 8, generator=generator)
    assert seed_share(random) == pytest.approx(1.0, abs=0.15)
    assert seed_share(random[:, :1].expand(-1, 3, -1, -1, -1)) == 0


def test_another_thing_is_asked_for_at_the_same_place():
    rng = Random(2)
    scene = one_thing(1, 3)[0].scene
    assert place_of(other_thing(scene, rng), 0)[:2] == place_of(scene, 0)[:2]
