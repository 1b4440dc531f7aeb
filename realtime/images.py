"""Pictures as callers send them, admitted by their headers. Pixels are decoded in the engine, never here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from realtime.fetch import Fetcher
from realtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture whose header was found harmless."""

    data: bytes
    format: str  # png | jpeg | webp
    width: int  # pixels, EXIF orientation applied
    height: int


class Media:
    def __init__(self, settings: Settings, fetcher: Fetcher) -> None:
        self._settings, self._fetcher = settings, fetcher

    async def open(self, source: str | bytes | Mapping[str, Any], field: str) -> Image:
        raise NotImplementedError
