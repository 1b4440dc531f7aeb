"""The canvas page in a person's words: what one does with it, what one sees, and what it put on the wire."""

from __future__ import annotations

import io
from typing import Any

import msgpack
from PIL import Image

from tests.browser.chrome import Page

Colour = tuple[int, int, int]


async def open_canvas(page: Page, url: str, within_s: float = 10.0) -> None:
    """The page, up to its first picture."""
    await page.goto(url + "/")
    await page.until("document.querySelector('#frame').dataset.empty === 'false'", within_s)


async def shown(page: Page, x: float = 0.5, y: float = 0.5) -> Colour:
    """The colour of the picture at a place, 0..1."""
    red, green, blue, _ = await page.js(
        f"(c => [...c.getContext('2d').getImageData(c.width * {x}, c.height * {y}, 1, 1).data])"
        "(document.querySelector('#picture'))"
    )
    return red, green, blue


async def pictures(page: Page) -> int:
    """How many pictures were shown so far."""
    return int(await page.js("Number(document.querySelector('#frame').dataset.count)"))


async def rest(page: Page, within_s: float = 10.0) -> None:
    """Until all that was wanted has been drawn."""
    await page.until("document.querySelector('#frame').ariaBusy === 'false'", within_s)


async def text(page: Page, selector: str) -> str:
    return str(await page.js(f"document.querySelector('{selector}').textContent"))


async def prompt(page: Page, words: str) -> None:
    await page.click("#prompt")
    await page.js("document.querySelector('#prompt').select()")
    await page.type(words)


async def colour(page: Page, hex: str, size: int = 60) -> None:
    """Take a brush: any colour, a diameter in pixels of the 512 pixel drawing."""
    await page.js(
        f"""for (const [id, value] of [["#palette input[type=color]", "{hex}"], ["#size", "{size}"]]) {{
            const input = document.querySelector(id);
            input.value = value;
            input.dispatchEvent(new Event("input"));
        }}"""
    )


async def slide(page: Page, dial: str, value: float) -> None:
    """Move a slider by its id."""
    await page.js(
        f"(range => {{ range.value = {value}; range.dispatchEvent(new Event('input')); }})"
        f"(document.querySelector('#{dial}'))"
    )


async def seed(page: Page, digits: str) -> None:
    await page.click("#seed")
    await page.js("document.querySelector('#seed').select()")
    await (page.type(digits) if digits else page.press("Delete"))


def requests(page: Page) -> list[dict[str, Any]]:
    """Every request the page sent."""
    return [msgpack.unpackb(frame) for frame in page.sent]


def sent_colour(request: dict[str, Any], x: float, y: float, field: str = "image_bytes") -> Colour:
    """The colour at a place, 0..1, of the picture in a request."""
    image = Image.open(io.BytesIO(request[field])).convert("RGB")
    found = image.getpixel((int(x * image.width), int(y * image.height)))
    assert isinstance(found, tuple)
    return found[0], found[1], found[2]


def near(one: Colour, other: Colour, tolerance: int = 12) -> bool:
    """Equal, but for what JPEG does."""
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))
