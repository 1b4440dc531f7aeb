from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from engines.drawing import Drawing
from engines.messages import Job, Picture, Submit


def drawing(count: int = 1, **timings: float) -> Drawing:
    submit = Submit(7, "s", received=10.0, job=Job("a", 3, 64, 64, count=count))
    rows = [SimpleNamespace(timings=dict(timings), warnings=("cut",)) for _ in range(count)]
    return Drawing(submit, rows=rows, begun=10.5, prepared_s=0.2)


def picture(n: int) -> Picture:
    return Picture(bytes([n]), "image/png", 64, 64, False)


def test_inference_is_the_sum_of_what_the_model_took():
    work = drawing(text=0.01, vae_encode=0.02, vae=0.05)
    work.stepped({"seconds": 0.1, "batch": 4})
    work.stepped({"seconds": 0.2, "batch": 3})
    work.left_vae(work.rows, group_s=0.3, now=11.0)
    timings = work.timings()
    assert timings["steps"] == [{"seconds": 0.1, "batch": 4}, {"seconds": 0.2, "batch": 3}]
    assert timings["inference"] == pytest.approx(0.01 + 0.02 + 0.1 + 0.2 + 0.05)
    assert timings["queue"] == pytest.approx(0.5 - 0.2)


def test_rows_made_before_their_turn_are_told_by_their_stages_and_no_second_twice():
    work = drawing(text=0.05, vae_encode=0.1)
    assert work.timings()["inputs"] == pytest.approx(0.2)
    work.prepared = ("text", "vae_encode")
    timings = work.timings()
    assert timings["inputs"] == pytest.approx(0.2 - 0.15)
    stages = timings["queue"] + timings["inputs"] + timings["text"] + timings["vae_encode"]
    assert stages == pytest.approx(work.begun - work.submit.received)


def test_text_of_several_pictures_is_paid_once_and_their_decodes_each():
    work = drawing(count=3, text=0.01, vae=0.05)
    work.left_vae(work.rows[:2], group_s=0.2, now=11.0)
    work.left_vae(work.rows[2:], group_s=0.05, now=11.2)
    timings = work.timings()
    assert timings["text"] == 0.01
    assert timings["vae"] == pytest.approx(0.15)


def test_rows_decoded_together_do_not_cost_more_than_their_group():
    work = drawing(count=4, vae=0.2)  # each row says what the whole group took
    work.left_vae(work.rows, group_s=0.2, now=11.0)
    assert work.timings()["vae"] == pytest.approx(0.2)


def test_pictures_are_answered_in_order_whoever_is_written_first():
    work = drawing(count=3)
    assert [work.add(n, picture(n), 0.01) for n in (2, 0, 1)] == [False, False, True]
    done = work.done((64, 64), now=12.0)
    assert [given.data for given in done.pictures] == [b"\0", b"\1", b"\2"]
    assert done.timings["encode"] == pytest.approx(0.03)
    assert done.warnings == ["cut"], "said once, however many pictures"


def test_of_many_who_would_answer_exactly_one_does():
    work = drawing()
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: work.close(), range(200))) == 1
    assert work.over
