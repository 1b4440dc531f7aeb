"""The link between gateway and engine: framing, and the dataclasses of `messages` as msgpack.

A frame is a 4-byte big-endian length and that many bytes of msgpack `[kind, fields]`: the name of a
class in a fixed table, and its fields in order (nested dataclasses as lists of theirs). Both ends
are of one version and one machine, so there is no negotiation. Sans-IO: sockets live with the callers.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import msgpack

from engines.messages import ENGINE_TO_GATEWAY, GATEWAY_TO_ENGINE

MAX_FRAME = 64 * 1024 * 1024  # bytes; two fetched pictures of 20 MiB and their prompt fit
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in GATEWAY_TO_ENGINE + ENGINE_TO_GATEWAY}


class LinkError(Exception):
    """The stream is not what the other end of a link writes, or a message cannot be sent at all."""


def pack(message: Any) -> bytes:
    """One frame. Raises LinkError for what cannot cross: over MAX_FRAME, or text that is no Unicode."""
    try:
        kind = type(message)
        body: bytes = msgpack.packb([kind.__name__, _WRITERS[kind](message)])
    # UnicodeEncodeError is a ValueError; KeyError and AttributeError: no message, or not whole
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise LinkError(f"{type(message).__name__} cannot be packed: {type(error).__name__}") from None
    if len(body) > MAX_FRAME:
        raise LinkError(f"{type(message).__name__} of {len(body)} bytes, the limit is {MAX_FRAME}")
    return len(body).to_bytes(4, "big") + body


def unpack(body: bytes | bytearray | memoryview) -> Any:
    """The message in the body of one frame. Raises LinkError."""
    try:
        kind, values = msgpack.unpackb(body)
        return _READERS[kind](values)
    # msgpack raises ValueError and its subclasses, and what the buffer protocol and Unicode raise
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
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

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages `data` completes, in order. Raises LinkError after the last whole one."""
        self._buffer += data
        while self._dead is None and len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > self.max_frame:
                self._die(LinkError(f"a frame of {length} bytes is announced, the limit is {self.max_frame}"))
                break
            if len(self._buffer) < 4 + length:
                return
            body = bytes(memoryview(self._buffer)[4 : 4 + length])
            del self._buffer[: 4 + length]
            try:
                message = unpack(body)
            except LinkError as error:
                self._die(error)
                break
            yield message
        if self._dead is not None:
            self._buffer.clear()
            raise self._dead

    def _die(self, error: LinkError) -> None:
        self._dead = error


def _writer(kind: Any) -> Callable[[Any], Any] | None:
    """What turns a `kind` into a plain value, the inverse of its reader; None where it already is one."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        names = _names(kind)
        hints = typing.get_type_hints(kind)
        nested = [(at, write) for at, name in enumerate(names) if (write := _writer(hints[name]))]
        fields = attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)

        def write(value: Any) -> Any:
            values = list(fields(value))
            for at, inner in nested:
                values[at] = inner(values[at])
            return values

        return write
    if typing.get_origin(kind) is list:
        item = _writer(typing.get_args(kind)[0])
        return None if item is None else lambda values: [item(value) for value in values]
    return None


def _reader(kind: Any) -> Callable[[Any], Any] | None:
    """What turns a plain value into `kind`; None where the plain value already is one."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        readers = [_reader(hints[name]) for name in _names(kind)]
        nested = [(at, read) for at, read in enumerate(readers) if read is not None]

        def read(values: Any) -> Any:
            if type(values) is not list or len(values) != len(readers):
                raise TypeError(f"{kind.__name__} has {len(readers)} fields")
            for at, inner in nested:
                values[at] = inner(values[at])
            return kind(*values)

        return read
    if typing.get_origin(kind) is list:
        item = _reader(typing.get_args(kind)[0])
        return None if item is None else lambda values: [item(value) for value in values]
    return None


def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


_WRITERS: dict[type[Any], Callable[[Any], Any]] = {
    kind: write for kind in KINDS.values() if (write := _writer(kind))
}
_READERS: dict[str, Callable[[Any], Any]] = {
    name: read for name, kind in KINDS.items() if (read := _reader(kind))
}
