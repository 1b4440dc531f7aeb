"""The exam through a real server, as small as it goes; and its figures from planted tallies."""

import dataclasses

import pytest
import torch

from bench import embedded
from bench.embedded import QUICK, figures
from bench.exam.sitting import Answered

TINY = dataclasses.replace(
    QUICK, captions=12, steps=(1, 4), drawings=2, strengths=(0.2, 1.0), holes=2, open=6, again=2, requests=1
)


@pytest.mark.proc
@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_small_exam_through_a_server_states_every_figure(tmp_path):
    said = []
    result = figures("embedded", "server", 64, tmp_path, TINY, lambda what, share: said.append(what))
    titles = " ".join(table.title for table in result.tables)
    for words in (
        "ordinary captions",
        "held out captions",
        "Image to image",
        "Inpainting",
        "Guidance",
        "Speed",
    ):
        assert words in titles
    whats = [bar.what for bar in result.bars]
    assert len(whats) == len(set(whats)) == 2 * 10 + 8
    assert result.raw["side"] == 64
    assert {"steps", "masks", "strengths", "held-out"} <= {file.stem for file in tmp_path.glob("*.jpg")}
    assert "speed" in said


@pytest.mark.proc
@pytest.mark.timeout(120)
@pytest.mark.parametrize("pictures", ["renders", "codec"])
def test_the_judge_is_judged_with_no_model_at_all(tmp_path, pictures):
    result = figures("embedded", pictures, 128, tmp_path, TINY, lambda what, share: None)
    assert len(result.bars) == 2 * 8
    if pictures == "renders":
        assert all(bar.met for bar in result.bars), result.bars


def test_pictures_come_from_somewhere_known(tmp_path):
    with pytest.raises(ValueError, match="'photographs'"):
        figures("embedded", "photographs", 64, tmp_path, TINY, lambda what, share: None)


def test_a_bar_is_missed_by_what_is_counted_wrong():
    marks = {"background colour": (97, 100), "shape": (90, 100)}
    answered = Answered([], marks, None, {1: marks, 4: marks}, {1: 90.0, 4: 99.0}, 50.0, {1: torch.empty(0)})
    result = embedded._result({}, "embedded", 128, TINY, {"ordinary": answered})
    met = {bar.what: bar.met for bar in result.bars}
    assert not met["background colour, ordinary"]
    assert met["object shape, ordinary"]
    assert not met["count, ordinary"]  # nothing asked is nothing shown
    assert not met["more steps look worse, ordinary: 4 steps beside 1"]
