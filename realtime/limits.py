"""What one API key may use of this server, and the one place that refuses more.

Refusals are chosen by what fal's clients do with them (fal-js `retry.ts`, fal-client `_maybe_retry_request`):
they repeat a 429 three to ten times within half a minute, so a 429 is only given for what time alone heals.
A full quota of stored bytes is no such thing (507). Parts of an upload are not repeated by fal-client,
so a rate of bytes is judged where an upload begins, and its parts are only counted. Over a socket a
refusal is an error frame, and the session lives.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from realtime.errors import TooMuch
from realtime.service import Caller
from realtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one key. 0 is no limit."""

    sockets: int  # open at once
    frames_s: float  # frames and runs per second, with one second's worth at once
    queued: int  # requests that wait in the queue
    stored_bytes: int  # of files and kept pictures together
    upload_bytes_min: int  # per minute


class Meter:
    """A token bucket: `amount` in every `span_s` seconds, all of it at once if one likes."""

    __slots__ = ("_at", "_left", "_span_s", "_what", "amount")

    def __init__(self, amount: float, span_s: float, what: str) -> None:
        self.amount = amount  # may be changed; 0 takes everything
        self._span_s, self._what = span_s, what
        self._left = max(amount, 1.0)
        self._at = 0.0

    def take(self, now: float) -> None:
        """One of them. Raises TooMuch if there is none left. now: seconds, any monotonic clock."""
        amount = self.amount
        if not amount:
            return
        left = self._left + (now - self._at) * amount / self._span_s
        if left > amount:
            left = min(left, max(amount, 1.0))
        self._at = now
        if left < 1.0:
            self._left = left
            raise TooMuch(f"this key may send {amount:g} {self._what}; send again in a moment")
        self._left = left - 1.0

    def owe(self, now: float, amount: float) -> None:
        """Take so many in any case; until the debt is paid off, `take` finds none."""
        if self.amount:
            gained = (now - self._at) * self.amount / self._span_s
            self._left = min(self._left + gained, max(self.amount, 1.0)) - amount
            self._at = now


class Limits:
    """own: what a key was given for itself, by field of Quota; the settings hold for the others."""

    def __init__(
        self,
        settings: Settings,
        own: Callable[[str], Mapping[str, float]] = lambda key_id: {},
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usual = Quota(
            sockets=settings.key_sockets,
            frames_s=settings.key_frames_s,
            queued=settings.key_queued,
            stored_bytes=settings.key_stored_bytes,
            upload_bytes_min=settings.key_upload_bytes_min,
        )
        self._own, self._clock = own, clock
        self._sockets: Counter[str] = Counter()
        self._frames: dict[str, Meter] = {}
        self._uploads: dict[str, Meter] = {}

    def quota(self, key_id: str) -> Quota:
        own = self._own(key_id)
        return replace(self._usual, **own) if own else self._usual  # type: ignore[arg-type]

    def changed(self) -> None:
        """To be called when what keys were given changed; holds for open sockets at once."""
        for key_id, meter in self._frames.items():
            meter.amount = self.quota(key_id).frames_s
        for key_id, meter in self._uploads.items():
            meter.amount = self.quota(key_id).upload_bytes_min

    def meter(self, key_id: str) -> Meter:
        """Of the frames of a key. Sockets hold on to it: `take` is all a frame costs."""
        if key_id not in self._frames:
            self._frames[key_id] = Meter(self.quota(key_id).frames_s, 1.0, "frames per second")
        return self._frames[key_id]

    def frame(self, caller: Caller) -> None:
        """A run or a stream is about to be drawn. Raises TooMuch."""
        self.meter(caller.key_id).take(self._clock())

    def enter(self, key_id: str) -> None:
        """A socket opens; `leave` when it closes. Raises TooMuch."""
        limit = self.quota(key_id).sockets
        if limit and self._sockets[key_id] >= limit:
            raise TooMuch(f"{limit} sockets of this key are open, the most it may have")
        self._sockets[key_id] += 1

    def leave(self, key_id: str) -> None:
        self._sockets[key_id] -= 1
        if not self._sockets[key_id]:
            del self._sockets[key_id]

    def queue_depth(self, caller: Caller) -> int:
        """The most requests of this caller that may wait in the queue; 0 is no limit."""
        return self.quota(caller.key_id).queued

    def upload(self, caller: Caller) -> None:
        """An upload is about to begin. Raises TooMuch while its key has not paid off its last minute."""
        self._upload_meter(caller.key_id).take(self._clock())

    def uploaded(self, key_id: str, size: int) -> None:
        """Bytes that arrived."""
        self._upload_meter(key_id).owe(self._clock(), size)

    def _upload_meter(self, key_id: str) -> Meter:
        if key_id not in self._uploads:
            self._uploads[key_id] = Meter(
                self.quota(key_id).upload_bytes_min, 60.0, "uploaded bytes per minute"
            )
        return self._uploads[key_id]


NAMES = tuple(field.name for field in fields(Quota))
