"""Messages on their way in: the gateway's from the link, and what the engine's own threads tell the loop."""

from __future__ import annotations

import math
import queue
import socket
from collections.abc import Iterator
from typing import Any

from engines.link import Decoder


class Inbox:
    """One line for all, in the order of `put`. `run` has a thread of its own, the reader; the step loop
    takes; anybody puts."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._line: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, message: Any) -> None:
        self._line.put(message)

    def take(self, wait_s: float) -> Iterator[Any]:
        """What is here by now; if that is nothing, sleep until something is, so long at most. What comes
        meanwhile is for the next boundary: an inbox that fills as fast as it is read must not stop the
        steps."""
        if wait_s > 0 and self._line.empty():
            try:
                yield self._line.get(timeout=None if wait_s == math.inf else wait_s)
            except queue.Empty:
                return
        for _ in range(self._line.qsize()):
            yield self._line.get()

    def run(self) -> None:
        """Read the link. Returns at its end, or with OSError: a reset, as it left replies unread. Raises
        LinkError for what no gateway writes."""
        decoder = Decoder()
        while data := self._sock.recv(1 << 18):
            for message in decoder.feed(data):
                self._line.put(message)
