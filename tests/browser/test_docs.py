"""The API page in a browser: it says what openapi.json says, its examples are code, a run can be tried."""

from __future__ import annotations

import ast
import json
import re

import pytest

from realtime.apps import all_apps
from tests.browser.chrome import Page
from tests.servers import Server

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.browser,
    pytest.mark.net,
    pytest.mark.proc,
    pytest.mark.timeout(60),
]
READY = "document.body.dataset.ready === 'true'"


async def read(page: Page, server: Server) -> None:
    await page.goto(server.url + "/docs")
    await page.until(READY)


async def test_every_app_is_there_with_every_field(page: Page, server: Server) -> None:
    await read(page, server)
    document = json.loads(server.get("/openapi.json")[1])
    for app in all_apps():
        shown = await page.js(f"document.getElementById({json.dumps(app.id)}).innerText")
        for model in (app.request, app.output):
            for name, field in document["components"]["schemas"][model.__name__]["properties"].items():
                assert name in shown
                assert field.get("description", "").replace("`", "") in shown
    links = await page.js("[...document.querySelectorAll('.contents a')].map((a) => a.textContent)")
    assert links[1:-1] == [app.id for app in all_apps()]


async def test_everything_comes_from_this_server(page: Page, server: Server) -> None:
    await read(page, server)
    assert len(page.urls) >= 4
    assert [url for url in page.urls if not url.startswith(server.url)] == []


async def test_the_canvas_leads_to_the_page_and_back(page: Page, server: Server) -> None:
    await page.goto(server.url + "/")
    await page.click("a[href='docs']")
    await page.until(READY)
    await page.click("header nav a")
    await page.until("document.querySelector('#frame') !== null")


async def test_each_example_is_code_of_its_language(page: Page, server: Server) -> None:
    """That it also runs is shown in tests/contract."""
    await read(page, server)
    apps = json.dumps([app.id for app in all_apps()])
    found = await page.js(
        f"""import("/web/examples.js").then(({{ examples, setup }}) => [
            ...{apps}.flatMap((app) => Object.values(
                examples(app, {{ prompt: 'a "b"', on: true, off: null, n: 1 }}, location.origin))),
            setup(location.origin)])"""
    )
    assert len(found) == 4 * len(all_apps()) + 1
    for texts in found:
        ast.parse(texts["Python"])
        code = re.sub(r"^import .*", "", texts["JavaScript"], flags=re.MULTILINE)  # no function may have one
        await page.js(f"(Object.getPrototypeOf(async () => {{}}).constructor({json.dumps(code)}), null)")
        if "curl" in texts:
            assert json.loads(texts["curl"].split("-d '")[1].split("'")[0])["prompt"] == 'a "b"'


async def test_a_way_and_a_language_can_be_chosen(page: Page, server: Server) -> None:
    await read(page, server)
    shown = "document.getElementById('fal-ai/lcm').querySelector('pre').textContent"
    assert "fal.run(" in await page.js(shown)
    await page.js(
        "for (const label of document.getElementById('fal-ai/lcm').querySelectorAll('label'))"
        "  if (['Stream', 'Python'].includes(label.textContent)) label.click()"
    )
    assert (await page.js(shown)).startswith("for event in fal_client.stream(")
    assert f"{server.url}/web/fal-here.js" in await page.js(
        "document.querySelector('#start pre').textContent"
    )


async def test_a_run_can_be_tried_and_a_refusal_is_shown(page: Page, server: Server) -> None:
    page.expected = "422"
    await read(page, server)
    form = "document.getElementById('fal-ai/lcm')"
    await page.js(f"{form}.querySelector('details').open = true")
    await page.js(f"{form}.querySelector('form button').click()")
    answer = f"{form}.querySelector('.answer').textContent"
    await page.until(f"{answer}.startsWith('200')")
    assert await page.until(f"{form}.querySelector('.pictures img').naturalWidth") == 512
    await page.js(
        f"{form}.querySelector('textarea').value = JSON.stringify({{prompt: 'a', sync_mode: false}})"
    )
    await page.js(f"{form}.querySelector('form button').click()")
    await page.until(f"{form}.querySelector('.pictures img')?.src.startsWith('{server.url}/files/')")
    await page.js(f"{form}.querySelector('textarea').value = '{{\"prompt\": 3}}'")
    await page.js(f"{form}.querySelector('form button').click()")
    await page.until(f"{answer}.startsWith('422')")
    assert "prompt" in await page.js(answer)


async def test_examples_can_be_copied_where_the_browser_lets(page: Page, server: Server) -> None:
    await page.show_as(390, 800, phone=True)
    await read(page, server)
    shown = "getComputedStyle(document.querySelector('#start .copy'))"
    assert await page.js(f"[{shown}.opacity, {shown}.display === 'none']") == ["1", False], "no finger hovers"
    await page.do(
        "Page.addScriptToEvaluateOnNewDocument",
        source="Object.defineProperty(navigator, 'clipboard', { value: undefined });",
    )
    await read(page, server)
    assert await page.js(f"{shown}.display") == "none"


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
async def test_no_size_scrolls_sideways(page: Page, server: Server, width: int) -> None:
    await page.show_as(width, 800, phone=width < 500)
    await read(page, server)
    assert await page.js("document.documentElement.scrollWidth") == width
