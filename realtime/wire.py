"""Frames as bytes: msgpack and JSON to maps and back, with a bounded cost for hostile input.

fal's clients send a binary frame as msgpack and a text frame as JSON; the answer uses the framing of
the request (fal-js `realtime.ts`). Every limit below exists so that one frame of any content costs the
event loop less than 50 ms; the figures are of a 2-core VM and kept by tests/realtime/test_wire.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import msgpack
import msgspec

from realtime.errors import BadFrame

MAX_TEXT = 8 * 1024 * 1024  # characters of JSON; 16 Mi of them take 60 ms, and a picture can go as binary
MAX_DEPTH = 16  # fal's requests nest two deep
MAX_NODES = 16_384  # values in one msgpack message
MAX_WIDTH = (
    1_024  # entries of one msgpack array or map: an unfinished one is not counted, only this bounds it
)
MAX_COMMAS = 49_152  # of a JSON text: a 48 KB picture as {"0":255,...} (JSON.stringify of a Uint8Array)
MAX_BRACKETS = 4_096
FRAGMENT = 1024 * 1024  # bytes of a large answer that are written at once
MAX_ESCAPES = 1_000_000  # backslashes in a JSON text; unescaping costs ten times the copying

Message = dict[str, Any]


def decode(data: bytes | str) -> Message:
    """The map in one frame: msgpack if `data` is bytes, JSON if it is text.

    Values are None, bool, int, finite float, str without lone surrogates, bytes, list and dict with str
    keys. A msgpack timestamp becomes seconds as float (a `Date` in JavaScript). A JSON text that holds
    a JSON text is parsed once more: fal-js 1.8-1.10 encodes the first message twice if `encodeMessage`
    returns a string.
    Raises BadFrame with what is wrong and the limit crossed, never with content.
    """
    if isinstance(data, bytes):
        if (plain := _plain(data)) is not None:
            return plain
        value = _msgpack(data)
    else:
        value = _json(data)
        if isinstance(value, str):
            value = _json(value)
    if not isinstance(value, dict):
        raise BadFrame(f"a message must be a map, this one is {_KINDS.get(type(value), 'something else')}")
    # UTF-8 has no surrogates: half a pair can only come out of a JSON escape.
    _check(value, escapes=isinstance(data, str) and "\\" in data)
    return value


def encode(message: Message, *, binary: bool) -> bytes | str:
    """One frame: msgpack bytes, or JSON text in which bytes are described, not sent."""
    if binary:
        return _pack(message)
    return json.dumps(message, **_FORM)


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of a large message (RFC 6455 section 5.4); the next one follows until the `last`."""

    opcode: int  # of the message in its first fragment, then 0
    last: bool
    data: bytes | memoryview

    def __len__(self) -> int:
        return len(self.data)


def encode_large(message: Message, *, binary: bool) -> list[Fragment]:
    """As `encode`, to be called in a thread, and in fragments: to copy 75 MB takes 25 ms each time.

    A call into C keeps every other thread waiting: here none takes longer than one string of a JSON message
    (1 ms per MiB), or than a whole msgpack one (0.4 ms per MiB).
    """
    if binary:
        packed = memoryview(_pack(message))
        pieces: list[bytes | memoryview] = [
            packed[at : at + FRAGMENT] for at in range(0, len(packed), FRAGMENT)
        ]
    else:
        pieces = list(_text_pieces(message))
    opcodes = [2 if binary else 1, *[0] * (len(pieces) - 1)]
    last = pieces[-1]
    return [Fragment(opcode, piece is last, piece) for opcode, piece in zip(opcodes, pieces, strict=True)]


def _text_pieces(message: Message) -> Iterator[bytes]:
    """JSON, each string in one piece."""
    parts: list[str] = []
    size = 0
    for part in _writer.iterencode(message):
        parts.append(part)
        size += len(part)
        if size >= FRAGMENT:
            yield "".join(parts).encode()
            parts, size = [], 0
    if parts:
        yield "".join(parts).encode()


_pack = msgspec.msgpack.Encoder().encode  # a quarter of msgpack's time
_unpack = msgspec.msgpack.Decoder(Message).decode

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    bytes: "binary data",
    list: "an array",
}


def _describe(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else f"<{type(value).__name__}>"


_FORM: dict[str, Any] = {
    "ensure_ascii": False,
    "allow_nan": False,
    "separators": (",", ":"),
    "default": _describe,
}
_writer = json.JSONEncoder(**_FORM)


# ---- msgpack ----

_SCALARS = frozenset({type(None), bool, int, str, bytes})


def _plain(data: bytes) -> Message | None:
    """The map in an ordinary message, in half the time; None if there is anything to look at closely.

    msgspec keeps the last of two equal keys. A map that names one twice therefore packs shorter than it
    came, unless something in it packs longer, which only a float32 does; and so does one that was not
    packed as small as can be, which fal's clients do.
    """
    if len(data) > MAX_NODES or b"\xca" in data:
        return None
    try:
        message = _unpack(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for value in message.values():
        kind = type(value)
        if kind in _SCALARS or (kind is float and math.isfinite(value)):
            continue
        if kind is not dict:
            return None
        for key, inner in value.items():
            if type(key) is not str or type(inner) not in _SCALARS:
                return None
    return message if len(_pack(message)) == len(data) else None


class _Nodes:
    """Counts values while they are decoded, so that a frame of 16 million nils stops at MAX_NODES."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_NODES

    def take(self, values: int) -> None:
        self.left -= values + 1
        if self.left < 0:
            raise BadFrame(f"the message holds more than {MAX_NODES} values")

    def array(self, values: list[Any]) -> list[Any]:
        self.take(len(values))
        return values

    def map(self, pairs: list[tuple[Any, Any]]) -> Message:
        self.take(len(pairs))
        return _unique(pairs)


def _unique(pairs: list[tuple[Any, Any]]) -> Message:
    message = dict(pairs)
    if len(message) != len(pairs):
        raise BadFrame("a map names the same key twice")
    return message


def _no_extension(code: int, _: bytes) -> NoReturn:
    raise BadFrame(f"msgpack extension type {code} is not understood")


def _msgpack(data: bytes) -> Any:
    # No message holds more values than bytes, so that in most there is nothing to count.
    nodes = _Nodes() if len(data) > MAX_NODES else None
    try:
        return msgpack.unpackb(
            data,
            timestamp=1,
            object_pairs_hook=nodes.map if nodes else _unique,
            list_hook=nodes.array if nodes else None,
            ext_hook=_no_extension,
            max_array_len=MAX_WIDTH,
            max_map_len=MAX_WIDTH,
        )
    except UnicodeDecodeError:
        raise BadFrame("a string in the message is not UTF-8") from None
    except msgpack.StackError:
        raise BadFrame(f"the message nests deeper than {MAX_DEPTH} levels") from None
    except msgpack.ExtraData:
        raise BadFrame("bytes follow the end of the msgpack message") from None
    except msgpack.FormatError:
        raise BadFrame("the binary frame is not msgpack") from None
    except (ValueError, TypeError, OverflowError) as error:
        # msgpack's own words are kept for the limits alone: they name no content.
        if "max_" in str(error):
            raise BadFrame(f"an array or map in the message has more than {MAX_WIDTH} entries") from None
        if "map key" in str(error):
            raise BadFrame("a map key in the message is not a string") from None
        raise BadFrame("the msgpack message is cut short or malformed") from None


# ---- JSON ----


def _json(text: str) -> Any:
    # The C scanner has no limits of its own, so what makes it slow is counted first, at 2 GB/s.
    if len(text) > MAX_TEXT:
        raise BadFrame(f"the text has {len(text)} characters, the limit is {MAX_TEXT}; send binary")
    if text.count(",") > MAX_COMMAS:
        raise BadFrame(f"the message holds more than {MAX_COMMAS} values")
    if text.count("[") + text.count("{") > MAX_BRACKETS:
        raise BadFrame(f"the message holds more than {MAX_BRACKETS} arrays and maps")
    if text.count("\\") > MAX_ESCAPES:
        raise BadFrame(f"the text holds more than {MAX_ESCAPES} escapes")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise BadFrame(f"the message nests deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise BadFrame("the text is not JSON") from None


def _no_constant(name: str) -> NoReturn:
    raise BadFrame(f"{name} is not a JSON number")


# ---- both ----


def _check(message: Message, *, escapes: bool) -> None:
    """Depth, finite numbers, string keys, whole surrogate pairs: what neither decoder refuses by itself."""
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                for key in container:
                    if type(key) is not str:
                        raise BadFrame("a map key in the message is not a string")
                    if escapes and not key.isascii():
                        _check_text(key)
                container = container.values()
            for value in container:
                kind = type(value)
                if kind is float:
                    if not math.isfinite(value):
                        raise BadFrame("a number in the message is NaN or infinite")
                elif kind is str:
                    if escapes and not value.isascii():
                        _check_text(value)
                elif kind is dict or kind is list:
                    deeper.append(value)
        if not deeper:
            return
        level = deeper
    raise BadFrame(f"the message nests deeper than {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadFrame("a string in the message holds half of a surrogate pair") from None
