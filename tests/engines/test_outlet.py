"""Finished rows leave in groups that keep nobody waiting, on the thread they should, each picture once."""

from __future__ import annotations

import contextlib
import io
import queue
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from engines.cost import Cost
from engines.drawing import Drawing
from engines.fake import Fake, FakeRow, colour_of
from engines.inbox import Inbox
from engines.messages import Done, Job, Submit
from engines.outlet import DECODE_GROUP, Decoded, Finished, Outlet, groups
from engines.outlook import vae
from engines.pipeline import Fault
from engines.shown import Shown

PLACES = 16
PIPELINE = Fake(vae_ms=0, kept_mb=1)


def drawing(ticket: int = 1, count: int = 1, vae: str = "tiny", buffering: int = 0) -> Drawing:
    job = Job("fox", ticket, 64, 64, count=count, vae=vae, format="png")
    submit = Submit(ticket, f"s{ticket}", 0.0, job, buffering=buffering)
    return Drawing(submit, rows=list(PIPELINE.rows(job, None)))


def images(*drawings: Drawing) -> list[tuple[Drawing, int]]:
    return [(drawing, image) for drawing in drawings for image in range(drawing.submit.job.count)]


class Ends:
    """An outlet, and what comes out of it on either side."""

    def __init__(self, pipeline: Fake) -> None:
        self.inbox = Inbox(None)  # type: ignore[arg-type]  # nobody reads a link
        self.sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.shown = Shown(pipeline)
        self.outlet = Outlet(
            pipeline, Cost(), self.shown, self.inbox, self.sent.put, lambda work: work, pool=2
        )

    def told(self, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            found.extend(self.inbox.take(True))
        return found


# ---- groups ----


def test_every_picture_is_in_one_group_and_each_decoder_s_in_order():
    tiny, full, more = drawing(1, 3), drawing(2, 5, "full"), drawing(3, 4)
    found = list(groups(images(tiny, full, more), Cost(), PLACES))
    by_decoder = {"tiny": [], "full": []}
    for group in found:
        (decoder,) = {drawing.submit.job.vae for drawing, _ in group}
        by_decoder[decoder] += group
    assert by_decoder == {"tiny": images(tiny, more), "full": images(full)}


@pytest.mark.parametrize(
    ("step_s", "one_s", "sizes"),
    [
        (None, None, [4, 4, 1]),  # nothing is known yet
        (0.1, None, [4, 4, 1]),
        (0.1, 0.0001, [4, 4, 1]),  # dear steps: the first still leaves before the last is decoded
        (0.1, 0.02, [2, 2, 2, 2, 1]),  # 2.5 of them fit half a step
        (0.1, 0.3, [1] * 9),  # one is always decoded
    ],
)
def test_a_group_takes_no_more_than_its_share_of_a_step(step_s, one_s, sizes):
    cost = Cost()
    if step_s is not None:
        cost.observe("64x64", PLACES, step_s)
    if one_s is not None:
        cost.observe(vae("64x64", "tiny"), 1, one_s)
    assert [len(group) for group in groups(images(drawing(count=9)), cost, PLACES)] == sizes


def test_the_dearer_decoder_alone_goes_one_by_one():
    cost = Cost()
    cost.observe("64x64", PLACES, 0.1)
    cost.observe(vae("64x64", "full"), 1, 0.06)
    cost.observe(vae("64x64", "tiny"), 1, 0.001)
    found = groups(images(drawing(1, 4), drawing(2, 4, "full")), cost, PLACES)
    assert [len(group) for group in found] == [DECODE_GROUP, 1, 1, 1, 1]


def test_nothing_is_in_no_group():
    assert list(groups([], Cost(), PLACES)) == []


# ---- from rows to the answer ----


class Watched(Fake):
    """Says on which thread it decodes, and decodes no earlier than it is let."""

    def __init__(self, **given: Any) -> None:
        super().__init__(vae_ms=0, **given)
        self.go, self.threads = threading.Event(), []

    def decode(self, rows: Sequence[FakeRow]) -> list[Any]:
        assert self.go.wait(10)
        self.threads.append(threading.get_ident())
        return super().decode(rows)


def test_rows_are_decoded_in_the_loop_s_place_only_where_the_device_overlaps():
    here = threading.get_ident()
    for overlaps in (0, 1):
        pipeline = Watched(overlaps=overlaps)
        ends = Ends(pipeline)
        if not overlaps:
            pipeline.go.set()
        ends.outlet.leave(ends.outlet.groups(images(drawing(1))))  # else this would wait for ever
        pipeline.go.set()
        ends.told(2)
        assert [thread == here for thread in pipeline.threads] == [not overlaps]


def test_an_answer_has_all_pictures_and_what_came_of_it_is_told():
    ends, work = Ends(PIPELINE), drawing(7, count=6)
    ends.outlet.leave(ends.outlet.groups(images(work)))
    done = ends.sent.get(timeout=10)
    seen = [Image.open(io.BytesIO(picture.data)).getpixel((3, 3)) for picture in done.pictures]
    assert seen == [colour_of("fox", 7 + image) for image in range(6)]
    *decoded, finished = ends.told(3)
    assert [(each.vae, each.count) for each in decoded if isinstance(each, Decoded)] == [
        ("tiny", 4),
        ("tiny", 2),
    ]
    assert isinstance(finished, Finished)
    assert (finished.drawing, finished.fault) == (work, None)
    assert work.over, "nobody else answers it"


def test_what_a_session_is_shown_is_kept_before_it_is_sent():
    ends, work = Ends(PIPELINE), drawing(buffering=2)
    kept: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ends.outlet._send = lambda message: kept.put(ends.shown.answer(work.submit))
    ends.outlet.leave(ends.outlet.groups(images(work)))
    assert isinstance(kept.get(timeout=10), Done), "a client that answers at once is not drawn for anew"


class Blind(Fake):
    """Makes nothing of one picture."""

    def decode(self, rows: Sequence[FakeRow]) -> list[Any]:
        made = zip(rows, super().decode(rows), strict=True)
        return [Fault("internal", "nothing") if row.index == 1 else pixels for row, pixels in made]


def test_a_picture_that_came_to_nothing_is_the_fault_of_its_request_alone():
    ends, bad, good = Ends(Blind(vae_ms=0)), drawing(1, count=3), drawing(2)
    ends.outlet.leave(ends.outlet.groups(images(bad, good)))
    told = [each for each in ends.told(3) if isinstance(each, Finished)]
    assert {each.drawing.submit.ticket: each.fault and each.fault.code for each in told} == {
        1: "internal",
        2: None,
    }
    assert ends.sent.get(timeout=10).ticket == 2
    assert not bad.over, "the loop has its answer to give"


def test_a_request_leaves_that_has_more_pictures_than_a_call_has_places():
    pipeline = Fake(vae_ms=0, kept_mb=1, overlaps=1, max_batch=1)
    ends = Ends(pipeline)
    leaving = threading.Thread(
        target=ends.outlet.leave, args=(ends.outlet.groups(images(drawing(count=8))),), daemon=True
    )
    leaving.start()
    assert len(ends.sent.get(timeout=10).pictures) == 8, "it only settles: it was drawn before"


class Shared(threading.Semaphore):
    """Whoever takes one lets another thread take one, too, if it can."""

    both = threading.Barrier(2)

    def acquire(self, *given: Any) -> bool:
        super().acquire()
        with contextlib.suppress(threading.BrokenBarrierError):
            self.both.wait(0.5)
        return True


def test_two_that_leave_at_once_do_not_each_wait_for_the_other_s_places():
    ends = Ends(Fake(vae_ms=0, kept_mb=1, overlaps=1, max_batch=4))
    ends.outlet._decoding = Shared(4)
    for ticket in (1, 2):
        groups = ends.outlet.groups(images(drawing(ticket, count=4)))
        threading.Thread(target=ends.outlet.leave, args=(groups,), daemon=True).start()
    assert {ends.sent.get(timeout=10).ticket for _ in range(2)} == {1, 2}


def test_what_nobody_waits_for_is_not_decoded():
    ends, gone, here = Ends(PIPELINE), drawing(1), drawing(2)
    gone.close()
    ends.outlet.leave(ends.outlet.groups(images(gone, here)))
    decoded, finished = ends.told(2)
    assert (decoded.count, finished.drawing) == (1, here)
