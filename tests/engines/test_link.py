"""Framing: any split decodes the same, and garbage ends a link instead of feeding it."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.link import MAX_FRAME, Decoder, LinkError, pack, unpack
from engines.messages import (
    Cancel,
    Done,
    Dropped,
    Job,
    Model,
    Picture,
    Ping,
    Pong,
    Progress,
    Ready,
    Refused,
    Submit,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
number = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 1e9)
stats = st.dictionaries(text, seconds, max_size=3)
jobs = st.builds(
    Job,
    prompt=text,
    seed=number,
    width=st.integers(8, 4096),
    height=st.integers(8, 4096),
    negative_prompt=text,
    steps=st.integers(1, 12),
    guidance=seconds,
    strength=st.floats(0, 1),
    image=st.none() | st.binary(max_size=300),
    mask=st.none() | st.binary(max_size=300),
    mask_only=st.booleans(),
    count=st.integers(1, 8),
    format=st.sampled_from(["jpeg", "png", "webp"]),
    safety=st.booleans(),
    model=text,
)
models = st.builds(Model, *[text] * 2, *[number] * 4, *[text] * 3, st.booleans(), st.lists(text, max_size=3))
pictures = st.builds(Picture, st.binary(max_size=300), text, number, number, st.booleans())
timings = st.fixed_dictionaries(
    {"queue": seconds, "steps": st.lists(st.fixed_dictionaries({"seconds": seconds, "batch": number}))}
)
messages = st.one_of(
    st.builds(Submit, number, text, seconds, jobs, st.integers(0, 9), st.none() | seconds, seconds),
    st.builds(Cancel, st.lists(number, max_size=5)),
    st.builds(Ping, number),
    st.builds(Progress, text, seconds, seconds, text),
    st.builds(Ready, number, st.lists(models, max_size=2), stats),
    st.builds(
        Done,
        ticket=number,
        pictures=st.lists(pictures, max_size=3),
        seed=number,
        drawn=st.lists(number, min_size=2, max_size=2),
        timings=timings,
        finished=seconds,
        safety_checked=st.booleans(),
    ),
    st.builds(Dropped, number, text),
    st.builds(Refused, number, text, text, text),
    st.builds(Pong, number, stats),
)


def decoded(parts: list[bytes]) -> list[object]:
    decoder = Decoder()
    return [message for part in parts for message in decoder.feed(part)]


@given(messages)
def test_a_message_arrives_as_it_was_sent(message):
    assert unpack(pack(message)[4:]) == message


@given(st.lists(messages, min_size=1, max_size=4), st.data())
def test_any_split_of_a_stream_decodes_the_same(sent, data):
    stream = b"".join(pack(message) for message in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    edges = [0, *sorted(cuts), len(stream)]
    parts = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert decoded(parts) == sent


def test_a_stream_in_single_bytes_decodes_the_same():
    sent = [Ping(1), Submit(2, "s", 0.5, Job("a red fox", 3, 64, 64, image=b"\0" * 500)), Ping(3)]
    stream = b"".join(pack(message) for message in sent)
    assert decoded([stream[n : n + 1] for n in range(len(stream))]) == sent


@given(st.binary(max_size=400), st.data())
def test_garbage_ends_the_link_or_waits_for_more_and_never_spins(garbage, data):
    decoder = Decoder(max_frame=1000)
    cut = data.draw(st.integers(0, len(garbage)))
    try:
        for part in (garbage[:cut], garbage[cut:]):
            for _ in decoder.feed(part):
                pass
    except LinkError:
        with pytest.raises(LinkError):
            list(decoder.feed(b""))
        assert decoder.pending == 0
    else:
        assert decoder.pending <= 1004


@given(messages, st.data())
def test_a_damaged_message_is_an_error_or_a_message_and_nothing_else(message, data):
    body = bytearray(pack(message)[4:])
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LinkError):
        unpack(bytes(body))


def test_an_announced_length_over_the_limit_is_refused_before_it_is_buffered():
    decoder = Decoder()
    with pytest.raises(LinkError, match="the limit is"):
        list(decoder.feed((MAX_FRAME + 1).to_bytes(4, "big") + b"x" * 100))
    assert decoder.pending == 0


def test_what_came_whole_before_the_garbage_is_delivered():
    decoder, got = Decoder(), []
    with pytest.raises(LinkError):
        got.extend(iter(decoder.feed(pack(Ping(1)) + pack(Ping(2)) + b"\xff" * 8)))
    assert got == [Ping(1), Ping(2)]


@pytest.mark.parametrize(
    "body", [b"", b"\xc0", b"\x92\xa4Ping", b"\x92\xa4Ping\x90", b"\x92\xa4Pong\x91\x01"]
)
def test_a_wrong_shape_is_refused(body):
    with pytest.raises(LinkError):
        unpack(body)


def test_a_kind_nobody_knows_is_refused():
    with pytest.raises(LinkError):
        unpack(b"\x92\xa6object\x90")


def test_text_that_is_no_unicode_cannot_be_packed():
    with pytest.raises(LinkError, match="cannot be packed"):
        pack(Submit(1, "s", 0.0, Job("\ud800", 1, 64, 64)))


def test_a_message_over_the_limit_cannot_be_packed():
    with pytest.raises(LinkError, match="the limit is"):
        pack(Submit(1, "s", 0.0, Job("", 1, 64, 64, image=bytes(MAX_FRAME))))
