"""Every way a client sends a picture, and every way it gets that wrong."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from engines import pixels
from realtime.errors import FetchError, ImageError, InvalidInput
from realtime.fetch import Fetcher
from realtime.images import MAX_ESCAPES, STRIDE, Image, Media
from realtime.settings import Settings
from tests.origin import always, origin, response
from tests.pictures import data_uri, jpeg, picture, png, turned

PICTURE = picture()
BASE64 = base64.b64encode(PICTURE).decode()
SETTINGS = Settings()


@pytest.fixture
async def media() -> AsyncIterator[Media]:
    fetcher = Fetcher(SETTINGS)
    yield Media(SETTINGS, fetcher)
    await fetcher.aclose()


def wrapped(text: str) -> str:
    return "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))


SENT: dict[str, Any] = {
    "bytes": PICTURE,
    "data URI": data_uri(PICTURE),
    "data URI with the wrong type": data_uri(PICTURE, "image/jpeg"),
    "data URI without a type": f"data:;base64,{BASE64}",
    "data URI with parameters": f"data:image/png;charset=utf-8;name=a.png;base64,{BASE64}",
    "data URI in capitals": f"DATA:image/png;BASE64,{BASE64}",
    "data URI after white space": f"  \n data:image/png;base64,{BASE64}\n",
    "data URI with broken lines": f"data:image/png;base64,{wrapped(BASE64)}",
    "data URI without padding": f"data:image/png;base64,{BASE64.rstrip('=')}",
    "data URI with too much padding": f"data:image/png;base64,{BASE64}===",
    "data URI in the URL alphabet": data_uri(PICTURE)
    .replace("+", "-")
    .replace("/", "_")
    .replace("_", "/", 1),
    "data URI with escaped base64": f"data:image/png;base64,{quote(BASE64, safe='')}",
    "data URI with escaped bytes": f"data:image/png,{quote(PICTURE)}",
    "base64": BASE64,
    "base64 without padding": BASE64.rstrip("="),
    "a Uint8Array in JSON": {str(i): byte for i, byte in enumerate(PICTURE)},
    "a Uint8Array in JSON, shuffled": {str(i): PICTURE[i] for i in reversed(range(len(PICTURE)))},
}


@pytest.mark.parametrize("form", SENT)
async def test_a_picture_arrives_in_any_form(form: str, media: Media) -> None:
    assert await media.open(SENT[form], "image_url") == Image(PICTURE, "png", 64, 48)


@pytest.mark.parametrize("form", ["bytes", "data URI", "base64", "a Uint8Array in JSON"])
async def test_a_large_picture_arrives_in_any_form(form: str, media: Media) -> None:
    data = picture(700, 500, compress_level=0)
    forms: dict[str, Any] = {
        "bytes": data,
        "data URI": f"data:image/png;base64,{wrapped(base64.b64encode(data).decode())}",
        "base64": base64.b64encode(data).decode(),
        "a Uint8Array in JSON": {str(i): byte for i, byte in enumerate(data)},
    }
    assert await media.open(forms[form], "image") == Image(data, "png", 700, 500)


async def test_size_is_the_one_a_person_sees(media: Media) -> None:
    for orientation in range(1, 9):
        opened = await media.open(turned(orientation, 64, 48), "image_url")
        assert (opened.width, opened.height) == ((48, 64) if orientation >= 5 else (64, 48))


ODD = {
    "16 bits": picture(mode="I;16"),
    "palette": picture(mode="P"),
    "one bit": picture(mode="1"),
    "alpha": picture(mode="LA"),
    "cmyk": picture(format="JPEG", mode="CMYK"),
    "progressive": picture(format="JPEG", progressive=True),
    "lossless": picture(format="WEBP", lossless=True),
    "alpha webp": picture(format="WEBP", mode="RGBA"),
    "a zip behind": picture() + b"PK\3\4",
    **{f"turned {n} {f}": turned(n, 64, 48, f) for n in range(1, 9) for f in ("JPEG", "PNG", "WEBP")},
}


@pytest.mark.parametrize("name", ODD)
async def test_the_engine_decodes_what_was_admitted_to_the_same_size(name: str, media: Media) -> None:
    opened = await media.open(ODD[name], "image_url")
    decoded = pixels.read(opened.data, "image_url")
    assert decoded.size == (opened.width, opened.height)
    shown = np.asarray(pixels.rgb(decoded))
    assert shown.shape == (opened.height, opened.width, 3)
    corners = sorted(int(shown[y, x].mean()) for y in (2, -3) for x in (2, -3))
    assert corners[0] < 16, "one quarter is black"
    assert corners[1] > 239, "three are white"


DAMAGED: dict[str, tuple[Any, str]] = {
    "no bytes": (b"", "empty"),
    "no data": ("data:image/png;base64,", "empty"),
    "no comma": ("data:image/png;base64", "without a comma"),
    "base64 with a foreign letter": (
        f"data:image/png;base64,{BASE64[:40]}!{BASE64[40:]}",
        "base64 is damaged",
    ),
    "base64 one letter long": ("data:image/png;base64,Q", "base64 is damaged"),
    "base64 with padding inside": (f"data:image/png;base64,{BASE64[:40]}={BASE64[40:]}", "base64 is damaged"),
    "base64 with padding between pieces": (
        "data:image/png;base64," + "A" * (STRIDE - 2) + "==" + "A" * 4,
        "base64 is damaged",
    ),
    "base64 with an umlaut": (f"data:image/png;base64,ä{BASE64}", "base64 is damaged"),
    "text": ("a black cat", "neither a data URI, an https URL nor base64"),
    "umlauts": ("süß", "neither a data URI, an https URL nor base64"),
    "text in a data URI": ("data:,hello", "no picture"),
    "a gif": (data_uri(picture(format="GIF"), "image/png"), "a GIF; send PNG, JPEG or WebP"),
    "a map with a gap": ({"0": 255, "2": 216}, "not bytes"),
    "a map of other things": ({"url": "https://example.com/a.png"}, "not bytes"),
    "a map of large numbers": ({"0": 256}, "not bytes"),
    "a map of texts": ({"0": "255"}, "not bytes"),
    "a map of nothing": ({"0": None}, "not bytes"),
    "escapes without end": ("data:image/png," + "%00" * (MAX_ESCAPES + 1), "use base64"),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_picture_is_an_error_of_its_field(name: str, media: Media) -> None:
    source, reason = DAMAGED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        await media.open(source, "mask_url")
    assert caught.value.detail
    (entry,) = caught.value.detail
    assert entry["loc"] == ["body", "mask_url"]
    assert entry["type"] == "image_load_error"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "source",
    [png(9000, 9000), png(65500, 65500), png(2**31 - 1, 1), jpeg(65500, 65500), png(4096, 4097)],
    ids=["9000", "65500", "one line", "jpeg", "one too many"],
)
async def test_too_many_pixels_are_refused_with_both_numbers(source: bytes, media: Media) -> None:
    with pytest.raises(ImageError, match=r"\d+x\d+ pixels, the limit is 16777216 pixels") as caught:
        await media.open(source, "image_url")
    assert caught.value.detail
    assert caught.value.detail[0]["type"] == "image_too_large"
    assert caught.value.detail[0]["ctx"]["max_pixels"] == SETTINGS.max_pixels


async def test_the_limit_itself_is_allowed(media: Media) -> None:
    assert (await media.open(png(4096, 4096), "image_url")).width == 4096


@pytest.mark.parametrize("scheme", ["file", "ftp", "blob:http", "gopher", "javascript", "unix"])
async def test_other_schemes_are_named_as_such(scheme: str, media: Media) -> None:
    with pytest.raises(FetchError, match="only https and http"):
        await media.open(f"{scheme}://x/y", "image_url")


@pytest.mark.net
async def test_a_url_is_fetched_and_then_held_to_the_same_rules() -> None:
    settings = Settings(fetch_private=True)
    fetcher = Fetcher(settings)
    media = Media(settings, fetcher)
    async with origin(always(response(PICTURE))) as good, origin(always(response(png(9000, 9000)))) as bad:
        assert await media.open(f" {good.url('/a.png')} ", "image_url") == Image(PICTURE, "png", 64, 48)
        with pytest.raises(ImageError, match="9000x9000"):
            await media.open(bad.url(), "image_url")
    await fetcher.aclose()


async def test_sixteen_megabytes_of_base64_do_not_stop_the_loop(media: Media) -> None:
    sources: list[str] = [
        data_uri(picture(2400, 1600, compress_level=0)),
        "data:image/png;base64," + " " * (16 << 20),
        "data:image/png," + "%41" * MAX_ESCAPES,
        "A" * (16 << 20),
        "A" * (8 << 20) + "=" * (8 << 20),
        "data:" + ";" * (16 << 20),
        "data:" + " " * (16 << 20) + ",",
        "x:" + " " * (16 << 20),
    ]
    for source in sources:
        gaps = [await _longest_gap(media, source) for _ in range(3)]
        assert min(gaps) <= 0.02, source[:30]


async def _longest_gap(media: Media, source: str) -> float:
    """The longest the loop was away while `source` was opened, seconds of this process's CPU time.

    Not wall time: other processes on the machine are not what is measured.
    """
    done = asyncio.Event()
    gap = 0.0

    async def watch() -> None:
        nonlocal gap
        t0 = time.process_time()
        while not done.is_set():
            await asyncio.sleep(0)
            t1 = time.process_time()
            gap, t0 = max(gap, t1 - t0), t1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        await asyncio.sleep(0)
        try:
            await media.open(source, "image_url")
        except InvalidInput:
            pass
        finally:
            done.set()
    return gap
