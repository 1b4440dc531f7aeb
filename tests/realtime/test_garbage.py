"""What is done for a frame is undone when its last name goes: collections have nothing to do for it."""

from __future__ import annotations

import base64
import gc
import io
from pathlib import Path

import pytest
from PIL import Image

from tests.realtime.inside import serving
from tests.realtime.talk import ask, opened

pytestmark = [pytest.mark.net, pytest.mark.proc]

FRAMES = 40


def _picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "wish",
    [
        {"prompt": "a", "image_size": {"width": 64, "height": 64}},
        {"prompt": "a", "image_url": _picture(), "strength": 0.5},
        {"prompt": ["not a text"]},
        {"prompt": "!fault"},
    ],
    ids=["words", "a picture", "invalid", "refused by the engine"],
)
async def test_a_frame_leaves_no_cycles_to_collect(tmp_path: Path, wish: dict[str, object]):
    async with serving(tmp_path) as server, opened(server) as ws:
        for _ in range(3):
            await ask(ws, wish)
        gc.collect()
        gc.disable()
        try:
            for _ in range(FRAMES):
                await ask(ws, wish)
            found = gc.collect()
        finally:
            gc.enable()
    assert found < FRAMES  # one object for each would be a cycle for each; the client and timers make some
