"""Calls that are given to a device before it has done the last: the same pictures, whoever comes and goes."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="the engine's messages need msgspec")

import torch
from msgspec.structs import replace

from bench.inside import running
from engines.lcm import Lcm
from engines.messages import Cancel, Done, Job, Message, Refused, Started, Submit
from tests.engines import tiny

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(180)]

DEVICE = "cuda"
PAUSE = 20_000_000  # cycles of the device, about ten milliseconds


class Late(Lcm):
    """Every call begins late on the device, so that what is read too early is not there; and counts those
    that were given while the one before them had not ended."""

    early = 0
    _last: Any = None

    def launch(self, rows: Any, bucket: int) -> Any:
        self.early += self._last is not None and not self._last._end.query()
        self._last = super().launch(rows, bucket)
        return self._last

    def _step(self, rows: Any, bucket: int) -> Any:
        if self.overlaps:
            torch.cuda._sleep(PAUSE)
        return super()._step(rows, bucket)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Late]:
    before = torch.cuda.current_stream() if DEVICE == "cuda" else None
    folder = tiny.build(tmp_path_factory.mktemp("model") / "lcm", vae="kl", beside=True)
    made = Late(str(folder), device=DEVICE, max_batch=4, deterministic=True, backend="eager")
    made.load(lambda *progress: None)
    yield made
    if before is not None:
        torch.cuda.synchronize()
        torch.cuda.set_stream(before)


def wishes() -> list[Submit]:
    """Of five sessions: one to four steps, either decoder, with and without a picture to begin with."""
    found = []
    for ticket in range(1, 25):
        job = Job(
            "the sea", ticket, 64, 64, steps=1 + ticket % 4, vae=("tiny", "full")[ticket % 2], format="png"
        )
        if ticket % 3 == 0:
            job = replace(job, image=tiny.picture(1), strength=0.7)
        found.append(Submit(ticket, f"s{ticket % 5}", 0.0, job))
    return found


def drawn(
    ours: Late, asked: Sequence[Submit], gone: Sequence[Submit] = (), alone: bool = False
) -> dict[int, bytes]:
    """PNGs by ticket. alone: each is asked for when the one before is there. gone: asked for as well, and
    cancelled as soon as their first call is given."""
    replies: queue.SimpleQueue[Message] = queue.SimpleQueue()
    found: dict[int, bytes] = {}
    leaving = {wish.ticket for wish in gone}

    def reply(message: Message) -> None:
        if isinstance(message, Started) and message.ticket in leaving:
            loop.inbox.put(Cancel([message.ticket]))  # on the loop's thread, which launches next
        else:
            replies.put(message)

    def until(count: int) -> None:
        while len(found) < count:
            message = replies.get(timeout=60)
            assert not isinstance(message, Refused), message
            if isinstance(message, Done) and message.ticket not in leaving:
                found[message.ticket] = message.pictures[0].data

    with running(ours) as loop:
        loop.reply = reply
        waiting = list(gone)
        for at, wish in enumerate(asked, 1):
            if waiting:
                loop.submit(waiting.pop())
            loop.submit(wish)
            if alone:
                until(at)
        until(len(asked))
    return found


def test_many_at_once_are_drawn_as_each_alone_beside_those_that_leave_in_the_midst(ours: Late) -> None:
    asked = wishes()
    quiet = drawn(ours, asked, alone=True)
    watched = [replace(wish, watch="steps") if wish.ticket % 6 == 0 else wish for wish in asked]
    gone = [
        Submit(
            100 + at, f"gone {at}", 0.0, Job("a hill", at, 64, 64, steps=4, count=1 + at % 3), watch="start"
        )
        for at in range(12)
    ]
    ours.early = 0
    assert drawn(ours, watched, gone) == quiet
    if ours.overlaps:
        assert ours.early > 4, "calls are given while the device works on the last"
