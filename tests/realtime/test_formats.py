"""The header reader: honest pictures are measured as Pillow measures them, hostile ones refused in time."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from realtime import formats
from realtime.formats import Header, Unreadable, header
from tests.pictures import (
    PNG,
    chunk,
    frames,
    jpeg,
    picture,
    png,
    segment,
    turned,
    vp8l,
    vp8x,
    webp,
    zeros,
)

MiB = 1024 * 1024

HONEST: dict[str, Callable[[], bytes]] = {
    "png": lambda: picture(),
    "png palette": lambda: picture(mode="P"),
    "png grey": lambda: picture(mode="L"),
    "png one bit": lambda: picture(mode="1"),
    "png alpha": lambda: picture(mode="RGBA"),
    "png 16 bit": lambda: picture(mode="I;16"),
    "png with a profile": lambda: picture(icc_profile=bytes(range(256)) * 20),
    "png followed by a zip": lambda: picture() + b"PK\3\4" + b"\0" * 100,
    "png without its end chunk": lambda: picture()[:-12],
    "jpeg": lambda: picture(format="JPEG"),
    "jpeg progressive": lambda: picture(format="JPEG", progressive=True),
    "jpeg grey": lambda: picture(format="JPEG", mode="L"),
    "jpeg cmyk": lambda: picture(format="JPEG", mode="CMYK"),
    "jpeg with a profile": lambda: picture(format="JPEG", icc_profile=bytes(200_000)),
    "jpeg with a comment": lambda: picture(format="JPEG", comment=b"hello" * 100),
    "jpeg followed by html": lambda: picture(format="JPEG") + b"<script>alert(1)</script>",
    "webp": lambda: picture(format="WEBP"),
    "webp lossless": lambda: picture(format="WEBP", lossless=True),
    "webp alpha": lambda: picture(format="WEBP", mode="RGBA"),
    "webp with a profile": lambda: picture(format="WEBP", icc_profile=bytes(1000)),
    "odd sides": lambda: picture(17, 331, "WEBP"),
    "wide": lambda: picture(4000, 1, "PNG"),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_picture_has_the_size_pillow_sees(name: str) -> None:
    data = HONEST[name]()
    found = header(data)
    with Image.open(io.BytesIO(data)) as image:
        assert (found.width, found.height) == image.size
        assert found.format == (image.format or "").lower()
    assert found.orientation == 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_read_as_pillow_applies_it(format: str, orientation: int) -> None:
    data = turned(orientation, 64, 48, format)
    found = header(data)
    assert found.orientation == orientation
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        shown = ImageOps.exif_transpose(image).size
    assert shown == ((48, 64) if orientation >= 5 else (64, 48))


def test_orientation_is_read_in_both_byte_orders_and_ignored_when_damaged() -> None:
    little = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    big = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    for exif, expected in (
        (little, 6),
        (big, 6),
        (little[:-9], 1),  # cut off
        (big.replace(b"\0\x06", b"\0\x09"), 1),  # 9 does not exist
        (b"Exif\0\0II*\0" + struct.pack("<I", 0xFFFFFFFF), 1),  # points nowhere
        (b"Exif\0\0II*\0" + struct.pack("<IH", 8, 0xFFFF), 1),  # promises 65,535 entries
        (b"Exif\0\0", 1),
    ):
        assert header(jpeg(64, 48, segment(0xE1, exif))) == Header("jpeg", 64, 48, expected)


def animated_png() -> bytes:
    return png(64, 64, chunk(b"acTL", struct.pack(">II", 10_000, 0)))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty"),
    "text": (lambda: b"hello, this is no picture", "no picture"),
    "gif": (lambda: picture(format="GIF"), "a GIF; send PNG, JPEG or WebP"),
    "gif with 10,000 frames": (lambda: b"GIF89a" + struct.pack("<HH", 8, 8) + b"\0" * 500_000, "a GIF"),
    "tiff": (lambda: picture(format="TIFF"), "a TIFF"),
    "tiff, big endian": (lambda: b"MM\0*" + b"\0" * 100, "a TIFF"),
    "bmp": (lambda: picture(format="BMP"), "a BMP"),
    "ico": (lambda: picture(32, 32, format="ICO"), "an icon"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
    "svg with a prologue": (lambda: b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg width='9'/>", "an SVG"),
    "html": (lambda: b"<!DOCTYPE html><html><img src=x></html>", "a web page"),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + b"\0" * 100, "a HEIC"),
    "avif": (lambda: b"\0\0\0\x18ftypavif" + b"\0" * 100, "an AVIF"),
    "mp4": (lambda: b"\0\0\0\x18ftypisom" + b"\0" * 100, "a video"),
    "pdf": (lambda: b"%PDF-1.7" + b"\0" * 100, "a PDF"),
    "zip": (lambda: b"PK\3\4" + b"\0" * 100, "a ZIP"),
    "svg that becomes a png": (lambda: b"<svg/>" + picture(), "an SVG"),
    "png: animated": (animated_png, "animated"),
    "png: animated by pillow": (lambda: frames(3, "PNG"), "animated"),
    "png: animated after its pixels": (
        lambda: png(8, 8)[:-12] + chunk(b"acTL", bytes(8)) + chunk(b"IEND"),
        "animated",
    ),
    "png: only the signature": (lambda: PNG, "ends inside"),
    "png: cut in the header": (lambda: picture()[:20], "ends inside"),
    "png: cut in the pixels": (lambda: picture(512, 512)[:-60], "cut off"),
    "png: no pixels": (lambda: PNG + picture()[8:33] + chunk(b"IEND"), "without pixels"),
    "png: another chunk first": (lambda: PNG + chunk(b"tEXt", b"a\0b" * 5) + picture()[8:], "header chunk"),
    "png: no width": (lambda: png(0, 64), "0x64"),
    "png: no height": (lambda: png(64, 0), "64x0"),
    "png: a text that inflates to 200 MB": (
        lambda: png(64, 64, chunk(b"zTXt", b"a\0\0" + zeros(200 * MiB))),
        "inflate",
    ),
    "png: a profile that inflates to 200 MB": (
        lambda: png(64, 64, chunk(b"iCCP", b"a\0\0" + zeros(200 * MiB))),
        "inflate",
    ),
    "png: an international text that inflates": (
        lambda: png(64, 64, chunk(b"iTXt", b"a\0\1\0en\0a\0" + zeros(200 * MiB))),
        "inflate",
    ),
    "png: fifty texts of 1 MiB": (
        lambda: png(64, 64, *[chunk(b"zTXt", b"a\0\0" + zeros(MiB))] * 50),
        "inflate",
    ),
    "png: a flood of texts": (lambda: png(64, 64, chunk(b"tEXt", b"a\0b") * MiB), "more than 512 chunks"),
    "png: a flood of pixel chunks": (
        lambda: png(64, 64, chunk(b"IDAT") * MiB),
        "more than 8192 chunks",
    ),
    "png: a text over the end": (
        lambda: PNG + picture()[8:33] + b"\xff\xff\xff\xfftEXt" + b"a" * 100,
        "cut off",
    ),
    "jpeg: cut in the header": (lambda: picture(format="JPEG")[:100], "ends inside"),
    "jpeg: only the start": (lambda: b"\xff\xd8\xff", "ends inside"),
    "jpeg: no size": (lambda: b"\xff\xd8" + segment(0xDA, b"\0" * 10) + b"\0" * 10, "does not state"),
    "jpeg: two sizes": (lambda: jpeg(8, 8, segment(0xC2, b"\x08\xff\xdc\xff\xdc\x03" + b"\0" * 9)), "twice"),
    "jpeg: zero lines": (lambda: jpeg(64, 0), "64x0"),
    "jpeg: 12 bits": (lambda: jpeg(64, 64, bits=12), "12-bit"),
    "jpeg: a flood of comments": (lambda: jpeg(64, 64, segment(0xFE, b"a") * (3 * MiB)), "more than 512"),
    "jpeg: a flood of fill bytes": (lambda: jpeg(64, 64, b"\xff" * (8 * MiB)), "more than 512"),
    "jpeg: a flood of scans": (lambda: jpeg(64, 64, scans=50_000), "scans"),
    "jpeg: garbage between segments": (lambda: jpeg(64, 64, segment(0xFE, b"a"), b"abcdef"), "damaged"),
    "webp: animated": (lambda: frames(3, "WEBP"), "animated"),
    "webp: animated, 10,000 frames": (
        lambda: webp(vp8x(64, 64, 0x02), (b"ANIM", b"\0" * 6), *[(b"ANMF", b"\0" * 24)] * 10_000),
        "animated",
    ),
    "webp: frames without the flag": (lambda: webp(vp8x(8, 8), (b"ANMF", b"\0" * 24)), "animated"),
    "webp: canvas and pixels differ": (lambda: webp(vp8x(8, 8), vp8l(16384, 16384)), "two sizes"),
    "webp: a flood of chunks": (
        lambda: webp(vp8x(8, 8), *[(b"EXIF", b"")] * 100_000, vp8l(8, 8)),
        "more than 512",
    ),
    "webp: cut": (lambda: picture(format="WEBP")[:-4], "cut off"),
    "webp: no pixels": (lambda: webp((b"EXIF", b"abcd")), "without pixels"),
    "webp: empty": (lambda: b"RIFF\4\0\0\0WEBP", "without pixels"),
    "webp: damaged pixels": (lambda: webp((b"VP8 ", b"\0" * 20)), "damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused_with_its_reason(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(Unreadable, match=reason.replace("(", r"\(")):
        header(make())


BOMBS = ["png: a flood", "inflate", "200 MB", "fifty", "jpeg: a flood", "webp: a flood", "10,000"]


@pytest.mark.parametrize("name", [name for name in REFUSED if any(bomb in name for bomb in BOMBS)])
def test_a_bomb_is_refused_in_ten_milliseconds_and_eight_megabytes(name: str) -> None:
    data = REFUSED[name][0]()
    spent = []
    for _ in range(5):
        t0 = time.process_time()
        with pytest.raises(Unreadable):
            header(data)
        spent.append(time.process_time() - t0)
    assert min(spent) <= 0.010

    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            header(data)
        assert tracemalloc.get_traced_memory()[1] <= 8 * MiB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (65500, 65500), (2**31 - 1, 2**31 - 1)])
def test_a_huge_claim_is_only_read(width: int, height: int) -> None:
    assert header(png(width, height)) == Header("png", width, height)
    if width < 2**16:
        assert header(jpeg(width, height)) == Header("jpeg", width, height)


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "webp alpha", "jpeg progressive"])
def test_any_damage_ends_in_a_header_or_in_unreadable(name: str) -> None:
    rng = random.Random(name)
    data = HONEST[name]()
    for length in range(len(data)):
        _read(data[:length])
    for _ in range(5000):
        torn = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            torn[rng.randrange(min(len(torn), 200))] = rng.randrange(256)
        _read(bytes(torn))


@given(
    st.sampled_from([b"", PNG, b"\xff\xd8\xff", b"RIFF\xff\xff\0\0WEBP", b"RIFF\4\0\0\0WEBPVP8X"]),
    st.binary(),
)
def test_any_bytes_end_in_a_header_or_in_unreadable(start: bytes, rest: bytes) -> None:
    _read(start + rest)


def _read(data: bytes) -> None:
    try:
        found = header(data)
    except Unreadable:
        return
    assert found.width > 0
    assert found.height > 0
    assert found.format in formats.ACCEPTED.lower()
