"""`python -m bench.noop serve ...`: our server with a no-op in the place of the engine process.

What fal's SDK does with a no-op app: the whole gateway works (framing, msgpack, validation, planning, order,
answer), the drawing is a constant in the same process. Beside the real thing it shows what the second
process costs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from engines.fake import Fake, _flat
from engines.messages import Done, Job, Model, Picture, Progress
from realtime import cli, server
from realtime.settings import Settings


class Noop:
    """As `realtime.engine.Engine`, answering each job at the next turn of the event loop."""

    def __init__(self, settings: Settings, *, on_change: Callable[[], None] | None = None) -> None:
        self.models: list[Model] = Fake().models
        self.state = "ready"
        self.progress: Progress | None = None
        self.stats: dict[str, float] = {}
        self.restarts = 0
        self._on_change = on_change
        self._ticket = 0
        self._loop: asyncio.AbstractEventLoop
        self._picture = Picture(_flat((200, 40, 40), 128, 128, "jpeg"), "image/jpeg", 128, 128, False)

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._on_change is not None:
            self._on_change()
        await asyncio.Event().wait()

    def submit(
        self,
        *,
        session: str,
        received: float,
        job: Job,
        buffering: int,
        deadline_s: float | None,
        weight: float,
        on_reply: Callable[[Done], None],
    ) -> int:
        self._ticket += 1
        done = Done(
            self._ticket,
            [self._picture] * job.count,
            job.seed,
            [128, 128],
            {"inference": 0.0, "steps": []},
            time.monotonic(),
        )
        self._loop.call_soon(on_reply, done)
        return self._ticket

    def cancel(self, tickets: Iterable[int]) -> None:
        """Nothing is held, so there is nothing to cancel."""

    async def stop(self, timeout_s: float) -> None:
        """Nothing runs."""


if __name__ == "__main__":
    server.Engine = Noop  # type: ignore[assignment,misc]
    cli.app()
