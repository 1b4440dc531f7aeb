"""The canvas when something is amiss: a restart, a dead or loading engine, a key that is asked for."""

from __future__ import annotations

import asyncio

import pytest

from engines.fake import colour_of
from tests.browser import canvas
from tests.browser.canvas import near, open_canvas
from tests.browser.chrome import Page
from tests.servers import Server, serve

pytestmark = [
    pytest.mark.browser,
    pytest.mark.net,
    pytest.mark.proc,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(60),
]

STATE = "document.querySelector('#state').textContent"


async def test_page_says_so_while_the_server_restarts_and_recovers_by_itself(page: Page) -> None:
    page.expected = "ERR_|WebSocket"  # the browser logs each refused connection
    with serve() as first:
        await open_canvas(page, first.url)
        await canvas.colour(page, "#ff0000")
        await page.drag("#paper", [(0.2, 0.5), (0.8, 0.5)])
        await canvas.rest(page)
        first.terminate()
        await page.until(f"/restarting|away/.test({STATE})")
        assert "Trying again" in await canvas.text(page, "#veil-text")
        assert await page.js("document.querySelector('#state').dataset.tone") == "bad"
        # What is wanted meanwhile is drawn when it is back.
        await canvas.prompt(page, "after the storm")
        with serve(port=first.port, state_dir=first.state_dir):
            await page.until(f"/^Live/.test({STATE})", 15)
            await canvas.rest(page)
            assert near(await canvas.shown(page), colour_of("after the storm", 42))
            request = canvas.requests(page)[-1]
            assert near(canvas.sent_colour(request, 0.5, 0.5), (255, 0, 0), 40), "the drawing is still there"
            assert await page.js("document.querySelector('#veil').hidden")


async def test_a_frame_lost_with_its_server_is_sent_again(page: Page) -> None:
    page.expected = "ERR_|WebSocket"
    with serve() as first:
        await open_canvas(page, first.url)
        await canvas.prompt(page, "!slow 5")
        await page.until("document.querySelector('#frame').ariaBusy === 'true'")
        first.process.kill()
        first.process.wait()
        await page.until(f"/away/.test({STATE})")
        with serve(port=first.port, state_dir=first.state_dir):
            await canvas.rest(page, within_s=25)
            assert near(await canvas.shown(page), colour_of("!slow 5", 42))


async def test_a_frame_that_kills_the_engine_is_refused_and_the_page_goes_on(
    page: Page, server: Server
) -> None:
    await open_canvas(page, server.url)
    await canvas.prompt(page, "!crash")
    await page.until("document.querySelector('#error').textContent", 20)
    await canvas.prompt(page, "calm again")
    await page.until("document.querySelector('#error').textContent === ''", 20)
    await canvas.rest(page)
    assert near(await canvas.shown(page), colour_of("calm again", 42))


async def test_an_idle_page_hears_of_a_dead_engine(page: Page) -> None:
    with serve(model="fake:load_s=5") as server:
        await open_canvas(page, server.url)
        await canvas.rest(page)
        await page.until(f"/^Live/.test({STATE})")
        killing = asyncio.create_task(
            asyncio.to_thread(server.ask, "POST", "/fal-ai/lcm", {"prompt": "!crash"})
        )
        await page.until(f"/^The engine is restarting/.test({STATE})", 9)
        await asyncio.gather(killing, return_exceptions=True)
        await page.until(f"/^Live/.test({STATE})", 15)


async def test_page_shows_the_engine_loading_and_then_the_first_picture(page: Page) -> None:
    with serve(model="fake:load_s=3", ready=False) as server:
        await page.goto(server.url + "/")
        await page.until(f"/^Loading the model/.test({STATE})")
        await page.until("!document.querySelector('#veil').hidden")
        await page.until("document.querySelector('#frame').dataset.empty === 'false'", 15)
        await page.until(f"/^Live/.test({STATE})")
        assert await page.js("document.querySelector('#veil').hidden")


async def test_a_server_with_keys_is_opened_by_typing_one(page: Page) -> None:
    page.expected = "401|ERR_"  # the browser logs each
    with serve(keys=["me:secret"]) as server:
        await page.goto(server.url + "/")
        await page.until("document.querySelector('#key-ask').open")
        await page.type("me:secret")
        await page.press("Enter")
        await page.until("document.querySelector('#frame').dataset.empty === 'false'")
        # A wrong key is asked for again.
        await page.js("sessionStorage.setItem('key', 'me:wrong')")
        await page.do("Page.reload")
        await page.until("document.querySelector('#key-ask')?.open && performance.now() < 20000")
