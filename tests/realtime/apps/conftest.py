from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from realtime.fetch import Fetcher
from realtime.images import Media
from realtime.settings import Settings


@pytest.fixture
async def media() -> AsyncIterator[Media]:
    settings = Settings()
    fetcher = Fetcher(settings)
    yield Media(settings, fetcher)
    await fetcher.aclose()
