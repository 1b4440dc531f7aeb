"""What the step loop drives. Two make it real: `engines/lcm.py` (torch), `engines/fake.py` (a timing model).

Every method is called on the step loop's one thread, but for those that say otherwise. A `Fault` belongs
to the rows it names: the loop refuses those and goes on. Any other exception means the process is not
trusted any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from engines.messages import Job, Model


class Fault(Exception):
    """This job cannot be drawn; everything else can. `code` as in realtime/errors.py `of_engine`.

    `rows` out of `step`: the rows at fault; the others of the call have advanced. Empty: the job's own.
    """

    def __init__(self, code: str, reason: str, field: str = "", rows: Sequence[Row] = ()) -> None:
        super().__init__(reason)
        self.code, self.reason, self.field, self.rows = code, reason, field, rows


class Unloadable(Exception):
    """This engine cannot run the model that was asked for. The message says why and what would help."""


class Row(Protocol):
    """One picture being denoised. The loop reads these; everything else is the pipeline's own."""

    lane: str  # rows of one lane can share a UNet call: model, latent size, feature set
    steps: int  # UNet calls this row needs in all
    position: int  # UNet calls it has had; the pipeline's `step` raises it by one
    slots: int  # batch places it takes per call: 1, or 2 with classifier-free guidance
    warnings: tuple[str, ...]  # as messages.Done
    timings: dict[str, float]  # seconds spent for this row outside steps: text, vae_encode, vae


class Running(Protocol):
    """A UNet call that the device has been given."""

    def wait(self) -> float:
        """Until the device has finished it: the seconds it took there. Any thread."""


class Pipeline(Protocol):
    models: list[Model]
    buckets: tuple[int, ...]  # slots a call may have, ascending; a single one when deterministic
    budget: int  # bytes of what sessions were shown that the loop may keep, for frames that come again
    overlaps: bool  # after `load`: what other threads call runs beside the steps and not between them

    def load(self, progress: Callable[[str, float, float, str], None]) -> None:
        """Import, load, warm. progress(stage, done, total, text): messages.Progress. Raises Unloadable."""

    def lane(self, job: Job) -> tuple[str, int, int]:
        """(lane, UNet calls, slots per image): what `rows` would return, without the work. Raises Fault."""

    def decode_inputs(self, job: Job) -> Any:
        """Decode and resize the job's image and mask; where the device overlaps, through the VAE too.

        Thread-safe; called on a pool. Raises Fault.
        """

    def knows(self, job: Job) -> bool:
        """Whether `rows` of this job without an image take next to no time: its prompt was encoded before."""

    def rows(self, job: Job, inputs: Any) -> list[Row]:
        """`job.count` rows ready for their first step: embeddings, init latents, noise. Raises Fault.

        Thread-safe where the device overlaps; called on a pool there, beside the steps.
        """

    def launch(self, rows: Sequence[Row], bucket: int) -> Running | None:
        """One UNet call over rows of one lane, padded to `bucket` slots; advances every row.

        None: it is done. Where the device overlaps it may just have begun, and whatever is called for these
        rows later comes after it. Raises Fault naming the rows that could not be advanced; then the call is
        done for the others.
        """

    def decode(self, rows: Sequence[Row]) -> list[Any | Fault]:
        """Finished rows of one lane to pixels: uint8 [H, W, 3] at the drawn size, in host memory.

        A row that came to nothing has its Fault in that place; the others have their pixels. Returns when
        they are there; called on one thread, the loop's or, where the device overlaps, one beside it.
        """

    def keep(self, row: Row) -> tuple[Any, int]:
        """(what decoding a finished row again takes, bytes). Thread-safe; called on a pool. Raises Fault."""

    def kept(self, kept: Any, job: Job) -> Row:
        """A kept row for a job that differs in its `vae`, `format` and `safety` only, ready for `decode`."""

    def peek(self, row: Row) -> Any:
        """What `preview` needs of a row between two steps. Costs next to nothing. Raises Fault."""

    def preview(self, row: Row, peeked: Any) -> Any:
        """The row's estimate of its finished picture, as `decode` gives pixels. Thread-safe; called on a
        thread beside the loop. Raises Fault if there is none."""

    def encode(self, row: Row, pixels: Any, job: Job) -> tuple[bytes, bool]:
        """Pixels to (file in job.format at job.width x job.height, unsafe: flagged, and shown black).

        Thread-safe; called on a pool. Raises Fault.
        """

    def drawn(self, row: Row) -> tuple[int, int]:
        """(width, height) in pixels the UNet draws this row at."""

    def stats(self) -> dict[str, float]:
        """Counters and gauges for Pong, such as "cache_text_hits"."""
