"""Replies on their way out: who has one writes it, as long as the gateway reads."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading

HELD = 256  # replies the gateway has not read yet


class Outbox:
    """Whole frames in the order of `send`, from any thread.

    What the socket does not take at once waits for `run`, which a thread of its own is in; it costs an
    engine that nobody keeps waiting neither a thread to wake nor a turn of the interpreter.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._late = False  # something waits: nobody may write past it
        self._waiting: queue.Queue[bytes | memoryview] = queue.Queue(HELD)

    def send(self, frame: bytes) -> None:
        """Blocks while HELD frames are unread. Raises OSError when the gateway is gone."""
        rest: bytes | memoryview = frame
        with self._lock:
            if not self._late:
                sent = 0
                with contextlib.suppress(BlockingIOError):
                    sent = self._sock.send(frame, socket.MSG_DONTWAIT)
                if sent == len(frame):
                    return
                rest, self._late = memoryview(frame)[sent:], True
            self._waiting.put(rest)

    def run(self) -> None:
        """Write what waits. Ends with OSError when the gateway is gone."""
        while True:
            self._sock.sendall(self._waiting.get())
            if self._waiting.empty():  # else somebody may hold the lock until there is room
                with self._lock:
                    self._late = not self._waiting.empty()
