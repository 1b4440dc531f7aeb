"""The body of an upload, in blocks, bounded as it arrives whatever its length was said to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request

from realtime.errors import BadFrame, TooLarge

BLOCK = 256 * 1024  # bytes handed on at once
MAX_JSON = 1024 * 1024  # bytes; a thousand parts are named in 100 KB


class Body:
    """limit: bytes. stall_s: a body that brings nothing for so long is given up.

    Raises TooLarge at once if the length that was announced is over the limit.
    """

    def __init__(self, request: Request, limit: int, stall_s: float) -> None:
        text = request.headers.get("content-length", "")
        self.announced = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
        self.size = 0  # bytes so far
        self._request, self._limit, self._stall_s = request, limit, stall_s
        if self.announced > limit:
            raise TooLarge(f"the file has {self.announced} bytes, the limit is {limit} bytes")

    async def blocks(self) -> AsyncIterator[bytes]:
        """Raises TooLarge, BadFrame for one that stalls, ClientDisconnect for one that ends too early."""
        held = bytearray()
        pieces = self._request.stream()
        while True:
            try:
                async with asyncio.timeout(self._stall_s):
                    piece = await anext(pieces, b"")
            except TimeoutError:
                raise BadFrame(f"the body stopped arriving for {self._stall_s:g} s") from None
            self.size += len(piece)
            if self.size > self._limit:
                raise TooLarge(f"the file has more than {self._limit} bytes, the limit")
            held += piece
            if len(held) >= BLOCK or (held and not piece):
                yield bytes(held)
                held.clear()
            if not piece:  # Starlette's mark of the end
                return


async def json_of(request: Request, stall_s: float) -> bytes:
    """A whole small body. Raises TooLarge, BadFrame."""
    return b"".join([block async for block in Body(request, MAX_JSON, stall_s).blocks()])
