"""Decoding and encoding of frames, and what hostile ones cost."""

import contextlib
import json
import math
import struct
import time

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime import wire
from realtime.errors import BadFrame

MiB = 1024 * 1024

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(exclude_categories=("Cs",)))
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
messages = st.dictionaries(texts, values, max_size=6)


@given(st.dictionaries(texts, values | st.binary(), max_size=6))
def test_msgpack_survives_a_round_trip(message):
    assert wire.decode(wire.encode(message, binary=True)) == message


@given(messages)
def test_json_survives_a_round_trip(message):
    assert wire.decode(wire.encode(message, binary=False)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_bad_frame(data):
    with contextlib.suppress(BadFrame):
        assert isinstance(wire.decode(data), dict)


@given(st.text(max_size=200))
def test_any_text_is_a_message_or_a_bad_frame(text):
    with contextlib.suppress(BadFrame):
        assert isinstance(wire.decode(text), dict)


def _text(text: str) -> st.SearchStrategy[bytes]:
    data = text.encode()
    return st.sampled_from(
        [bytes((0xA0 | len(data),)), bytes((0xD9, len(data))), b"\xda\0" + bytes((len(data),))]
    ).map(lambda head: head + data)


def _map(pairs: list[tuple[bytes, bytes]]) -> st.SearchStrategy[bytes]:
    return st.sampled_from([bytes((0x80 | len(pairs),)), b"\xde\0" + bytes((len(pairs),))]).map(
        lambda head: head + b"".join(key + value for key, value in pairs)
    )


# Every form of msgpack, the long ones of short values too, and keys from so few that some come twice.
leaves = st.one_of(
    st.sampled_from(
        [b"\xc0", b"\xc3", b"\x07", b"\xcc\x07", b"\xcd\0\x07", b"\xe0", b"\xd1\xff\xe0", b"\xc4\x01\xca"]
    ),
    st.sampled_from([1.5, 0.1, math.nan, math.inf]).map(lambda number: b"\xcb" + struct.pack(">d", number)),
    st.sampled_from([1.5, 0.1, math.nan, -math.inf]).map(lambda number: b"\xca" + struct.pack(">f", number)),
    st.text("aé", max_size=3).flatmap(_text),
    st.just(msgpack.packb(msgpack.Timestamp(1, 0))),
)
keys = st.sampled_from("ab").flatmap(_text) | st.sampled_from([b"\x01", b"\xc0"])
forms = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(st.tuples(keys, inner), max_size=3).flatmap(_map),
        st.lists(inner, max_size=2).map(lambda items: bytes((0x90 | len(items),)) + b"".join(items)),
    ),
    max_leaves=6,
)


def _strict(data: bytes) -> object:
    """The slow and sure way: the value, or why there is none."""

    def unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
        if len(dict(pairs)) != len(pairs) or not all(isinstance(key, str) for key, _ in pairs):
            raise ValueError
        return dict(pairs)

    def finite(value: object) -> bool:
        if isinstance(value, dict | list):
            return all(map(finite, value.values() if isinstance(value, dict) else value))
        return not isinstance(value, float) or math.isfinite(value)

    try:
        value = msgpack.unpackb(data, timestamp=1, object_pairs_hook=unique, strict_map_key=False)
    except ValueError:
        return BadFrame
    return value if finite(value) else BadFrame


@given(st.lists(st.tuples(keys, forms), max_size=4).flatmap(_map))
@settings(max_examples=500)
def test_the_quick_way_and_the_sure_way_read_the_same(data):
    try:
        read: object = wire.decode(data)
    except BadFrame:
        read = BadFrame
    assert read == _strict(data)


@given(messages, st.data())
def test_a_truncated_message_is_a_bad_frame(message, data):
    packed = msgpack.packb(message)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(BadFrame):
        wire.decode(packed[:cut])


def test_the_captured_first_frame_of_the_javascript_client_is_understood():
    assert wire.decode(bytes.fromhex("82a670726f6d7074a161a47365656401")) == {"prompt": "a", "seed": 1}


def test_a_uint8array_arrives_as_bytes():
    frame = bytes.fromhex("82a670726f6d7074a161ab696d6167655f6279746573c403ffd8ff")
    assert wire.decode(frame) == {"prompt": "a", "image_bytes": b"\xff\xd8\xff"}


def test_undefined_arrives_as_none():
    assert wire.decode(msgpack.packb({"prompt": "a", "mask_url": None}))["mask_url"] is None


def test_a_date_is_seconds():
    packed = msgpack.packb({"at": msgpack.Timestamp(1_700_000_000, 500_000_000)})
    assert wire.decode(packed) == {"at": 1_700_000_000.5}


def test_a_message_encoded_twice_is_parsed_twice():
    assert wire.decode(json.dumps(json.dumps({"prompt": "a"}))) == {"prompt": "a"}


def test_a_message_encoded_three_times_is_refused():
    with pytest.raises(BadFrame, match="a map, this one is a string"):
        wire.decode(json.dumps(json.dumps(json.dumps({}))))


def test_bytes_in_a_text_answer_are_described_not_sent():
    assert json.loads(wire.encode({"input": b"\xff\xd8"}, binary=False)) == {"input": "<2 bytes>"}


HOSTILE = {
    "nothing": b"",
    "not a map: nil": b"\xc0",
    "not a map: string": msgpack.packb("prompt"),
    "not a map: array": msgpack.packb([{"prompt": "a"}]),
    "not a map: bytes": msgpack.packb(b"x"),
    "reserved byte": b"\xc1",
    "extra bytes": b"\x80\x80",
    "duplicate key": b"\x82\xa1a\x01\xa1a\x02",
    "duplicate key inside": b"\x81\xa1x\x82\xa1a\x01\xa1a\x02",
    "duplicate key, as long as one that is packed anew": b"\x83\xa1a\xa1x\xa1a\x01\xa1f\xca?\x80\0\0",
    "integer key": b"\x81\x01\x02",
    "bytes key": b"\x81\xc4\x01a\x02",
    "nil key": b"\x81\xc0\x02",
    "array key": b"\x81\x90\x02",
    "NaN": b"\x81\xa1a\xcb" + struct.pack(">d", math.nan),
    "infinity": b"\x81\xa1a\xca" + struct.pack(">f", math.inf),
    "NaN inside": b"\x81\xa1a\x91\x91\xcb" + struct.pack(">d", math.nan),
    "bad UTF-8": b"\x81\xa1a\xa2\xff\xfe",
    "surrogate": b"\x81\xa1a\xa3\xed\xa0\x80",
    "extension": msgpack.packb({"a": msgpack.ExtType(5, b"x")}),
    "huge array header": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "huge map header": b"\xdf\xff\xff\xff\xff",
    "huge string header": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "huge bytes header": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "deep": b"\x81\xa1a" * 17 + b"\xc0",
    "very deep": b"\x91" * 100_000,
    "many": msgpack.packb({"a": [[0] * 1000] * 17}),
    "text: nothing but spaces": "   ",
    "text: no JSON": "hello",
    "text: null": "null",
    "text: array": "[]",
    "text: number": "1",
    "text: string": '"{"',
    "text: NaN": '{"a":NaN}',
    "text: infinity": '{"a":-Infinity}',
    "text: overflow": '{"a":1e999}',
    "text: digits": '{"a":' + "1" * 10_000 + "}",
    "text: duplicate key": '{"a":1,"a":2}',
    "text: half a surrogate pair": '{"a":"\\ud800"}',
    "text: half a surrogate pair as key": '{"\\udc00":1}',
    "text: deep": '{"a":' * 17 + "1" + "}" * 17,
    "text: very deep": "[" * 4000,
    "text: brackets": '{"a":[' + ",".join(["{}"] * 5000) + "]}",
    "text: trailing": "{} {}",
    "text: BOM": "\ufeff{}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frame_is_refused_with_a_reason(name):
    with pytest.raises(BadFrame) as caught:
        wire.decode(HOSTILE[name])
    assert caught.value.reason
    assert len(caught.value.reason) < 200


def test_sixteen_levels_are_taken():
    assert wire.decode(b"\x81\xa1a" * 16 + b"\xc0")


def test_a_picture_as_an_index_map_is_taken():
    # JSON.stringify of a Uint8Array: serverless-client 0.6 and the HTTP routes send pictures so.
    text = json.dumps({"image_bytes": {str(i): i % 256 for i in range(48_000)}})
    assert len(wire.decode(text)["image_bytes"]) == 48_000


BIG = 16 * MiB - 64
EXPENSIVE = {
    "array of nils": lambda: b"\x81\xa1a\xdd\x00\xff\x00\x00" + b"\xc0" * (BIG - 7),
    "nested wide arrays": lambda: (b"\xdc\x04\x00" + b"\xc0" * 1023) * (BIG // 1026),
    "arrays of arrays": lambda: (
        b"\x81\xa1a" + (b"\xdc\x04\x00" + (b"\xdc\x04\x00" + b"\xc0" * 1024) * 1024) * 15
    ),
    "deep arrays": lambda: b"\x91" * BIG,
    "deep maps": lambda: b"\x81\xa1a" * (BIG // 3),
    "empty maps": lambda: b"\x81\xa1a" + (b"\xdc\x04\x00" + b"\x80" * 1024) * 16_000,
    "one string": lambda: b"\x81\xa1a\xdb" + struct.pack(">I", BIG) + b"a" * BIG,
    "one wide string": lambda: b"\x81\xa1a\xdb" + struct.pack(">I", BIG) + "a😀éa".encode() * (BIG // 8),
    "one string, bad at the end": lambda: (
        b"\x81\xa1a\xdb" + struct.pack(">I", BIG) + b"a" * (BIG - 1) + b"\xff"
    ),
    "one bytes": lambda: b"\x81\xa1a\xc6" + struct.pack(">I", BIG) + b"a" * BIG,
    "extra bytes": lambda: b"\x80" * BIG,
    "text: string": lambda: '{"a":"' + "a" * (8 * MiB - 8) + '"}',
    "text: too long": lambda: '{"a":"' + "a" * BIG + '"}',
    "text: escapes": lambda: '{"a":"' + "\\n" * (4 * MiB - 8) + '"}',
    "text: unicode escapes": lambda: '{"a":"' + "\\u00e9" * 999_999 + '"}',
    "text: wide": lambda: '{"a":"' + "a😀éa" * (2 * MiB - 2) + '"}',
    "text: commas": lambda: '{"a":[' + "1," * (4 * MiB - 8),
    "text: most commas": lambda: '{"a":{' + ",".join(f'"{i}":255' for i in range(49_000)) + "}}",
    "text: brackets": lambda: "[" * (8 * MiB - 8),
    "text: objects": lambda: '{"a":[' + "{}," * (2 * MiB),
    "text: digits": lambda: '{"a":0.' + "1" * (8 * MiB - 9) + "}",
    "text: spaces": lambda: " " * (8 * MiB - 8) + "{}",
    "text: double": lambda: json.dumps(json.dumps({"a": "a" * (7 * MiB)})),
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_the_largest_hostile_frame_costs_less_than_50_ms(name):
    frame = EXPENSIVE[name]()

    def cost() -> float:
        start = time.thread_time()
        with contextlib.suppress(BadFrame):
            wire.decode(frame)
        return time.thread_time() - start

    # The best of a few: a neighbour on the same core makes processor seconds longer.
    best = 1.0
    for _ in range(8):
        best = min(best, cost())
        if best < 0.05:
            break
    assert best < 0.05


# ---- large answers ----


def test_a_large_text_is_the_small_one_in_pieces_of_a_string_each():
    """A longer piece would be a longer call into C, during which no other thread runs."""
    pictures = [
        {"url": "ü💡\\" + "x" * size, "width": 8} for size in (3, wire.FRAGMENT, 1, 2 * wire.FRAGMENT)
    ]
    message = {"images": pictures, "bytes": b"1234", "seed": 2**53, "nothing": None}
    whole = wire.encode(message, binary=False)
    assert isinstance(whole, str)
    fragments = wire.encode_large(message, binary=False)
    assert b"".join(fragment.data for fragment in fragments) == whole.encode()
    assert [fragment.opcode for fragment in fragments] == [1, 0, 0]
    assert [fragment.last for fragment in fragments] == [False, False, True]
    assert max(map(len, fragments)) < 2 * wire.FRAGMENT + 200


@pytest.mark.parametrize("size", [10, wire.FRAGMENT - 7, wire.FRAGMENT, 5 * wire.FRAGMENT])
def test_a_large_binary_answer_is_the_small_one_in_pieces(size: int):
    message = {"image": bytes(size)}
    fragments = wire.encode_large(message, binary=True)
    assert b"".join(fragment.data for fragment in fragments) == wire.encode(message, binary=True)
    assert [fragment.opcode for fragment in fragments] == [2, *[0] * (len(fragments) - 1)]
    assert [fragment.last for fragment in fragments] == [*[False] * (len(fragments) - 1), True]
    assert max(map(len, fragments)) <= wire.FRAGMENT
