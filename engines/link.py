"""The link between gateway and engine: framing, and the messages of `messages` as msgpack.

A frame is a 4-byte big-endian length and that many bytes of msgpack: an array of the name of a message
and its fields in order (nested ones as arrays of theirs), checked against their types when it is read.
Both ends are of one version and one machine, so there is no negotiation. Sans-IO: sockets live with the
callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from engines.messages import Message, ToEngine, ToGateway

MAX_FRAME = 64 * 1024 * 1024  # bytes; two fetched pictures of 20 MiB and their prompt fit


class LinkError(Exception):
    """The stream is not what the other end of a link writes, or a message cannot be sent at all."""


def pack(message: Message) -> bytes:
    """One frame. Raises LinkError for what cannot cross: over MAX_FRAME, or text that is no Unicode."""
    try:
        body = _encode(message)
    except (ValueError, TypeError, OverflowError) as error:  # UnicodeEncodeError is a ValueError
        raise LinkError(f"{type(message).__name__} cannot be packed: {type(error).__name__}") from None
    if len(body) > MAX_FRAME:
        raise LinkError(f"{type(message).__name__} of {len(body)} bytes, the limit is {MAX_FRAME}")
    return len(body).to_bytes(4, "big") + body


def unpack(body: bytes | bytearray | memoryview) -> ToEngine | ToGateway:
    """The message in the body of one frame. Raises LinkError."""
    try:
        return _decode(body)
    # The last two escape msgspec's own tree for text that is no UTF-8 and for deep nesting.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(f"a frame of {len(body)} bytes is no message: {type(error).__name__}") from None


class Decoder:
    """Bytes in, messages out, whatever the split. After one LinkError it stays dead and says so again."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.max_frame = max_frame
        self._buffer = bytearray()
        self._dead: LinkError | None = None

    @property
    def pending(self) -> int:
        """Bytes of a frame that has not come whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[ToEngine | ToGateway]:
        """The messages `data` completes, in order. Raises LinkError after the last whole one."""
        self._buffer += data
        at = 0
        try:
            while self._dead is None and len(self._buffer) >= at + 4:
                length = int.from_bytes(self._buffer[at : at + 4], "big")
                if length > self.max_frame:
                    self._dead = LinkError(
                        f"a frame of {length} bytes is announced, the limit is {self.max_frame}"
                    )
                elif len(self._buffer) < at + 4 + length:
                    return
                else:
                    body, at = self._buffer[at + 4 : at + 4 + length], at + 4 + length
                    yield unpack(body)
        except LinkError as error:
            self._dead = error
        finally:
            del self._buffer[:at]
        if self._dead is not None:
            self._buffer.clear()
            raise self._dead


_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes | bytearray | memoryview], ToEngine | ToGateway]
_decode = msgspec.msgpack.Decoder(ToEngine | ToGateway).decode
