"""The live canvas in headless Chromium, on a real server with the fake engine."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit

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

LINE = [(0.2 + 0.03 * i, 0.5) for i in range(21)]
WHITE = (255, 255, 255)
RED = (255, 0, 0)


async def test_first_suggestion_is_drawn_without_being_asked(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    (request,) = canvas.requests(page)
    assert request["prompt"] == await page.js("document.querySelector('#prompt').value") != ""
    assert "image_bytes" not in request
    assert near(await canvas.shown(page), colour_of(request["prompt"], request["seed"]))
    await page.until("/^Live: fake/.test(document.querySelector('#state').textContent)")


async def test_picture_follows_the_hand(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await canvas.rest(page)
    await page.click("#lock")  # another seed for each picture, so that the fake engine's pictures differ
    await canvas.rest(page)
    before, pictures = await canvas.shown(page), await canvas.pictures(page)
    await canvas.colour(page, "#ff0000")
    await page.drag("#paper", LINE, pause_s=0.03)
    await canvas.rest(page)
    assert await canvas.shown(page) != before
    assert await canvas.pictures(page) >= pictures + 3, "it must follow while the hand moves, not after"
    drawings = [request for request in canvas.requests(page) if "image_bytes" in request]
    assert near(canvas.sent_colour(drawings[-1], 0.85, 0.5), RED, 40), "the last frame holds the whole stroke"
    assert near(canvas.sent_colour(drawings[0], 0.8, 0.5), WHITE, 40)
    assert near(canvas.sent_colour(drawings[-1], 0.5, 0.9), WHITE)
    assert drawings[-1]["strength"] == 0.8, "the app's own default: below, a stroke on white paper stays mud"


async def test_a_fast_hand_never_has_two_frames_in_flight(page: Page, server: Server) -> None:
    await page.do(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
            window.flight = { now: 0, most: 0 };
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (data) {
                if (!this.counted) this.addEventListener("message", () => flight.now--);
                this.counted = true;
                flight.most = Math.max(flight.most, ++flight.now);
                send.call(this, data);
            };""",
    )
    await open_canvas(page, server.url)
    await page.drag("#paper", LINE * 4)
    await canvas.rest(page)
    assert await page.js("[flight.now, flight.most]") == [0, 1]
    assert int(await canvas.text(page, "#superseded")) > 0
    ids = [request["request_id"] for request in canvas.requests(page)]
    assert len(set(ids)) == len(ids)


async def test_typing_alone_changes_the_picture(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await canvas.prompt(page, "a yellow star")
    await canvas.rest(page)
    assert near(await canvas.shown(page), colour_of("a yellow star", 42))
    await page.click("#chips button:nth-of-type(2)")
    await canvas.rest(page)
    chip = await canvas.text(page, "#chips button:nth-of-type(2)")
    assert near(await canvas.shown(page), colour_of(chip, 42))


async def test_a_hand_at_rest_gets_one_finer_picture_where_the_model_has_two_decoders(page: Page) -> None:
    with serve(model="fake:vaes=2,kept_mb=1") as two:
        await open_canvas(page, two.url)
        await page.click("#lock")  # another seed for each picture, but for the finer one of the same
        await canvas.prompt(page, "a yellow star")
        await page.drag("#paper", LINE, pause_s=0.02)
        await canvas.rest(page)
        await page.until("document.querySelector('#frame').dataset.settled === 'true'")
        sent = canvas.requests(page)
        assert [request.get("vae") for request in sent[-2:]] == [None, "full"]
        before, after = (
            {name: value for name, value in request.items() if name not in ("vae", "request_id")}
            for request in sent[-2:]
        )
        assert before == after
        assert before["prompt"] == "a yellow star"
        assert near(await canvas.shown(page), colour_of("a yellow star", after["seed"]))
        await asyncio.sleep(0.6)
        assert len(canvas.requests(page)) == len(sent), "and then nothing more"
        await page.drag("#paper", LINE[:2])
        await canvas.rest(page)
        assert "vae" not in canvas.requests(page)[len(sent)]


async def test_an_emptied_prompt_asks_for_nothing(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    sent = len(page.sent)
    await page.click("#prompt")
    await page.js("document.querySelector('#prompt').select()")
    await page.press("Delete")
    await canvas.rest(page)
    assert len(page.sent) == sent
    await page.drag("#paper", LINE)
    await canvas.rest(page)
    assert len(page.sent) == sent
    assert await canvas.text(page, "#prompt-error") == "Say in words what it should be"
    await canvas.prompt(page, "a fox")
    assert await canvas.text(page, "#prompt-error") == ""
    await canvas.rest(page)
    assert near(await canvas.shown(page), colour_of("a fox", 42))


async def test_words_only_leaves_the_drawing_out_until_one_draws_again(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await page.drag("#paper", LINE)
    await canvas.rest(page)
    assert "image_bytes" in canvas.requests(page)[-1]
    await page.click("label[for=source-type]")
    await canvas.rest(page)
    assert "image_bytes" not in canvas.requests(page)[-1]
    assert "strength" not in canvas.requests(page)[-1]
    await page.drag("#paper", LINE[:3])
    await canvas.rest(page)
    assert "image_bytes" in canvas.requests(page)[-1]


async def test_only_what_is_masked_is_repainted(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await page.js("document.activeElement.blur()")
    await canvas.colour(page, "#ff0000")
    await page.press("f")
    await page.drag("#paper", [(0.5, 0.5), (0.5, 0.5)])  # all red
    await page.press("m")
    await page.drag("#paper", LINE)
    await canvas.rest(page)
    request = canvas.requests(page)[-1]
    assert near(canvas.sent_colour(request, 0.5, 0.1), RED)
    assert canvas.sent_colour(request, 0.5, 0.5, "mask_bytes") == WHITE
    assert canvas.sent_colour(request, 0.5, 0.1, "mask_bytes") == (0, 0, 0)
    assert near(await canvas.shown(page, 0.5, 0.1), RED)
    assert near(await canvas.shown(page, 0.5, 0.5), colour_of(request["prompt"], request["seed"]))
    # The eraser takes away the mask it is put down on, and the paint below stays.
    await page.press("e")
    await canvas.colour(page, "#00ff00", 120)
    await page.press("e")
    await page.drag("#paper", LINE)
    await canvas.rest(page)
    assert "mask_bytes" not in canvas.requests(page)[-1]
    assert near(canvas.sent_colour(canvas.requests(page)[-1], 0.5, 0.5), RED)


async def test_repainting_on_empty_paper_starts_from_the_picture(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    before = await canvas.shown(page)
    await page.click("label[for=tool-mask]")
    await page.drag("#paper", LINE)
    await canvas.prompt(page, "a white cloud")
    await canvas.rest(page)
    assert near(await canvas.shown(page, 0.5, 0.1), before)
    assert near(await canvas.shown(page, 0.5, 0.5), colour_of("a white cloud", 42))
    await page.click("#unmask")
    await canvas.rest(page)
    assert "mask_bytes" not in canvas.requests(page)[-1]


async def test_a_mask_lends_full_strength_until_it_is_gone(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    strength = "Number(document.querySelector('#strength').value)"
    await page.click("label[for=tool-mask]")
    await page.drag("#paper", LINE)
    await canvas.rest(page)
    assert await page.js(strength) == canvas.requests(page)[-1]["strength"] == 1
    assert await canvas.text(page, "#strength-dial output") == "1.00"
    assert "repaint" in await canvas.text(page, "#strength-help")
    await page.click("#unmask")
    await canvas.rest(page)
    assert await page.js(strength) == canvas.requests(page)[-1]["strength"] == 0.8
    assert "repaint" not in await canvas.text(page, "#strength-help")
    await page.press("z", ctrl=True)
    assert await page.js(strength) == 1, "the mask is back"
    await canvas.slide(page, "strength", 0.3)
    assert "repaint" not in await canvas.text(page, "#strength-help")
    await page.click("#unmask")
    await canvas.rest(page)
    assert canvas.requests(page)[-1]["strength"] == 0.3, "it was moved meanwhile, so it stays"


async def test_what_the_server_suggests_is_taken_over(page: Page, server: Server) -> None:
    await page.do(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
            const fetched = window.fetch;
            window.fetch = async (...asked) => {
                const answer = await fetched(...asked);
                if (!String(asked[0]).endsWith("/info")) return answer;
                const suggestions = { max_good_steps: 3, knows: "foxes and hens" };
                return Response.json({ ...(await answer.json()), suggestions });
            };""",
    )
    await open_canvas(page, server.url)
    assert await canvas.text(page, "#knows") == "It knows foxes and hens"
    assert canvas.requests(page)[-1]["num_inference_steps"] == 3
    assert await canvas.text(page, "#num_inference_steps-help") == "3 are enough for this model"
    await canvas.slide(page, "num_inference_steps", 4)
    assert "enough" not in await canvas.text(page, "#num_inference_steps-help")
    await canvas.slide(page, "num_inference_steps", 2)
    assert "enough" in await canvas.text(page, "#num_inference_steps-help")


@pytest.mark.parametrize(
    ("typed", "seed"), [("999999999999", 999999999999), ("9999999999999999", 2**53 - 1)], ids=["large", "too"]
)
async def test_seeds_are_drawn_as_they_stand(page: Page, server: Server, typed: str, seed: int) -> None:
    await open_canvas(page, server.url)
    await canvas.seed(page, typed)
    await canvas.rest(page)
    request = canvas.requests(page)[-1]
    assert request["seed"] == seed
    assert await page.js("document.querySelector('#seed').value") == str(seed)
    assert near(await canvas.shown(page), colour_of(request["prompt"], seed))
    assert f"seed {seed}" in await canvas.text(page, "#facts")


async def test_without_a_seed_every_picture_has_its_own(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await canvas.seed(page, "")
    await page.drag("#paper", LINE, pause_s=0.03)
    await canvas.rest(page)
    seeds = [request["seed"] for request in canvas.requests(page)[1:]]
    assert len(set(seeds)) == len(seeds) > 2
    assert await page.js("document.querySelector('#seed').value") == ""
    assert "every picture" in await canvas.text(page, "#seed-help")
    assert f"seed {seeds[-1]}" in await canvas.text(page, "#facts")


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
async def test_facts_and_warnings_can_be_read(page: Page, server: Server, phone: bool) -> None:
    if phone:
        await page.show_as(390, 844, phone=True)
    await open_canvas(page, server.url)
    assert await canvas.text(page, "#warnings") == ""
    await page.drag("#paper", LINE[:3])
    await canvas.slide(page, "strength", 0.01)
    await canvas.rest(page)
    assert "strength 0.01 is drawn as 0.08" in await canvas.text(page, "#warnings")
    assert "seed 42 · 4 steps" in await canvas.text(page, "#facts")
    frame = await page.box("#frame")
    for part in ("#warnings", "#facts"):
        box = await page.box(part)
        assert box["height"] > 10
        assert 0 <= box["x"] <= box["x"] + box["width"] <= (390 if phone else 1280)
        below = frame["y"] + frame["height"] <= box["y"]
        assert below or box["y"] + box["height"] <= frame["y"], "beside the picture, not on it"
    await canvas.slide(page, "strength", 0.8)
    await canvas.rest(page)
    assert await canvas.text(page, "#warnings") == ""


async def test_undo_redo_and_clear(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await canvas.colour(page, "#ff0000")
    await page.drag("#paper", LINE)
    await page.press("z", ctrl=True)
    await canvas.rest(page)
    assert "image_bytes" not in canvas.requests(page)[-1], "an empty paper is no drawing"
    await page.press("z", ctrl=True, shift=True)
    await canvas.rest(page)
    assert near(canvas.sent_colour(canvas.requests(page)[-1], 0.5, 0.5), RED, 40)
    await page.click("#clear")
    await canvas.rest(page)
    assert "image_bytes" not in canvas.requests(page)[-1]
    await page.click("#undo")
    await canvas.rest(page)
    assert near(canvas.sent_colour(canvas.requests(page)[-1], 0.5, 0.5), RED, 40)


async def test_clearing_a_masked_drawing_is_one_step(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await canvas.colour(page, "#ff0000")
    await page.drag("#paper", LINE)
    await page.click("label[for=tool-mask]")
    await page.drag("#paper", [(x, 0.2) for x, _ in LINE])
    await page.click("#clear")
    await canvas.rest(page)
    assert "image_bytes" not in canvas.requests(page)[-1]
    await page.click("#undo")
    await canvas.rest(page)
    request = canvas.requests(page)[-1]
    assert near(canvas.sent_colour(request, 0.5, 0.5), RED, 40)
    assert canvas.sent_colour(request, 0.5, 0.2, "mask_bytes") == WHITE
    await page.click("#redo")
    await canvas.rest(page)
    assert "image_bytes" not in canvas.requests(page)[-1]


async def test_everything_can_be_done_with_keys_alone(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await page.press("Tab", times=3)  # past the link to the API page and the help button
    assert await page.js("document.activeElement.id") == "prompt"
    await page.js("document.activeElement.select()")
    await page.type("a red boat")
    await canvas.rest(page)
    assert near(await canvas.shown(page), colour_of("a red boat", 42))
    await page.press("Escape")
    assert await page.js("document.activeElement.id") == "paper"
    await page.press("3")
    await page.press(" ")
    await page.press("ArrowRight", times=10)
    await page.press(" ")
    await page.press("ArrowDown", times=10)
    await canvas.rest(page)
    request = canvas.requests(page)[-1]
    ink = await page.js("document.querySelector('#palette input:checked').value")
    expected = tuple(int(ink[i : i + 2], 16) for i in (1, 3, 5))
    assert near(canvas.sent_colour(request, 0.7, 0.5), expected, 40)
    assert near(canvas.sent_colour(request, 0.8, 0.7), WHITE), "a lifted pen draws nothing"
    await page.press("r")
    await canvas.rest(page)
    assert canvas.requests(page)[-1]["seed"] != 42
    await page.press("?", shift=True)
    assert await page.js("document.querySelector('#help').open")
    await page.press("Escape")
    assert not await page.js("document.querySelector('#help').open")


async def test_single_letters_can_be_switched_off(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await page.click("#help-open")
    await page.click("#single-keys")
    await page.press("Escape")
    await page.press("e")
    assert await page.js("document.querySelector('#tool-brush').checked")


async def test_a_refused_field_is_explained_at_its_control(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    steps = "document.querySelector('#num_inference_steps')"
    await page.js(f"{steps}.max = 20; {steps}.value = 13; {steps}.dispatchEvent(new Event('input'))")
    await page.until("document.querySelector('#num_inference_steps-error').textContent")
    assert "12" in await canvas.text(page, "#num_inference_steps-error")
    assert await page.js(f"{steps}.ariaInvalid") == "true"
    await page.js(f"{steps}.value = 4; {steps}.dispatchEvent(new Event('input'))")
    await canvas.rest(page)
    assert await canvas.text(page, "#num_inference_steps-error") == ""


async def test_a_dropped_picture_becomes_the_drawing(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await page.js(
        """(async () => {
            const canvas = new OffscreenCanvas(300, 100);
            const ctx = canvas.getContext("2d");
            ctx.fillStyle = "#0000ff";
            ctx.fillRect(0, 0, 300, 100);
            const dataTransfer = new DataTransfer();
            const file = new File([await canvas.convertToBlob()], "sea.png", { type: "image/png" });
            dataTransfer.items.add(file);
            dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
        })()"""
    )
    await page.until("document.querySelector('#paper').dataset.blank === 'false'")
    await canvas.rest(page)
    assert near(canvas.sent_colour(canvas.requests(page)[-1], 0.1, 0.9), (0, 0, 255))
    await page.js(
        """(() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["no picture"], "letter.txt"));
            dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
        })()"""
    )
    await page.until("/letter.txt is no picture/.test(document.querySelector('#error').textContent)")


async def test_the_picture_can_be_drawn_on(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    colour = await canvas.shown(page)
    await page.click("#take")
    await canvas.rest(page)
    assert near(canvas.sent_colour(canvas.requests(page)[-1], 0.3, 0.3), colour)


async def test_meter_shows_rate_latency_and_every_stage(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await page.drag("#paper", LINE, pause_s=0.03)
    await page.until("Number(document.querySelector('#fps').textContent) > 0")
    assert re.fullmatch(r"\d+ ms", await canvas.text(page, "#latency"))
    assert await canvas.text(page, "#batch") == "1"
    stages = await page.js("[...document.querySelectorAll('#legend li')].map(li => li.dataset.stage)")
    assert stages == (
        ["wire", "receive", "decode", "queue", "text", "vae_encode", "steps", "vae", "encode", "send", "show"]
    )
    widths = await page.js("[...document.querySelectorAll('#bar span')].map(s => s.offsetWidth)")
    assert widths[stages.index("steps")] > max(widths[1:6]), "most of the fake engine's time is its steps"
    label = await page.js("document.querySelector('#bar').ariaLabel")
    assert re.search(r"steps \d+", label)


async def test_on_a_phone_a_finger_draws_and_nothing_scrolls_sideways(page: Page, server: Server) -> None:
    await page.show_as(390, 844, phone=True)
    await open_canvas(page, server.url)
    picture, paper = await page.box("#frame"), await page.box("#paper")
    assert picture["y"] + picture["height"] <= paper["y"]
    assert paper["y"] + paper["height"] < 844, "both are in sight"
    assert await page.js("document.documentElement.scrollWidth") == 390
    await canvas.colour(page, "#ff0000")
    await page.swipe("#paper", [(0.5, 0.2 + 0.03 * i) for i in range(21)])
    await canvas.rest(page)
    assert near(canvas.sent_colour(canvas.requests(page)[-1], 0.5, 0.5), RED, 40)
    assert await page.js("scrollY") == 0
    said = await page.js(
        """(e => {
            e.textContent = "Live: ".repeat(40);
            const cut = e.scrollWidth > e.clientWidth && getComputedStyle(e).textOverflow;
            return [cut, document.documentElement.scrollWidth];
        })(document.querySelector("#state-text"))"""
    )
    assert said == ["ellipsis", 390]


async def test_no_size_overflows_sideways(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    for size in [(320, 568), (360, 640), (667, 375), (820, 1180), (1280, 800), (2560, 1300)]:
        await page.show_as(*size)
        assert await page.js("document.documentElement.scrollWidth") <= size[0], size
        for part in (".drawing .row", ".drawing .palette", ".result .row", "#dials", "#meter", "#legend"):
            fits = f"(e => e.scrollWidth <= e.clientWidth + 1)(document.querySelector('{part}'))"
            assert await page.js(fits), (part, size)


async def test_nothing_moves_while_it_loads_and_draws(page: Page, server: Server) -> None:
    await page.do(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
            window.shifts = 0;
            new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) shifts += entry.value;
            }).observe({ type: "layout-shift", buffered: true });""",
    )
    await open_canvas(page, server.url)
    await page.drag("#paper", LINE, pause_s=0.02)
    await canvas.prompt(page, "!fault")
    await page.until("document.querySelector('#prompt-error').textContent")
    assert await page.js("shifts") < 0.01


async def test_every_control_has_a_name(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    nodes = (await page.do("Accessibility.getFullAXTree"))["nodes"]
    roles = {
        "button",
        "textbox",
        "slider",
        "radio",
        "ColorWell",
        "application",
        "img",
        "radiogroup",
        "switch",
    }
    seen = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if node["role"]["value"] in roles and not node.get("ignored")
    ]
    assert len(seen) > 25
    assert [role for role, name in seen if not name] == []


async def test_everything_comes_from_this_server(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await page.drag("#paper", LINE)
    await canvas.rest(page)
    assert {urlsplit(url).netloc for url in page.urls if not url.startswith("blob:")} == {
        f"{server.host}:{server.port}"
    }


async def test_a_long_session_leaves_nothing_behind(page: Page, server: Server) -> None:
    await open_canvas(page, server.url)
    await page.drag("#paper", LINE)
    await canvas.rest(page)
    before = await page.do("Memory.getDOMCounters")
    for _ in range(5):
        await page.drag("#paper", LINE)
        await asyncio.sleep(0)
    await canvas.rest(page)
    await page.do("HeapProfiler.collectGarbage")
    after = await page.do("Memory.getDOMCounters")
    assert after["nodes"] <= before["nodes"] + 20
    assert after["jsEventListeners"] <= before["jsEventListeners"] + 5
    assert not [url for url in page.urls if url.startswith("blob:")]
