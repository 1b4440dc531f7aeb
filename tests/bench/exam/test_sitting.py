"""The exam without a server: with the renderer as the model, and with models that fail on purpose."""

import json

import pytest
import torch

from bench.exam.bars import BARS, percent, shown, worst_gap, worst_look
from bench.exam.examination import examine
from bench.exam.judge import judge, pooled, tally
from bench.exam.jury import Jury
from bench.exam.order import Order, image, pixels, png
from bench.exam.papers import open_paper, paper, quotas
from bench.exam.sitting import drawn, painting, sit
from bench.exam.transcript import document, text

PAPER = paper(quotas(24), False, 5)


class Renderer:
    """A Draw that draws what is right; with `spoilt`, what is wrong from that number of steps on."""

    def __init__(self, questions, spoilt: int = 99) -> None:
        self.scenes = {q.prompt: q for q in questions}
        self.spoilt = spoilt
        self.asked: list[tuple[int, float, int]] = []

    def __call__(self, prompts, seeds, steps, guidance):
        self.asked.append((steps, guidance, len(prompts)))
        pictures = drawn([self.scenes[prompt] for prompt in prompts], 64, steps)
        return 1 - pictures if steps >= self.spoilt else pictures


def test_right_pictures_get_full_marks_and_spoilt_ones_show_at_their_steps():
    answered = sit(judge(), PAPER, painting(Renderer(PAPER, spoilt=4)), (1, 4), 7)
    assert percent(pooled(answered.marks[1], ("background colour", "object colour"))) == 100
    assert percent(pooled(answered.marks[4], ("background colour", "object colour"))) < 30
    gap, where = worst_gap(answered.marks)
    assert gap > 8
    assert "4 steps" in where
    worse, where = worst_look(answered.looks)
    assert worse > 5
    assert where == "4 steps beside 1"
    assert answered.looks[1] < 1.5 * answered.own_look


def test_getting_better_with_steps_is_not_looking_worse():
    assert worst_look({1: 200.0, 2: 150.0, 4: 100.0}) == (0.0, "nowhere")
    assert worst_look({1: 100.0, 2: 80.0, 4: 100.0}) == (pytest.approx(25.0), "4 steps beside 2")


def test_a_share_is_shown_with_its_interval():
    assert shown((15, 148)) == "10.1 (6.2–16.0)"
    assert shown((0, 0)) == "–"


def test_orders_are_drawn_alike_together_and_answered_in_order():
    renderer = Renderer(PAPER)
    orders = [Order(q.prompt, q.seed, 1 + i % 2) for i, q in enumerate(PAPER[:5])]
    pictures = painting(renderer)(orders, "")
    assert renderer.asked == [(1, 4.0, 3), (2, 4.0, 2)]
    even = drawn([PAPER[0], PAPER[2], PAPER[4]], 64, 1)
    odd = drawn([PAPER[1], PAPER[3]], 64, 2)
    assert torch.equal(pictures, torch.stack([even[0], odd[0], even[1], odd[1], even[2]]))


def test_a_draw_takes_no_drawing():
    with pytest.raises(ValueError, match="through a server"):
        painting(Renderer(PAPER))([Order("a star", 1, image=b"png")], "")


def test_a_picture_survives_its_file():
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert (pixels(png(picture)) - picture).abs().max() <= 0.5 / 255 + 1e-6
    assert image(picture).size == (8, 8)


@pytest.mark.proc
@pytest.mark.timeout(120)
def test_a_jury_gives_the_marks_of_one_judge():
    pictures = drawn(PAPER, 64, 1)
    with Jury(2) as jury:
        assert jury.marks(pictures, PAPER) == judge().marks(pictures, PAPER)


@pytest.mark.proc
@pytest.mark.timeout(120)
def test_the_whole_exam_of_a_perfect_model_meets_every_bar():
    questions = [q for held in (False, True) for q in paper(quotas(20), held, 7)] + open_paper(6, 7)
    taken, free = examine(Renderer(questions), captions=20, counts=(1, 4), workers=2)
    for name, answered in taken.items():
        for names, limits in BARS.values():
            assert percent(pooled(answered.marks[4], names)) >= limits[name]
    told = document(taken, free)
    assert json.loads(json.dumps(told))["papers"]["held out"]["percent"]["object shape"]["4"] >= 75
    assert {"1", "4"} == set(told["guidance"])
    assert "object position, 9 cells" in text(taken, free)


def test_gained_and_lost_are_of_the_same_caption_and_seed():
    from bench.exam.editing import freedom

    questions = open_paper(6, 7)
    right = Renderer(questions)

    def draw(prompts, seeds, steps, guidance):
        pictures = right(prompts, seeds, steps, guidance)
        return pictures if guidance > 1 else torch.zeros_like(pictures)

    free = freedom(judge(), painting(draw), 6, 2, (1.0, 4.0), 7)
    low, high = (pooled(free.adherence[s], list(free.adherence[s])) for s in (1.0, 4.0))
    assert free.gained - free.lost == high[0] - low[0]
    assert free.gained > 0
    assert tally([]) == {}
