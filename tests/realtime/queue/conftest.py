from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from realtime.queue.desk import Desk


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = await Desk.open(tmp_path / "queue.sqlite3", max_bytes=1 << 30, keep_s=3600.0)
    yield desk
    await desk.aclose()
