"""What a canvas sends: a drawing that grows by a stroke with every frame."""

from __future__ import annotations

import io
import random
from functools import cache

from PIL import Image, ImageDraw


def drawing(side: int, session: int, number: int) -> bytes:
    """A JPEG whose bytes no other session and number has, so that no cache answers for it."""
    files = strokes(side)
    return files[(session * 7 + number) % len(files)] + f"{session}/{number}".encode()  # behind its end


@cache
def strokes(side: int, count: int = 24) -> list[bytes]:
    files = []
    rng = random.Random(0)
    image = Image.new("RGB", (side, side), "white")
    for _ in range(count):
        points = [rng.randrange(side) for _ in range(6)]
        ImageDraw.Draw(image).line(points, fill=tuple(rng.randbytes(3)), width=max(2, side // 24))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        files.append(file.getvalue())
    return files
