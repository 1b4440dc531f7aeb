"""What live sessions were shown last: a frame that asks for the same, or for less, needs no step.

`answer` is called on the step loop's thread, `keep` on the pool's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from msgspec.structs import replace

from engines.cache import Cache
from engines.drawing import Drawing, again
from engines.messages import Done, Job, Submit
from engines.pipeline import Fault, Pipeline


@dataclass(frozen=True, slots=True)
class _Last:
    """What a session asked for last, what it got, and its rows as Pipeline.keep keeps them."""

    job: Job
    done: Done
    rows: list[Any]


class Shown:
    """By session, in as many bytes as the pipeline allows; none where it allows none."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._last: Cache[_Last] = Cache(pipeline.budget)

    def answer(self, submit: Submit) -> Done | Drawing | None:
        """Done: the answer. A drawing: its rows are finished, and only to be decoded. None: it is to be
        drawn, as is all that is watched or no live frame."""
        if not submit.buffering or submit.watch:
            return None
        last = self._last.get(submit.session)
        if last is None:
            return None
        match likeness(submit.job, last.job):
            case "again":
                return again(last.done, submit, time.monotonic())
            case "settled":
                return Drawing(submit, rows=[self._pipeline.kept(row, submit.job) for row in last.rows])
            case _:
                return None

    def keep(self, drawing: Drawing, done: Done) -> None:
        """The session of a live frame is now shown this; before it is sent, or the next frame misses it."""
        job = drawing.submit.job
        if not drawing.submit.buffering or not self._last.budget:
            return
        try:
            rows = [self._pipeline.keep(row) for row in drawing.rows]
        except Fault:
            return  # no memory to keep it in; it is answered all the same
        size = sum(len(picture.data) for picture in done.pictures) + sum(size for _, size in rows)
        size += len(job.image or b"") + len(job.mask or b"") + 4 * len(job.prompt) + 2048
        self._last.put(drawing.submit.session, _Last(job, done, [row for row, _ in rows]), size)


def likeness(job: Job, shown: Job) -> Literal["again", "settled", ""]:
    """What a job asks for beside the one shown: just that; its rows through another decoder, as another
    file, checked or unchecked; or another picture."""
    if job == shown:
        return "again"
    settled = replace(shown, vae=job.vae, format=job.format, safety=job.safety) == job
    return "settled" if settled else ""
