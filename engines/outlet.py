"""The way out: finished rows to pixels, pixels to files, and the last file of a request to its answer.

    leave       the step loop's thread; rows are decoded here,
    decoder     or on a thread in its place, where the device does it beside the next call
    pool        files, and the answer made of them, sent by the thread that has written the last

Both lines are bounded, and who is in `leave` waits for a place: a gateway that does not read stops the loop
and does not grow the memory, and pictures that are nearly finished are not left behind for new ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from engines.cost import Cost
from engines.drawing import Drawing
from engines.inbox import Inbox
from engines.link import MAX_FRAME
from engines.messages import Job, Message, Picture
from engines.outlook import vae
from engines.pipeline import Fault, Pipeline, Row
from engines.pool import Pool, Work
from engines.shown import Shown

ENCODING = 64  # drawn pictures that wait for the pool
DECODE_GROUP = 4  # pictures per VAE decode at most: the first of many leave before the last is decoded
DECODE_SHARE = 0.5  # of a step: what one decode may take, unless a single picture takes longer
MAX_PICTURES = MAX_FRAME - (1 << 16)  # bytes of all the pictures of an answer
TOO_LARGE = (
    f"the pictures of this answer are {{}} MiB, the limit is {MAX_PICTURES >> 20} MiB: "
    "ask for fewer or smaller ones, or for jpeg"
)
CONTENT_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

Image = tuple[Drawing, int]  # one of the pictures of a drawing


@dataclass(frozen=True, slots=True)
class Decoded:
    """To the loop: pictures of one kind have left the VAE."""

    lane: str
    vae: str  # "tiny" | "full"
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """To the loop: a request is answered, or one of its pictures came to nothing."""

    drawing: Drawing
    fault: Fault | None
    seconds: float = 0.0  # from the end of its decode to the outbox


class Outlet:
    def __init__(
        self,
        pipeline: Pipeline,
        cost: Cost,
        shown: Shown,
        inbox: Inbox,
        send: Callable[[Message], None],
        guard: Callable[[Work], Work],
        *,
        pool: int,
    ) -> None:
        """cost: what groups are made by. send: to the gateway, from any thread. pool: threads."""
        self._pipeline, self._cost, self._shown = pipeline, cost, shown
        self._inbox, self._send = inbox, send
        self._decoder = Pool(1, "decoder", guard)
        self._pool = Pool(pool, "pool", guard)
        # Pictures at the decoder: as many as one call can finish, so that the next one need not wait; and no
        # fewer than leave together.
        self._decoding = threading.Semaphore(max(pipeline.buckets[-1], DECODE_GROUP))
        self._door = threading.Lock()  # one group at a time: two would each hold places that the other needs
        self._encoding = threading.Semaphore(ENCODING)

    def groups(self, images: Iterable[Image]) -> list[list[Image]]:
        """Finished rows of one lane as they leave together. The loop's thread."""
        return list(groups(images, self._cost, self._pipeline.buckets[-1]))

    def leave(self, images: Iterable[list[Image]]) -> None:
        """`groups` on to the VAE. The loop's thread, or one for it where the device overlaps."""
        for group in images:
            if self._pipeline.overlaps:
                with self._door:
                    for _ in group:
                        self._decoding.acquire()
                self._decoder.submit(self._decode_beside, group)
            else:
                self._decode(group)

    def _decode_beside(self, images: list[Image]) -> None:
        try:
            self._decode(images)
        finally:
            self._decoding.release(len(images))

    def _decode(self, images: list[Image]) -> None:
        """The loop's thread or the decoder's."""
        images = [(drawing, image) for drawing, image in images if not drawing.over]
        if not images:
            return
        rows = [drawing.rows[image] for drawing, image in images]
        began = time.monotonic()
        results = self._pipeline.decode(rows)
        now = time.monotonic()
        self._inbox.put(Decoded(rows[0].lane, images[0][0].submit.job.vae, len(rows), now - began))
        for drawing in dict.fromkeys(drawing for drawing, _ in images):
            own = [row for row, (owner, _) in zip(rows, images, strict=True) if owner is drawing]
            drawing.left_vae(own, now - began, now)
        for (drawing, image), pixels in zip(images, results, strict=True):
            if isinstance(pixels, Fault):
                self._inbox.put(Finished(drawing, pixels))
            else:
                self._encoding.acquire()
                self._pool.submit(self._encode, drawing, image, pixels)

    def _encode(self, drawing: Drawing, image: int, pixels: Any) -> None:
        """On the pool."""
        began = time.monotonic()
        try:
            if drawing.over:
                return
            picture = written(self._pipeline, drawing.rows[image], pixels, drawing.submit.job)
            whole = drawing.add(image, picture, time.monotonic() - began)
            if whole and drawing.size > MAX_PICTURES:
                raise Fault("invalid", TOO_LARGE.format(drawing.size >> 20), "num_images")
            if whole and drawing.close():
                done = drawing.done(self._pipeline.drawn(drawing.rows[0]), time.monotonic())
                self._shown.keep(drawing, done)
                self._send(done)
                self._inbox.put(Finished(drawing, None, time.monotonic() - drawing.decoded))
        except Fault as fault:
            self._inbox.put(Finished(drawing, fault))
        finally:
            self._encoding.release()


def groups(images: Iterable[Image], cost: Cost, places: int) -> Iterator[list[Image]]:
    """Finished rows of one lane as they are decoded together: by one decoder, in half the time of a step of
    that many places."""
    by_decoder: dict[str, list[Image]] = {}
    for drawing, image in images:
        by_decoder.setdefault(drawing.submit.job.vae, []).append((drawing, image))
    for decoder, group in by_decoder.items():
        (drawing, image), *_ = group
        lane = drawing.rows[image].lane
        step, one = cost.predict(lane, places), cost.predict(vae(lane, decoder), 1)
        few = int(min(DECODE_SHARE * step / one, DECODE_GROUP)) if one else DECODE_GROUP
        for at in range(0, len(group), max(few, 1)):
            yield group[at : at + max(few, 1)]


def written(pipeline: Pipeline, row: Row, pixels: Any, job: Job) -> Picture:
    """Pixels as a file of the job's format and size. Any thread. Raises Fault."""
    data, unsafe = pipeline.encode(row, pixels, job)
    return Picture(data, CONTENT_TYPES[job.format], job.width, job.height, unsafe)
