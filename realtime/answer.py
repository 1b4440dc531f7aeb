"""Pictures and remarks as fal's clients read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pybase64 import b64encode_as_string

from engines.messages import Done, Job, Picture

OFF_LOOP = 256 * 1024  # bytes that take about a millisecond as base64 in JSON
OFF_LOOP_BINARY = 2 * 1024 * 1024  # the same in msgpack, which copies them


def is_large(done: Done, *, binary: bool) -> bool:
    """Whether an answer with these pictures in it is made in a thread. binary: in msgpack."""
    size = 0
    for picture in done.pictures:
        size += len(picture.data)
    return size > (OFF_LOOP_BINARY if binary else OFF_LOOP)


def images(pictures: Sequence[Picture], *, as_bytes: bool) -> list[dict[str, Any]]:
    """`images` of an answer. as_bytes: `content` for msgpack, else `url` with a data URI."""
    return [
        {
            "content" if as_bytes else "url": picture.data if as_bytes else data_uri(picture),
            "content_type": picture.content_type,
            "width": picture.width,
            "height": picture.height,
        }
        for picture in pictures
    ]


def links(pictures: Sequence[Picture], urls: Sequence[str]) -> list[dict[str, Any]]:
    """`images` of an answer whose pictures are kept at these URLs."""
    return [
        {
            "url": url,
            "content_type": picture.content_type,
            "file_name": url.rsplit("/", 1)[-1],
            "file_size": len(picture.data),
            "width": picture.width,
            "height": picture.height,
        }
        for picture, url in zip(pictures, urls, strict=True)
    ]


def data_uri(picture: Picture) -> str:
    """RFC 2397, base64."""
    return f"data:{picture.content_type};base64,{b64encode_as_string(picture.data)}"


def note(body: dict[str, Any], warnings: Sequence[str], job: Job, done: Done) -> None:
    """What an honest answer says beyond the documented fields; clients ignore keys they do not know."""
    body["safety_checked"] = done.safety_checked
    width, height = done.drawn
    if width != job.width or height != job.height:
        body["rendered_size"] = {"width": width, "height": height}
    if warnings or done.warnings:
        body["warnings"] = [*warnings, *done.warnings]
