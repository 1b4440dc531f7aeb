"""What rows are on their way to, after every step but the last, for those who watch.

`after_step` is called on the step loop's thread. What the model makes of a row is decoded, written and sent
on a thread of its own, not the pool's: answers do not wait for previews.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from engines.drawing import Drawing
from engines.messages import Message, Preview
from engines.outlet import written
from engines.pipeline import Fault, Pipeline
from engines.pool import Pool, Work


class Previews:
    """At most one of each picture is being made: a step that ends meanwhile has none."""

    def __init__(
        self, pipeline: Pipeline, send: Callable[[Message], None], guard: Callable[[Work], Work]
    ) -> None:
        """send: to the gateway, from any thread."""
        self._pipeline, self._send = pipeline, send
        self._pool = Pool(1, "previewer", guard)

    def after_step(self, drawing: Drawing, image: int) -> None:
        if drawing.over or image in drawing.previewing:
            return
        row = drawing.rows[image]
        if row.position < row.steps:
            with contextlib.suppress(Fault):  # no memory for a preview
                peeked = self._pipeline.peek(row)
                drawing.previewing.add(image)
                self._pool.submit(self._preview, drawing, image, row.position, peeked)

    def _preview(self, drawing: Drawing, image: int, step: int, peeked: Any) -> None:
        row, job = drawing.rows[image], replace(drawing.submit.job, format="jpeg")
        try:
            if not drawing.over:
                picture = written(self._pipeline, row, self._pipeline.preview(row, peeked), job)
                self._send(Preview(drawing.submit.ticket, image, step, job.steps, picture))
        except Fault:
            pass  # the picture itself may still come out well
        finally:
            drawing.previewing.discard(image)
