"""What is done for a request before its turn, for how many, and what of it is left for its turn."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from engines.drawing import Drawing
from engines.fake import Fake, FakeRow
from engines.inbox import Inbox
from engines.intake import AHEAD, Intake, Prepared
from engines.messages import Job, Submit
from engines.pipeline import Fault


def drawing(ticket: int, prompt: str = "fox", image: bytes | None = None) -> Drawing:
    return Drawing(Submit(ticket, f"s{ticket}", 0.0, Job(prompt, 1, 64, 64, image=image, count=2)))


class Watched(Fake):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.threads: list[int] = []  # that rows were made on

    def rows(self, job: Job, inputs: Any) -> list[FakeRow]:
        self.threads.append(threading.get_ident())
        return super().rows(job, inputs)


class Ends:
    def __init__(self, **given: float) -> None:
        self.pipeline = Watched(**given)
        self.inbox = Inbox(None)  # type: ignore[arg-type]  # nobody reads a link
        self.intake = Intake(self.pipeline, self.inbox, lambda work: work, pool=2)

    def prepared(self, *drawings: Drawing) -> list[Prepared]:
        for each in drawings:
            self.intake.prepare(each)
        told: list[Prepared] = []
        while len(told) < len(drawings):
            told.extend(self.inbox.take(math.inf))
        return told


def test_where_the_device_does_not_overlap_rows_are_made_at_their_turn_by_the_loop():
    ends, work = Ends(), drawing(1)
    (prepared,) = ends.prepared(work)
    ends.intake.hand_over(prepared)
    assert (work.rows, work.prepared, ends.intake.ahead) == ([], (), 0)
    ends.intake.enter(work)
    assert len(work.rows) == 2
    assert ends.pipeline.threads == [threading.get_ident()]


def test_where_it_overlaps_they_are_there_already():
    ends, work = Ends(overlaps=1), drawing(1)
    (prepared,) = ends.prepared(work)
    ends.intake.hand_over(prepared)
    assert ends.intake.ahead == 1
    ends.intake.enter(work)
    assert ends.intake.ahead == 0
    assert len(work.rows) == 2
    assert threading.get_ident() not in ends.pipeline.threads
    assert work.prepared == ("text", "vae_encode"), "no second of it is told twice"
    assert work.prepared_s == prepared.seconds


def test_rows_lie_ready_for_so_many_only_and_who_enters_or_ends_makes_room():
    ends = Ends(overlaps=1)
    works = [drawing(n) for n in range(AHEAD + 1)]
    told = {prepared.drawing: prepared for prepared in ends.prepared(*works)}
    assert [told[work].rows is None for work in works] == [False] * AHEAD + [True]
    assert ends.intake.ahead == AHEAD
    ends.intake.hand_over(told[works[0]])
    ends.intake.enter(works[0])
    ends.intake.forget(1)
    ends.intake.forget(12345)
    more = [drawing(n) for n in range(1000, 1003)]
    assert sorted(prepared.rows is None for prepared in ends.prepared(*more)) == [False, False, True]


@pytest.mark.parametrize("overlaps", [0, 1])
def test_a_fault_is_raised_where_the_loop_can_refuse_it(overlaps):
    ends = Ends(overlaps=overlaps)
    torn, barred = drawing(1, image=b"no picture"), drawing(2, "!fault")
    told = {prepared.drawing: prepared for prepared in ends.prepared(torn, barred)}
    with pytest.raises(Fault, match="the bytes are not a whole"):
        ends.intake.hand_over(told[torn])
    if not overlaps:
        ends.intake.hand_over(told[barred])
    late = ends.intake.hand_over if overlaps else lambda prepared: ends.intake.enter(prepared.drawing)
    with pytest.raises(Fault, match="asks for a fault"):
        late(told[barred])


def test_nothing_is_done_for_what_is_over():
    ends, gone = Ends(overlaps=1), drawing(1, image=b"no picture")
    gone.close()
    (prepared,) = ends.prepared(gone)
    assert (prepared.inputs, prepared.rows, prepared.fault) == (None, None, None)


@pytest.mark.parametrize(
    ("given", "image", "idle", "skips"),
    [
        ({}, None, True, True),
        ({}, None, False, True),
        ({}, b"a picture", True, False),
        ({"overlaps": 1}, None, True, True),
        ({"overlaps": 1}, None, False, False),  # its rows are made beside the call that runs
        ({"overlaps": 1, "rows_ms": 1}, None, True, False),  # its prompt is new
        ({"overlaps": 1}, b"a picture", True, False),
    ],
)
def test_who_has_nothing_to_prepare_waits_for_nothing(given, image, idle, skips):
    assert Ends(**given).intake.skips(drawing(1, image=image).submit.job, idle) == skips
