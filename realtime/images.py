"""Pictures as callers send them, admitted by their headers. Pixels are decoded in the engine, never here."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from realtime import formats
from realtime.errors import FetchError, ImageError, NotFound, TooLarge
from realtime.fetch import Fetcher
from realtime.service import Caller
from realtime.settings import Settings

OFF_LOOP = 128 * 1024  # bytes or characters from which the work takes about a millisecond
STRIDE = 256 * 1024  # characters of base64 decoded at once
OFF_LOOP_ITEMS = 8 * 1024  # the same for {"0": 255, ...}
MAX_ESCAPES = 64 * 1024  # percent-decoding makes Python objects of each; these take 20 ms in a thread


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture whose header was found harmless."""

    data: bytes
    format: str  # png | jpeg | webp
    width: int  # pixels, EXIF orientation applied
    height: int


class Files(Protocol):
    """Files that this server keeps itself. `realtime.storage.Storage` is one."""

    async def content(self, url: str, caller: Caller, limit: int) -> bytes | None:
        """The bytes behind a URL of ours, None if it is none. Raises NotFound, TooLarge."""


class Media:
    """Opens what a request points to. files: URLs of these are opened without asking ourselves by HTTP.

    caller: whose requests these are; it reads files that are not for everybody.
    """

    def __init__(
        self,
        settings: Settings,
        fetcher: Fetcher,
        files: Files | None = None,
        caller: Caller | None = None,
    ) -> None:
        self._settings, self._fetcher, self._files = settings, fetcher, files
        self._caller = caller or Caller("")

    def seen_by(self, caller: Caller) -> Media:
        """The same for another caller. Costs nothing: everything is shared."""
        return Media(self._settings, self._fetcher, self._files, caller)

    async def open(self, source: str | bytes | Mapping[str, Any], field: str) -> Image:
        """The picture behind a data URI, a URL, base64 text, raw bytes or {"0": 255, ...}.

        field: the request field it came from, named in errors. Raises ImageError, FetchError.
        """
        if isinstance(source, str) and ":" in source[:2048] and not _is_data(source):
            own = await self._own(source, field)
            source = await self._fetcher.get(source, field) if own is None else own
        limit = OFF_LOOP_ITEMS if isinstance(source, Mapping) else OFF_LOOP
        if len(source) > limit:
            return await asyncio.to_thread(self._admit, source, field)
        return self._admit(source, field)

    async def _own(self, url: str, field: str) -> bytes | None:
        """A file of ours. None if it is none."""
        if self._files is None:
            return None
        try:
            return await self._files.content(url, self._caller, self._settings.max_fetch_bytes)
        except NotFound:
            raise FetchError.at(field, "the URL is of a file that is gone", FetchError.error_type) from None
        except TooLarge as failure:
            raise FetchError.at(
                field, f"the URL leads to a file that is too large: {failure.reason}", "file_too_large"
            ) from None

    def _admit(self, source: str | bytes | Mapping[str, Any], field: str) -> Image:
        try:
            data = source if isinstance(source, bytes) else _decode(source)
            found = formats.header(data)
        except formats.Unreadable as error:
            raise ImageError.at(field, f"the picture {error}", ImageError.error_type) from None
        limit = self._settings.max_pixels
        if found.width * found.height > limit:
            raise ImageError.at(
                field,
                f"the picture is {found.width}x{found.height} pixels, the limit is {limit} pixels",
                "image_too_large",
                width=found.width,
                height=found.height,
                max_pixels=limit,
            )
        width, height = found.width, found.height
        if found.orientation >= 5:
            width, height = height, width
        return Image(data, found.format, width, height)


def _is_data(source: str) -> bool:
    return source[:64].lstrip()[:5].lower() == "data:"


def _decode(source: str | Mapping[str, Any]) -> bytes:
    """The bytes of a data URI, of base64 text or of an index map. Raises formats.Unreadable."""
    if isinstance(source, Mapping):
        return _from_map(source)
    if not _is_data(source):
        try:
            return _base64(source)
        except (UnicodeEncodeError, binascii.Error):
            raise formats.Unreadable("is neither a data URI, an https URL nor base64") from None
    # RFC 2397. The stated type is not used: browsers and phones state wrong ones.
    head, comma, payload = source.partition(",")
    if not comma:
        raise formats.Unreadable("is a data URI without a comma")
    if "%" in payload:
        if (escapes := payload.count("%")) > MAX_ESCAPES:
            raise formats.Unreadable(
                f"is a data URI with {escapes} percent escapes, the limit is {MAX_ESCAPES}; use base64"
            )
        payload = unquote_to_bytes(payload).decode("latin-1")
    try:
        if head[-64:].rstrip().lower().endswith(";base64"):
            return _base64(payload)
        return payload.encode("latin-1")
    except (UnicodeEncodeError, binascii.Error):
        raise formats.Unreadable("is a data URI whose base64 is damaged") from None


def _base64(text: str) -> bytes:
    """RFC 4648 §4 or §5, white space and missing padding forgiven.

    Raises UnicodeEncodeError, binascii.Error.
    """
    parts: list[bytes] = []
    left, padded = b"", False
    # Piece by piece, because one C call over 16 MiB would keep the event loop's thread waiting for 80 ms.
    for at in range(0, len(text), STRIDE):
        piece = text[at : at + STRIDE].encode("ascii").translate(_PLAIN, b" \t\r\n")
        digits = piece.rstrip(b"=")
        if b"=" in digits or (padded and digits):
            raise binascii.Error("padding inside")
        padded = len(digits) < len(piece) or padded
        left += digits
        whole = len(left) - len(left) % 4
        parts.append(binascii.a2b_base64(left[:whole], strict_mode=True))
        left = left[whole:]
    parts.append(binascii.a2b_base64(left + b"=" * (-len(left) % 4), strict_mode=True))
    return b"".join(parts)


_PLAIN = bytes.maketrans(b"-_", b"+/")


def _from_map(source: Mapping[str, Any]) -> bytes:
    """A Uint8Array as JSON.stringify writes it."""
    try:
        return bytes([source[str(i)] for i in range(len(source))])
    except (KeyError, TypeError, ValueError):
        raise formats.Unreadable('is an object, but not bytes as {"0": 255, "1": 216, ...}') from None
