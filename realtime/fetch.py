from __future__ import annotations

from realtime.settings import Settings


class Fetcher:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def get(self, url: str, field: str) -> bytes:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass
