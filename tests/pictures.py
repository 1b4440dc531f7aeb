"""Encoded pictures for tests: honest ones from Pillow, hostile ones by hand. All made on demand."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

PNG = b"\x89PNG\r\n\x1a\n"


def picture(
    width: int = 64, height: int = 48, format: str = "PNG", mode: str = "RGB", **options: Any
) -> bytes:
    """A white picture whose upper left quarter is black."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).rectangle((0, 0, max(0, width // 2 - 1), max(0, height // 2 - 1)), fill="black")
    image = image.convert("L").convert("I").point(lambda level: level * 257) if mode == "I;16" else image
    image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def turned(orientation: int, width: int = 64, height: int = 48, format: str = "JPEG") -> bytes:
    """A picture with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture(width, height, format, exif=exif.tobytes())


def data_uri(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, pixels: bytes | None = None) -> bytes:
    """A PNG with these chunks before its pixels. pixels: the inflated scan lines, b"" if not given."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels or b"", 9))
    return PNG + head + b"".join(chunks) + body + chunk(b"IEND")


def jpeg(width: int, height: int, *segments: bytes, bits: int = 8, scans: int = 1) -> bytes:
    """The skeleton of a JPEG: segments before SOF, no real pixels."""
    frame = segment(
        0xC0, struct.pack(">BHHB", bits, height, width, 3) + bytes((1, 17, 0, 2, 17, 1, 3, 17, 1))
    )
    scan = segment(0xDA, bytes((3, 1, 0, 2, 17, 3, 17, 0, 63, 0))) + b"\x11" * 8
    return b"\xff\xd8" + b"".join(segments) + frame + scan * scans + b"\xff\xd9"


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8l(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8L", struct.pack("<BI", 0x2F, width - 1 | height - 1 << 14) + b"\0" * 8


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes((flags, 0, 0, 0)) + sides


def frames(count: int, format: str) -> bytes:
    """An animation of `count` frames of 8x8 pixels."""
    images = [Image.new("RGB", (8, 8), (i * 83 % 256, i * 37 % 256, 0)) for i in range(count)]
    file = io.BytesIO()
    images[0].save(file, format, save_all=True, append_images=images[1:], duration=10)
    return file.getvalue()


@cache
def zeros(size: int) -> bytes:
    """`size` zeros, deflated."""
    deflate = zlib.compressobj(9)
    piece = bytes(1 << 20)
    return b"".join(deflate.compress(piece) for _ in range(size >> 20)) + deflate.flush()
