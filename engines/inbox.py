"""Messages on their way in: the gateway's from the link, and what the engine's own threads tell the loop."""

from __future__ import annotations

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

    def take(self, wait: bool) -> Iterator[Any]:
        """What is here by now; with `wait`, sleep until there is something. What comes meanwhile is for the
        next boundary: an inbox that fills as fast as it is read must not stop the steps."""
        waited = [self._line.get()] if wait else []
        for _ in range(self._line.qsize() + wait):
            yield waited.pop() if waited else self._line.get()

    def run(self) -> None:
        """Read the link. Returns at its end, or with OSError: a reset, as it left replies unread. Raises
        LinkError for what no gateway writes."""
        decoder = Decoder()
        while data := self._sock.recv(1 << 18):
            for message in decoder.feed(data):
                self._line.put(message)
