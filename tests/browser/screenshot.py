"""A picture of the canvas in use: `python -m tests.browser.screenshot OUT.png --url http://127.0.0.1:8000`.

Draws a landscape by mouse, waits for the picture, and writes what a visitor sees.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from pathlib import Path

from tests.browser import canvas, chrome
from tests.browser.chrome import Page

# (colour, brush diameter, points), in the order a hand would draw them; places are 0..1 of the paper.
Stroke = tuple[str, int, list[tuple[float, float]]]


def landscape() -> list[Stroke]:
    across = [0.02 + 0.04 * i for i in range(25)]  # a rounded corner is not on the paper
    sky = [("#214dd9", 120, [(x, y) for x in across]) for y in (0.05, 0.22, 0.39, 0.56, 0.68)]
    far = [(x, 0.70 - 0.10 * math.sin(math.pi * (x * 1.3 + 0.1))) for x in across]
    near = [(x, 0.86 + 0.06 * math.cos(math.pi * 1.4 * x)) for x in across]
    moon = [(0.74 + 0.012 * math.cos(i), 0.2 + 0.012 * math.sin(i)) for i in range(8)]
    return [
        *sky,
        ("#2f8f46", 110, far),
        ("#219e38", 110, [(x, 0.78) for x in across]),
        ("#1b7d2d", 110, near),
        ("#1b7d2d", 90, [(x, 0.97) for x in across]),
        ("#fade26", 74, moon),
    ]


async def draw(page: Page, strokes: list[Stroke], pause_s: float) -> None:
    for hex, size, points in strokes:
        await canvas.colour(page, hex, size)
        await page.drag("#paper", points, pause_s=pause_s)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--prompt", default="green hills under a night sky")
    parser.add_argument("--strength", type=float, help="0..1, else the page's own")
    parser.add_argument("--size", default="1280x800", help="CSS pixels, e.g. 390x844 with --phone")
    parser.add_argument("--scale", type=float, default=1.0, help="device pixels per CSS pixel")
    parser.add_argument("--phone", action="store_true")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--words", action="store_true", help="type only, draw nothing")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between points of a stroke")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    async with chrome.launch() as browser:
        page = await browser.page()
        await page.show_as(width, height, phone=given.phone, dark=given.dark)
        await canvas.open_canvas(page, given.url.rstrip("/"), within_s=120)
        await canvas.prompt(page, given.prompt)
        if given.strength is not None:
            await page.js(
                f"(s => {{ s.value = {given.strength}; s.dispatchEvent(new Event('input')); }})"
                "(document.querySelector('#strength'))"
            )
        if not given.words:
            await draw(page, landscape(), given.pause)
        await canvas.rest(page, within_s=60)
        await page.js("scrollTo(0, 0); document.activeElement.blur()")
        await page.do("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
        # Only now: painting many pixels without a GPU would be most of the time the page shows.
        await page.show_as(width, height, phone=given.phone, dark=given.dark, scale=given.scale)
        await asyncio.sleep(0.3)  # the transitions of the bar
        png = await page.screenshot()
    await asyncio.to_thread(given.out.write_bytes, png)
    for problem in page.problems:
        print(f"console: {problem}")


if __name__ == "__main__":
    asyncio.run(main())
