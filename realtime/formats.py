"""The headers of PNG, JPEG and WebP: enough to refuse a hostile picture without decoding one pixel.

Pillow's own header readers are no guard: 16 MiB of tiny chunks keep them busy for 4 s (PNG) and 6.5 s
(JPEG, Pillow 13.0), and PNG texts inflate to 64 MiB. Here the work is bounded by counts, the memory by
the file. What passes may still be damaged inside; the engine's decoder finds that.

Sources: PNG (W3C REC-png-3), JPEG (ITU-T T.81 annex B), WebP (RFC 9649), EXIF 2.32 §4.6.2.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

ACCEPTED = "PNG, JPEG or WebP"
MAX_CHUNKS = 8192  # libpng writes 8 KiB a chunk: 16 MiB are 2,048
MAX_EXTRAS = 512  # chunks or segments that are no pixels; a camera writes fewer than 50
MAX_TEXT = 2 * 1024 * 1024  # bytes that compressed PNG texts and profiles may inflate to, together
MAX_SCANS = 100  # each costs a pass over all pixels; progressive encoders write about 10


class Unreadable(Exception):
    """The bytes are no acceptable picture. The text completes "the picture ..."."""


@dataclass(frozen=True, slots=True)
class Header:
    format: str  # png | jpeg | webp
    width: int  # pixels as stored
    height: int
    orientation: int = 1  # EXIF 1..8; from 5 on the picture is shown on its side


def header(data: bytes) -> Header:
    """What the file says about itself. Raises Unreadable. 10 ms at most, whatever the file."""
    try:
        if data.startswith(PNG):
            found = _png(data)
        elif data.startswith(b"\xff\xd8\xff"):
            found = _jpeg(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            found = _webp(data)
        else:
            raise Unreadable(f"is {_name(data)}; send {ACCEPTED}")
    except (struct.error, IndexError):
        raise Unreadable("ends inside its header") from None
    if found.width == 0 or found.height == 0:
        raise Unreadable(f"is {found.width}x{found.height} pixels, which is nothing")
    return found


PNG = b"\x89PNG\r\n\x1a\n"


def _png(data: bytes) -> Header:
    length, kind = struct.unpack_from(">I4s", data, 8)
    if kind != b"IHDR" or length != 13:
        raise Unreadable("is a PNG without its header chunk")
    width, height = struct.unpack_from(">II", data, 16)
    orientation, extras, text, pixels = 1, 0, MAX_TEXT, False
    at = 33
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):  # without IEND: decoders do not mind
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise Unreadable("is cut off: its last chunk is incomplete")
        if kind == b"IDAT":
            pixels = True
        elif kind == b"IEND":
            break
        else:
            extras += 1
            if extras > MAX_EXTRAS:
                raise Unreadable(f"has more than {MAX_EXTRAS} chunks that are no pixels")
            body = memoryview(data)[at + 8 : at + 8 + length]
            if kind == b"acTL":
                raise Unreadable("is animated; send a still picture")
            if kind == b"eXIf":
                orientation = _orientation(bytes(body))
            elif kind in (b"zTXt", b"iCCP", b"iTXt"):
                text -= _inflated(kind, bytes(body), text)
        at += 12 + length
    else:
        raise Unreadable(f"has more than {MAX_CHUNKS} chunks")
    if not pixels:
        raise Unreadable("is a PNG without pixels")
    return Header("png", width, height, orientation)


def _inflated(kind: bytes, body: bytes, limit: int) -> int:
    """Size of a compressed text when inflated. Raises Unreadable over `limit`."""
    _, _, rest = body.partition(b"\0")  # keyword
    if kind == b"iTXt":
        # compressed?, method, language, translated keyword, text
        rest = b"\0" + rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else b""
    if len(rest) < 2:
        return 0
    try:
        size = len(zlib.decompressobj().decompress(rest[1:], limit + 1))
    except zlib.error:
        return 0  # decoders skip a broken text
    if size > limit:
        raise Unreadable(f"has texts that inflate to more than {MAX_TEXT} bytes")
    return size


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length


def _jpeg(data: bytes) -> Header:
    size: tuple[int, int] | None = None
    orientation = 1
    at = 2
    for _ in range(MAX_EXTRAS):
        if data[at] != 0xFF:
            raise Unreadable("is a damaged JPEG: a segment does not start where the last one ends")
        marker = data[at + 1]
        at += 2
        if marker == 0xFF:  # a fill byte
            at -= 1
        elif marker == 0xDA:  # the pixels begin
            break
        elif marker not in _BARE:
            (length,) = struct.unpack_from(">H", data, at)
            if marker in _FRAMES:
                if size:
                    raise Unreadable("is a damaged JPEG: it states its size twice")
                bits, height, width = struct.unpack_from(">BHH", data, at + 2)
                if bits != 8:
                    raise Unreadable(f"is a {bits}-bit JPEG; send 8 bits")
                size = width, height
            elif marker == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0":
                orientation = _orientation(data[at + 8 : at + length])
            at += length
    else:
        raise Unreadable(f"has more than {MAX_EXTRAS} segments before its pixels")
    if size is None:
        raise Unreadable("is a JPEG that does not state its size")
    # In entropy-coded data FF is followed by 00 or a restart marker (T.81 B.1.1.5), so this counts scans.
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise Unreadable(f"has more than {MAX_SCANS} scans")
    return Header("jpeg", *size, orientation)


def _webp(data: bytes) -> Header:
    (total,) = struct.unpack_from("<I", data, 4)
    if total + 8 > len(data):
        raise Unreadable("is cut off: it is shorter than it says")
    canvas: tuple[int, int] | None = None
    frame: tuple[int, int] | None = None
    orientation = 1
    at = 12
    for _ in range(MAX_EXTRAS):
        if at + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        body = at + 8
        if kind in (b"ANIM", b"ANMF") or (kind == b"VP8X" and data[body] & 0x02):
            raise Unreadable("is animated; send a still picture")
        if kind == b"VP8X":
            width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (body + 4, body + 7))
            canvas = width, height
        elif kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, body + 6)
            if data[body + 3 : body + 6] != b"\x9d\x01\x2a":
                raise Unreadable("is a damaged WebP: its pixels do not start")
            frame = width & 0x3FFF, height & 0x3FFF
        elif kind == b"VP8L":
            mark, bits = struct.unpack_from("<BI", data, body)
            if mark != 0x2F:
                raise Unreadable("is a damaged WebP: its pixels do not start")
            frame = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == b"EXIF":
            orientation = _orientation(data[body : body + length].removeprefix(b"Exif\0\0"))
        at = body + length + length % 2
    else:
        raise Unreadable(f"has more than {MAX_EXTRAS} chunks")
    if frame is None:
        raise Unreadable("is a WebP without pixels")
    if canvas and canvas != frame:
        raise Unreadable("is a damaged WebP: it states two sizes")
    return Header("webp", *frame, orientation)


def _orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 if there is none to be read: a damaged note does not spoil a picture."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * min(count, MAX_EXTRAS), 12):
            tag, kind = struct.unpack_from(order + "HH", exif, at)
            if tag == 0x0112 and kind == 3:
                (value,) = struct.unpack_from(order + "H", exif, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


_OTHERS = (
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"BM", "a BMP"),
    (b"%PDF", "a PDF"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"PK\3\4", "a ZIP archive"),
)
_BRANDS = {b"avif": "an AVIF", b"avis": "an AVIF", b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIC"}


def _name(data: bytes) -> str:
    """What a refused file probably is, for the message."""
    for magic, name in _OTHERS:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video")
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "an SVG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "no picture" if data else "empty"
