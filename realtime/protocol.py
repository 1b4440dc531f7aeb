"""One realtime connection without I/O: frames and the time go in; messages, sends and a close come out.

Nothing here knows a clock, a socket or an event loop, so idle limits, refusals and what happens after a
close are plain unit tests. The shell (`socket.py`) does four things, in any order:

* `receive(data, now)` for every data frame; it returns the request in it, if there is one;
* `answer()` / `fail()` / `refuse()` / `close()` when something is to be said;
* `data_to_send()` after any of these, until it is empty; a `Close` is the last thing it returns;
* `tick(now)` at `wake_at()`.

Rules of the wire (notes from fal-js `realtime.ts` 0.6-1.10 and fal-client 1.0.3):
a binary frame is msgpack and is answered in msgpack, a text frame is JSON and is answered in JSON;
control and error frames are always text; an empty text frame means nothing; one bad message is one
error frame and the connection lives; a refused connection was accepted first (an HTTP 401 on the
upgrade wedges JavaScript clients), is told why, and whatever it sent meanwhile is dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from realtime import wire
from realtime.errors import BadFrame, Failure


class Request(Struct, frozen=True, gc=False):
    """One decoded message."""

    payload: dict[str, Any]
    request_id: str  # as sent, "" if absent
    binary: bool  # came as msgpack, to be answered so
    size: int  # bytes or characters of the frame


@dataclass(frozen=True, slots=True)
class Close:
    code: int
    reason: str = ""


Output = bytes | str | wire.Fragment | Close


class Connection:
    def __init__(self, *, now: float, idle_s: float) -> None:
        self.idle_s = idle_s
        self.closed = False  # nothing is read or sent any more, except what `data_to_send` still holds
        self.errors = 0  # messages that were none
        self._heard = now
        self.outputs: deque[Output] = deque()  # what `data_to_send` still holds

    def receive(self, data: bytes | str, now: float) -> Request | None:
        """The request in a frame. None if there is none; then an error is due, unless the frame is empty."""
        if self.closed:
            return None
        self._heard = now
        if data == "":  # sent by unreleased fal-js versions in some states
            return None
        try:
            payload = wire.decode(data)
            identity = payload.get("request_id")
            if identity is not None and not isinstance(identity, str):
                if isinstance(identity, bool | list | dict | bytes):
                    raise BadFrame("request_id must be a string")
                identity = str(identity)
        except BadFrame as failure:
            self.errors += 1
            self.fail(failure)
            return None
        return Request(payload, identity or "", isinstance(data, bytes), len(data))

    def answer(self, body: dict[str, Any], *, binary: bool) -> None:
        """A result, in the framing of its request."""
        self._put(wire.encode(body, binary=binary))

    def answer_large(self, fragments: list[wire.Fragment]) -> None:
        """As `answer`, with what a thread has made of the body. Nothing else comes between."""
        for fragment in fragments:
            self._put(fragment)

    def fail(self, failure: Failure, request_id: str | None = None) -> None:
        """An error frame, text; `request_id` of what it answers. The connection goes on."""
        self._put(wire.encode(failure.frame(request_id), binary=False))

    def refuse(self, failure: Failure, code: int = 1000) -> None:
        """Say why and close: with the failure's own close code, or `code` if it has none."""
        self.fail(failure)
        self.close(failure.close or code)

    def close(self, code: int, reason: str = "") -> None:
        """Send what is due and close. Nothing is sent after this; further calls do nothing."""
        self._put(Close(code, reason))
        self.closed = True

    def drop(self) -> None:
        """The peer is gone: nothing can be sent any more."""
        self.closed = True
        self.outputs.clear()

    def wake_at(self) -> float:
        """When `tick` has something to do at the earliest, on the clock of `now`."""
        return self._heard + self.idle_s

    def tick(self, now: float, *, busy: bool = False) -> None:
        """Close an idle connection: no message for `idle_s` and none being answered.

        A plain 1000: clients reconnect on their next send. fal's own TIMEOUT frame is shown as an error
        by fal-client and by JavaScript clients before 0.8.6. Sockets orphaned by 0.6 and 0.7, whose
        `close()` does nothing, end here too.
        """
        if self.closed or now < self.wake_at():
            return
        if busy:
            self._heard = now
        else:
            self.close(1000)

    def data_to_send(self) -> Output | None:
        """The next message or close to put on the wire, oldest first; None if there is nothing."""
        return self.outputs.popleft() if self.outputs else None

    @property
    def unsent(self) -> int:
        """Outputs not fetched yet. Who reads on while this grows lets the peer fill our memory."""
        return len(self.outputs)

    def _put(self, output: Output) -> None:
        if not self.closed:
            self.outputs.append(output)
