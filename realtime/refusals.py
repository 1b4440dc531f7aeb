"""A log line for what was refused, failed or took long: which app, why, how long; never what was asked.

Any client can cause them, so of each event and kind there are PER_MINUTE at most; the next one says how many
were left out. /metrics counts them all.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from realtime import log
from realtime.errors import TooMuch
from realtime.limits import Meter

PER_MINUTE = 30
SLOW_S = 10.0  # the largest bucket of realtime_frame_seconds
ID = re.compile(r"[\w-]{1,64}")  # what a client may choose; anything else could be a prompt

Key = tuple[str, str]


class Refusals:
    """logger: takes lines as structlog's do. clock: seconds, monotonic."""

    def __init__(self, logger: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger or log.get("realtime.refusals")
        self._clock = clock
        self._meters: dict[Key, Meter] = {}
        self._left_out: Counter[Key] = Counter()

    def tell(self, what: str, kind: str, status: int, request_id: str = "", **fields: Any) -> None:
        """`what` ("http", "frame", ...) was not done. kind: `Failure.error_type`. status: as HTTP would say;
        from 500 on it is a warning."""
        event, level = ("failed", self._logger.warning) if status >= 500 else ("refused", self._logger.info)
        self._write(level, (f"{what}.{event}", kind), request_id, kind=kind, status=status, **fields)

    def timed(self, what: str, seconds: float, request_id: str = "", **fields: Any) -> None:
        """`what` was done, which is told of only if it took long."""
        if seconds >= SLOW_S:
            key = f"{what}.slow", ""
            self._write(self._logger.info, key, request_id, seconds=round(seconds, 3), **fields)

    def _write(self, write: Callable[..., Any], key: Key, request_id: str, **fields: Any) -> None:
        meter = self._meters.setdefault(key, Meter(PER_MINUTE, 60.0, ""))
        try:
            meter.take(self._clock())
        except TooMuch:
            self._left_out[key] += 1
            return
        if left_out := self._left_out.pop(key, 0):
            fields["left_out"] = left_out
        if ID.fullmatch(request_id):
            fields["request_id"] = request_id
        write(key[0], **fields)
