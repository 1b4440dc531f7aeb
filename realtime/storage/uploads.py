"""fal's upload protocol: where to send a file, the parts of a large one, and that it is complete.

JavaScript asks for a URL (`initiate`, or `initiate-multipart` above 90 MiB) and PUTs to it without a key,
parts as `{url}/{number}`, then POSTs `{url}/complete`; a secret in the URL's query is what lets it.
Python asks for a token, POSTs the file with it, or (above 100 MiB) PUTs parts ten at a time to
`{access_url}/multipart/{uploadId}/{number}` and completes them in whatever order they arrived. Its fallback
is JavaScript's way.
Source: @fal-ai/client `storage.ts`, fal-client `client.py` (`MultipartUpload`, `_upload_via_storage`).
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from realtime.errors import BadFrame, InvalidInput

MAX_PARTS = 1000  # of 10 MiB as the clients send them
MAX_NAME = 255  # bytes of UTF-8, what file systems take
UNNAMED = "upload.bin"
UNTYPED = "application/octet-stream"

# RFC 9110 §8.3.1, a type with parameters; nothing that could end a header line.
_TYPE = re.compile(r"[!#$&^_.+\-a-zA-Z0-9]{1,63}/[!#$&^_.+\-a-zA-Z0-9]{1,127}([ ]*;[ -~]*)?")
MAX_TYPE = 255  # characters


class Wish(BaseModel):
    """The body of `initiate` and `initiate-multipart`."""

    file_name: str | None = None
    content_type: str | None = None


class Named(BaseModel):
    partNumber: Annotated[int, Field(strict=True, ge=1, le=MAX_PARTS)]
    etag: Annotated[str, Field(max_length=200)]


class Complete(BaseModel):
    """The body of `complete`. Parts in any order, etags with or without their quotes."""

    parts: Annotated[list[Named], Field(min_length=1, max_length=MAX_PARTS)]

    def wanted(self) -> list[tuple[int, str]]:
        """Number and bare etag of each part. Raises BadFrame if one is named twice."""
        found = [(part.partNumber, part.etag.strip().removeprefix("W/").strip('"')) for part in self.parts]
        if len({number for number, _ in found}) < len(found):
            raise BadFrame("a part is named twice")
        return found


def wish(body: bytes) -> tuple[str, str]:
    """(name, content type) out of the body of an initiate. Raises InvalidInput."""
    try:
        wanted = Wish.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise _invalid(error) from None
    return name_of(wanted.file_name), type_of(wanted.content_type)


def complete(body: bytes) -> list[tuple[int, str]]:
    """Number and etag of every part. Raises InvalidInput, BadFrame."""
    try:
        return Complete.model_validate_json(body).wanted()
    except ValidationError as error:
        raise _invalid(error) from None


def name_of(text: str | None) -> str:
    """The file's name, for its URL and for who downloads it. Raises InvalidInput.

    A path is refused, not shortened: who sends one means something that is not going to happen.
    """
    if not text:
        return UNNAMED
    if text in (".", "..") or any(mark in text for mark in "/\\"):
        raise InvalidInput.at("file_name", "is a path; send the name of a file", "value_error")
    if any(ord(mark) < 32 or ord(mark) == 127 or 0xD800 <= ord(mark) < 0xE000 for mark in text):
        raise InvalidInput.at("file_name", "holds characters that no file name may have", "value_error")
    if (size := len(text.encode())) > MAX_NAME:
        raise InvalidInput.at("file_name", f"has {size} bytes, the limit is {MAX_NAME}", "string_too_long")
    return text


def type_of(text: str | None) -> str:
    """The content type, lower case. Raises InvalidInput for one that is none."""
    if not text:
        return UNTYPED
    if len(text) > MAX_TYPE or not _TYPE.fullmatch(text):
        raise InvalidInput.at("content_type", "is no content type such as image/png", "value_error")
    return text.strip().lower()


def header_name(raw: str | None) -> str:
    """The name in an `X-Fal-File-Name` header, which Starlette has read as Latin-1. Raises InvalidInput."""
    try:
        return name_of(raw and raw.encode("latin-1").decode("utf-8"))
    except UnicodeDecodeError:
        return name_of(raw)


def part_number(text: str) -> int:
    """Of a part's URL. Raises BadFrame."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= number <= MAX_PARTS:
        raise BadFrame(f"part numbers are 1 to {MAX_PARTS}")
    return number


def path_of(file_id: str, name: str) -> str:
    """Of a file's URL. The name is encoded: fal's clients hand the URL on as they got it."""
    return f"/files/{file_id}/{quote(name, safe='')}"


def _invalid(error: ValidationError) -> InvalidInput:
    entries = [
        {"loc": ["body", *found["loc"]], "msg": found["msg"], "type": found["type"]}
        for found in error.errors(include_input=False, include_url=False, include_context=False)[:8]
    ]
    first = entries[0]
    return InvalidInput(f"{'.'.join(map(str, first['loc'][1:])) or 'the body'}: {first['msg']}", entries)
