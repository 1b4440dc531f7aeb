"""What a frame has in common with the one before, and what is then left of the work."""

from __future__ import annotations

from dataclasses import replace as other
from typing import Any

import pytest
from msgspec.structs import replace

from engines.drawing import Drawing
from engines.fake import Fake
from engines.messages import Done, Job, Picture, Submit
from engines.pipeline import Fault
from engines.shown import Shown, likeness

JOB = Job("fox", 7, 64, 64, count=2, vae="tiny")


def frame(ticket: int, job: Job = JOB, buffering: int = 2, **given: Any) -> Submit:
    return Submit(ticket, given.pop("session", "a"), 0.0, job, buffering=buffering, **given)


def show(shown: Shown, pipeline: Fake, submit: Submit, size: int = 100) -> Done:
    drawing = Drawing(submit, rows=list(pipeline.rows(submit.job, None)))
    for image in range(submit.job.count):
        drawing.add(image, Picture(bytes(size), "image/jpeg", 64, 64, False), 0.01)
    done = drawing.done((64, 64), 1.0)
    shown.keep(drawing, done)
    return done


@pytest.mark.parametrize(
    ("change", "like"),
    [
        ({}, "again"),
        ({"vae": "full"}, "settled"),
        ({"format": "png"}, "settled"),
        ({"safety": False}, "settled"),
        ({"vae": "full", "format": "png", "safety": False}, "settled"),
        ({"prompt": "dog"}, ""),
        ({"seed": 8}, ""),
        ({"count": 1}, ""),
        ({"width": 72}, ""),
        ({"image": b"x"}, ""),
        ({"vae": "full", "steps": 3}, ""),
    ],
)
def test_a_frame_is_like_the_one_before_but_for_how_it_leaves(change, like):
    assert likeness(replace(JOB, **change), JOB) == like


def test_the_same_frame_has_the_same_answer_under_its_own_ticket():
    pipeline = Fake(kept_mb=1)
    shown = Shown(pipeline)
    done = show(shown, pipeline, frame(1))
    answer = shown.answer(frame(2))
    assert isinstance(answer, Done)
    assert (answer.ticket, answer.pictures, answer.timings["cached"]) == (2, done.pictures, True)


def test_a_frame_that_settles_has_all_rows_and_they_are_of_its_own_job():
    pipeline = Fake(kept_mb=1)
    shown = Shown(pipeline)
    show(shown, pipeline, frame(1))
    settled = replace(JOB, format="png")
    drawing = shown.answer(frame(2, settled))
    assert isinstance(drawing, Drawing)
    assert drawing.submit.ticket == 2
    expected = [other(row, job=settled) for row in pipeline.rows(JOB, None)]
    assert drawing.rows == expected


@pytest.mark.parametrize(
    "submit", [frame(2, session="b"), frame(2, buffering=0), frame(2, watch="start"), frame(2, watch="steps")]
)
def test_others_and_requests_and_what_is_watched_are_drawn(submit):
    pipeline = Fake(kept_mb=1)
    shown = Shown(pipeline)
    show(shown, pipeline, frame(1))
    assert shown.answer(submit) is None


def test_a_request_is_not_what_its_session_was_shown():
    pipeline = Fake(kept_mb=1)
    shown = Shown(pipeline)
    show(shown, pipeline, frame(1, buffering=0))
    assert shown.answer(frame(2)) is None


class Short(Fake):
    """Has no memory to keep rows in."""

    tried = 0

    def keep(self, row: Any) -> Any:
        self.tried += 1
        raise Fault("out_of_memory", "")


@pytest.mark.parametrize(("budget", "tries"), [(1, 1), (0, 0)])
def test_what_there_is_no_memory_for_is_not_kept_and_without_a_budget_not_tried(budget, tries):
    pipeline = Short(kept_mb=budget)
    shown = Shown(pipeline)
    show(shown, pipeline, frame(1))
    assert shown.answer(frame(2)) is None
    assert pipeline.tried == tries


def test_the_bytes_of_the_pictures_count():
    pipeline = Fake(kept_mb=0.01)
    shown = Shown(pipeline)
    show(shown, pipeline, frame(1), size=1000)
    assert shown.answer(frame(2)) is not None
    show(shown, pipeline, frame(3, session="b"), size=3000)
    assert shown.answer(frame(4)) is None, "the longest quiet session went first"
    assert shown.answer(frame(5, session="b")) is not None
