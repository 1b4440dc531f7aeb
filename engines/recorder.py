"""The flight recorder: which requests an engine process was working on when it ended, however it ended.

A page of shared memory that outlives the engine. Its words are tickets (0: free); each is written by one
aligned 8-byte store, so a process killed between any two instructions leaves no half-written one.
"""

from __future__ import annotations

import mmap
import os
import tempfile

PLACES = 511  # requests; the last word of the page is 1 if there were ever more


class Recorder:
    """The engine's side writes, the gateway's reads; both map the same `fd`."""

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, 8 * (PLACES + 1))
        self._words = memoryview(self._page).cast("Q")
        self._place: dict[int, int] = {}
        self._free = list(range(PLACES))

    def begin(self, ticket: int) -> None:
        """From now on this request may be what ends the process. Idempotent."""
        if ticket in self._place:
            return
        if not self._free:
            self._words[PLACES] = 1
            return
        place = self._place[ticket] = self._free.pop()
        self._words[place] = ticket

    def end(self, ticket: int) -> None:
        """The process has survived this request. Unknown ones are ignored."""
        place = self._place.pop(ticket, None)
        if place is not None:
            self._words[place] = 0
            self._free.append(place)

    def tickets(self) -> set[int] | None:
        """What was being worked on; None if there was more than could be written down."""
        return None if self._words[PLACES] else {ticket for ticket in self._words if ticket}

    def close(self) -> None:
        self._words.release()
        self._page.close()


def page() -> int:
    """A new file descriptor for a recorder, all zeros. The caller closes it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("recorder")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, 8 * (PLACES + 1))
    return fd
