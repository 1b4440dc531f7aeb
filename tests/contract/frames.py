"""What is sent and what is seen: requests, their pictures, and the fake engine's colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from engines.fake import colour_of
from tests.contract.clients import LEGACY, Live, Version


def picture(result: Mapping[str, Any], index: int = 0) -> Image.Image:
    """The picture of a result as an app would show it: from `content`, else from the data URI in `url`."""
    image = result["images"][index]
    if "content" in image:
        data = image["content"]
    else:
        head, _, body = image["url"].partition(",")
        assert head == f"data:{image['content_type']};base64"
        data = base64.b64decode(body, validate=True)
    opened = Image.open(io.BytesIO(data))
    assert opened.size == (image["width"], image["height"])
    assert opened.get_format_mimetype() == image["content_type"]
    return opened.convert("RGB")


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def png(width: int = 64, height: int = 64, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    return encoded(Image.new("RGB", (width, height), colour))


def data_uri(data: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


INPUT = data_uri(png())


def frame(version: Version, prompt: str = "a red circle", seed: int = 1, **more: Any) -> dict[str, Any]:
    """A complete request for the app this version can reach; lcm-sd15-i2i needs a picture."""
    needed = {"image_url": INPUT} if version.app == LEGACY else {}
    return {"prompt": prompt, "seed": seed, **needed, **more}


def shows(result: dict[str, Any], prompt: str, seed: int) -> bool:
    """Is it the fake engine's picture of that prompt and seed, and of nothing else?"""
    data = picture(result).tobytes()
    return all(
        abs(value - wanted) <= 4
        for channel, wanted in enumerate(colour_of(prompt, seed))
        for value in set(data[channel::3])
    )


def draw(live: Live, prompt: str = "a red circle", seed: int = 1, **more: Any) -> dict[str, Any]:
    live.send(**frame(live.client.version, prompt, seed, **more))
    return live.result()
