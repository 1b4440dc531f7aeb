"""Previews are made beside the steps, one of a picture at a time, and no fault of theirs is the request's."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from engines.drawing import Drawing
from engines.fake import Fake, FakeRow
from engines.messages import Job, Preview, Submit
from engines.pipeline import Fault
from engines.previews import Previews


class Slow(Fake):
    """Makes a preview when it is let, and none if it is to fail."""

    fails = ""

    def __init__(self) -> None:
        super().__init__(vae_ms=0)
        self.go = threading.Semaphore(0)

    def peek(self, row: FakeRow) -> int:
        if self.fails == "peek":
            raise Fault("out_of_memory", "no memory for a preview")
        return super().peek(row)

    def preview(self, row: FakeRow, peeked: int) -> Any:
        assert self.go.acquire(timeout=10)
        if self.fails == "preview":
            raise Fault("internal", "no estimate")
        return super().preview(row, peeked)


class Ends:
    def __init__(self) -> None:
        self.pipeline = Slow()
        self.sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.previews = Previews(self.pipeline, self.sent.put, lambda work: work)
        job = Job("fox", 1, 64, 64, count=2, steps=4, format="png")
        rows = self.pipeline.rows(job, None)
        self.drawing = Drawing(Submit(1, "a", 0.0, job, watch="steps"), rows=list(rows))

    def step(self, image: int, position: int) -> None:
        self.drawing.rows[image].position = position
        self.previews.after_step(self.drawing, image)

    def rest(self) -> None:
        """Until what is being made is made."""
        idle = threading.Event()
        self.previews._pool.submit(idle.set)
        assert idle.wait(10)


@pytest.fixture
def ends() -> Ends:
    return Ends()


def test_a_step_that_ends_while_a_preview_is_made_has_none_and_the_next_has_one(ends):
    for position in (1, 2):
        ends.step(0, position)
    ends.pipeline.go.release(2)
    ends.rest()
    ends.step(0, 3)
    ends.rest()
    seen = [ends.sent.get(timeout=10) for _ in range(2)]
    assert [(each.image, each.step, each.steps) for each in seen] == [(0, 1, 4), (0, 3, 4)]
    assert {each.picture.content_type for each in seen} == {"image/jpeg"}, "whatever was asked for"
    assert ends.sent.empty()


def test_pictures_of_one_request_do_not_wait_for_each_other_s_turn(ends):
    ends.step(0, 1)
    ends.step(1, 1)
    ends.pipeline.go.release(2)
    assert [ends.sent.get(timeout=10).image for _ in range(2)] == [0, 1]


def test_after_the_last_step_comes_the_picture_itself(ends):
    ends.step(0, 4)
    ends.rest()
    assert ends.sent.empty()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_nobody_is_sent_a_preview_of_what_is_over(ends, when):
    if when == "meanwhile":
        ends.step(1, 1)  # keeps the thread
        ends.step(0, 1)
    ends.drawing.close()
    if when == "before":
        ends.step(0, 1)
    ends.pipeline.go.release(2)
    ends.rest()
    seen = []
    while not ends.sent.empty():
        seen.append(ends.sent.get())
    assert all(isinstance(each, Preview) and each.image == 1 for each in seen)


@pytest.mark.parametrize("fails", ["peek", "preview"])
def test_a_preview_that_fails_is_left_out_and_the_next_one_tried(ends, fails):
    ends.pipeline.go.release(2)
    ends.pipeline.fails = fails
    ends.step(0, 1)
    ends.rest()
    ends.pipeline.fails = ""
    ends.step(0, 2)
    assert ends.sent.get(timeout=10).step == 2
    assert not ends.drawing.over
