"""Jobs that ended two engines, remembered for ten minutes so that they end no third one."""

from __future__ import annotations

import hashlib
from collections import Counter

from engines.messages import Job

POISON_S = 600.0
MOST = 4096

# Where a client names no seed, each frame is drawn one of its own: the very same frame has another job.
_FIELDS = tuple(name for name in Job.__struct_fields__ if name != "seed")


class Poison:
    """Times are seconds of one monotonic clock. Two jobs are one if nothing but their seeds differs."""

    def __init__(self) -> None:
        # digest -> (forgotten at, outline); the first to be forgotten first
        self._known: dict[bytes, tuple[float, bytes]] = {}
        self._alike: Counter[bytes] = Counter()  # how many of these have an outline

    def __len__(self) -> int:
        return len(self._known)

    def add(self, job: Job, now: float) -> None:
        """The oldest is forgotten where there are too many."""
        outline, pictures = _outline(job)
        digest = _digest(outline, pictures)
        self._forget(digest)
        self._forget_old(now)
        while len(self._known) >= MOST:
            self._forget(next(iter(self._known)))
        self._known[digest] = now + POISON_S, outline
        self._alike[outline] += 1

    def has(self, job: Job, now: float) -> bool:
        """Pictures are read, 1 ms per MiB, only where all else is as in one that is remembered."""
        if not self._known:
            return False
        self._forget_old(now)
        outline, pictures = _outline(job)
        return outline in self._alike and _digest(outline, pictures) in self._known

    def _forget_old(self, now: float) -> None:
        while self._known:
            digest, (until, _) = next(iter(self._known.items()))
            if until > now:
                return
            self._forget(digest)

    def _forget(self, digest: bytes) -> None:
        if digest not in self._known:
            return
        _, outline = self._known.pop(digest)
        self._alike[outline] -= 1
        if not self._alike[outline]:
            del self._alike[outline]


def _outline(job: Job) -> tuple[bytes, list[bytes]]:
    """(digest of everything but the pictures, of which only the lengths are in it; the pictures)."""
    values = [getattr(job, name) for name in _FIELDS]
    pictures = [value for value in values if isinstance(value, bytes)]
    words = repr([len(value) if isinstance(value, bytes) else value for value in values])
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest(), pictures


def _digest(outline: bytes, pictures: list[bytes]) -> bytes:
    digest = hashlib.blake2b(outline, digest_size=16)
    for picture in pictures:
        digest.update(picture)
    return digest.digest()
