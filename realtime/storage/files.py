"""Answers GET and HEAD of a stored file: ranges, validators, and headers that keep it a file.

A stranger chose its bytes and its type, and it is served under our name: so no browser may guess another
type, run it, or show it as a page of ours.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from realtime import log
from realtime.errors import StorageDown
from realtime.storage.catalogue import File

logger = log.get("realtime.storage")

# What a browser shows without running anything of it. Anything else is offered as a download.
_SHOWN = re.compile(r"(image/(?!svg)|video/|audio/|text/plain\b|application/json\b)")
MAX_AGE_S = 86400


def headers_of(file: File, now: float) -> dict[str, str]:
    """Of every answer about this file, without the length."""
    left_s = MAX_AGE_S if file.expires is None else max(0, min(MAX_AGE_S, int(file.expires - now)))
    shown = "inline" if _SHOWN.match(file.content_type) else "attachment"
    return {
        "content-type": file.content_type,
        "etag": file.etag,
        "accept-ranges": "bytes",
        # Shared caches would serve what the owner's key is asked for here.
        "cache-control": f"{'public' if file.acl is None else 'private'}, max-age={left_s}",
        "content-disposition": f"{shown}; filename*=UTF-8''{quote(file.name, safe='')}",  # RFC 6266, 8187
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        "cross-origin-resource-policy": "cross-origin",
        # The id is the permission, and no cookie adds to it: any page may read what it has the URL of.
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "accept-ranges, content-range, content-length, etag",
    }


def span_of(asked: Mapping[str, str], file: File) -> tuple[int, int] | None:
    """The bytes [start, stop) that `Range` and `If-Range` ask for, None for the whole file.

    An empty span means there are none (416). One range only: several, or a malformed one, are answered
    with the whole file, as RFC 9110 §14.2 allows.
    """
    found = re.fullmatch(r"bytes=(\d{0,19})-(\d{0,19})", asked.get("range", "").strip())
    if found is None or not any(found.groups()):
        return None
    if asked.get("if-range", file.etag) != file.etag:
        return None
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, file.size - int(last))
    stop = min(int(last) + 1, file.size) if first and last else file.size
    return (start, stop) if start < file.size else (0, 0)


def unchanged(asked: Mapping[str, str], file: File) -> bool:
    """Whether the client has this very file (RFC 9110 §13.1.2, weak comparison)."""
    known = [tag.strip().removeprefix("W/") for tag in asked.get("if-none-match", "").split(",")]
    return file.etag in known or known == ["*"]


def without_body(file: File, status: int, now: float) -> Response:
    """304, or 416."""
    headers = headers_of(file, now)
    if status == 416:
        headers["content-range"] = f"bytes */{file.size}"
    return Response(status_code=status, headers=headers)


class Download(StreamingResponse):
    """A file, or one range of it. stall_s: a reader that takes nothing for so long is cut off."""

    def __init__(
        self,
        file: File,
        body: AsyncGenerator[bytes],
        span: tuple[int, int] | None,
        *,
        now: float,
        stall_s: float,
    ) -> None:
        start, stop = span or (0, file.size)
        headers = headers_of(file, now) | {"content-length": str(stop - start)}
        if span is not None:
            headers["content-range"] = f"bytes {start}-{stop - 1}/{file.size}"
        super().__init__(body, 200 if span is None else 206, headers)
        self._blocks, self._stall_s = body, stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def patiently(message: Message) -> None:
            async with asyncio.timeout(self._stall_s):
                await send(message)

        try:
            await super().__call__(scope, receive, patiently)
        except (TimeoutError, FileNotFoundError, StorageDown) as error:
            # Headers are sent, so a broken connection is all that can be said. Closing would wait for who
            # does not read.
            logger.debug("storage.download", ended_by=type(error).__name__)
            scope["extensions"]["realtime.abort"]()
            while (await receive())["type"] != "http.disconnect":
                pass  # until uvicorn knows, or it would log an answer that is not complete
        finally:
            await self._blocks.aclose()  # an open file would wait for the garbage collector
