"""Server-sent events of pictures being drawn, against real servers."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engines.fake import colour_of
from tests.realtime.test_run import cancelled, wait_for
from tests.servers import KEY, Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

AUTHORIZED = {"Authorization": f"Key {KEY}"}
STREAM = "/fal-ai/lcm/stream"


@pytest.fixture(scope="module")
def paced() -> Iterator[Server]:
    """A step takes long enough for a preview to be made before the next one ends."""
    with serve(model="fake:base_ms=120,row_ms=0,vae_ms=1", sse_ping_s=0.3, heartbeat_s=0.1) as server:
        yield server


@contextlib.contextmanager
def streamed(server: Server, payload: Any, path: str = STREAM, **options: Any) -> Iterator[httpx.Response]:
    with (
        httpx.Client(base_url=server.url, timeout=15) as client,
        client.stream("POST", path, json=payload, **options) as response,
    ):
        yield response


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The data of each event as it comes; comments are left out."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
        else:
            assert line == "" or line.startswith(":")


def pixels(url: str) -> np.ndarray:
    data = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)


def test_a_stream_shows_the_steps_and_then_the_answer_of_a_run(paced: Server):
    """On a machine that is busy a preview comes too late, and is left out."""
    wish = {"prompt": "a fox", "seed": 7, "num_inference_steps": 4, "sync_mode": True}
    with streamed(paced, wish) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-fal-request-id"]
        *steps, last = events(response)
    numbers = [said["step"] for said in steps]
    assert numbers == sorted(set(numbers) & {1, 2, 3})
    assert {(said["partial"], said["steps"]) for said in steps} == {(True, 4)}
    assert last["partial"] is False
    assert (last["seed"], last["num_inference_steps"], len(last["timings"]["steps"])) == (7, 4, 4)
    assert {"receive", "decode", "prepare", "queue", "encode"} <= last["timings"].keys()
    final = colour_of("a fox", 7)
    off = [np.abs(pixels(said["images"][0]["url"])[3, 3] - final).max() for said in (*steps, last)]
    assert off == sorted(set(off), reverse=True)
    assert off[-1] <= 3 < off[-2]
    assert {(image["width"], image["height"]) for said in steps for image in said["images"]} == {(512, 512)}


def test_steps_come_while_the_picture_is_drawn(paced: Server):
    with streamed(paced, {"prompt": "a", "num_inference_steps": 8}) as response:
        came = [time.monotonic() for _ in events(response)]
    assert came[-1] - came[0] > 4 * 0.12, "all at once would be no stream"


def test_all_pictures_of_a_request_are_shown_side_by_side(paced: Server):
    with streamed(paced, {"prompt": "a", "seed": 1, "num_images": 3, "num_inference_steps": 3}) as response:
        *steps, last = events(response)
    assert [len(said["images"]) for said in steps] == sorted(len(said["images"]) for said in steps)
    assert len(steps[-1]["images"]) == len(last["images"]) == 3


def test_without_sync_mode_the_answer_has_a_url(paced: Server):
    with streamed(paced, {"prompt": "a", "num_inference_steps": 2}) as response:
        *steps, last = events(response)
    assert all(said["images"][0]["url"].startswith("data:image/jpeg") for said in steps)
    url = last["images"][0]["url"]
    assert url.startswith(paced.url + "/files/")
    assert paced.get(url.removeprefix(paced.url))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/fal-ai/lcm/text-to-image/stream",
        "/110602490-lcm/stream",
        "/__h/fal.run/fal-ai/fast-sdxl/stream",
        "/__h/110602490-lcm.gateway.alpha.fal.ai/stream",
    ],
)
def test_every_app_streams_under_each_of_its_names(paced: Server, path: str):
    with streamed(paced, {"prompt": "a", "num_inference_steps": 2}, path) as response:
        assert response.status_code == 200
        assert list(events(response))[-1]["partial"] is False


def test_a_get_streams_too(paced: Server):
    with (
        httpx.Client(base_url=paced.url, timeout=15) as client,
        client.stream("GET", STREAM, params={"prompt": "a", "num_inference_steps": "2"}) as response,
    ):
        assert list(events(response))[-1]["num_inference_steps"] == 2


@pytest.mark.parametrize(
    ("payload", "status", "kind"),
    [
        ({}, 422, "missing"),
        ({"prompt": "a", "num_inference_steps": 0}, 422, "greater_than_equal"),
        ({"prompt": "!fault"}, 422, "validation_error"),  # found by the engine
        ({"prompt": "a", "image_url": "data:,nothing"}, 422, "image_load_error"),
    ],
)
def test_what_fails_before_the_first_byte_is_a_real_http_error(
    paced: Server, payload: Any, status: int, kind: str
):
    with streamed(paced, payload) as response:
        body = json.loads(response.read())
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert body["detail"][0]["type"] == kind


def test_an_unknown_app_has_no_stream(paced: Server):
    for path in ("/fal-ai/nothing/stream", "/__h/fal.run/fal-ai/nothing/stream", "/stream"):
        with streamed(paced, {"prompt": "a"}, path) as response:
            assert response.status_code == 404


def test_a_stream_that_has_nothing_to_say_says_that_it_is_alive(paced: Server):
    with streamed(paced, {"prompt": "!slow 1.2", "num_inference_steps": 2}) as response:
        lines = [(time.monotonic(), line) for line in response.iter_lines() if line]
    comments = [line for _, line in lines if line.startswith(":")]
    assert len(comments) >= 2
    assert lines[-1][1].startswith("data: ")


def test_what_fails_after_the_first_byte_is_an_event_and_a_cut(paced: Server):
    """A start timeout after the first comment is out: too late for a status of HTTP."""
    slow = {"prompt": "!slow 3", "num_inference_steps": 2}
    late = {"x-fal-request-timeout": "0.7"}
    said: list[dict[str, Any]] = []
    with serve(model="fake:places=1,base_ms=1", sse_ping_s=0.2) as server, streamed(server, slow) as first:
        assert first.status_code == 200
        with streamed(server, {"prompt": "b"}, headers=late) as second:
            assert second.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                said.extend(one for one in events(second))
        assert [(one["status"], one["error_type"]) for one in said] == [(504, "request_timeout")]
        assert list(events(first))[-1]["partial"] is False, "the other stream is not touched"
    assert not [line for line in server.log if "Traceback" in line]


def test_a_reader_that_leaves_takes_its_stream_with_it(paced: Server):
    before = cancelled(paced)
    with streamed(paced, {"prompt": "a", "num_inference_steps": 12}) as response:
        assert next(events(response))["step"] == 1
    wait_for(lambda: cancelled(paced) == before + 1)
    wait_for(lambda: paced.metric("realtime_runs_total", lane="stream", status="cancelled") >= 1)


def test_a_drained_server_ends_its_streams_with_their_answers():
    with serve(model="fake:base_ms=150") as server:
        with streamed(server, {"prompt": "a", "num_inference_steps": 8}) as response:
            came = events(response)
            assert next(came)["partial"] is True
            server.process.terminate()
            assert list(came)[-1]["partial"] is False
        assert server.process.wait(10) == 0


def test_a_stream_opens_with_a_token_in_its_url(keyed_server: Server):
    """fal-js in client mode sends no header."""
    wish = {"prompt": "a", "num_inference_steps": 1}
    token = json.loads(keyed_server.ask("POST", "/tokens/", {"allowed_apps": ["lcm"]}, AUTHORIZED)[2])
    for query, status in (("", 401), (f"?fal_jwt_token={token}", 200), (f"?fal_jwt_token={token}x", 401)):
        with streamed(keyed_server, wish, STREAM + query) as response:
            assert response.status_code == status
            response.read()


# ---- the test profile ----


def test_the_echo_of_fals_test_suite_is_not_there_by_default(paced: Server):
    assert paced.ask("POST", "/fal-ai/any-llm/stream", {"prompt": "a b"})[0] == 404


def test_the_echo_answers_word_by_word_in_the_test_profile():
    with serve(test_apps=True) as server:
        with streamed(server, {"prompt": "say it again"}, "/fal-ai/any-llm/stream") as response:
            said = list(events(response))
        assert [one["output"] for one in said] == ["say", "say it", "say it again"]
        assert [one["partial"] for one in said] == [True, True, False]
        assert server.ask("POST", "/fal-ai/any-llm/stream", {})[0] == 422


# ---- a real model ----


@pytest.mark.timeout(90)  # torch is imported, and the model warmed up
def test_previews_of_the_embedded_model_converge_to_its_picture():
    wish = {
        **{"prompt": "a red circle on a blue background", "seed": 3, "num_inference_steps": 4},
        # The size it was trained for: at others later steps may well think again.
        **{"image_size": {"width": 256, "height": 256}, "format": "png", "sync_mode": True},
    }
    with serve(model="embedded", ready=False) as server:
        server.wait_ready(75)
        with streamed(server, wish) as response:
            *steps, last = events(response)
    final = pixels(last["images"][0]["url"])
    assert steps, "a CPU that is busy skips previews, but not all of them"
    off = [float(np.abs(pixels(said["images"][0]["url"]) - final).mean()) for said in steps]
    assert off[0] < 40, "already the first estimate is a picture, not noise (about 85 off)"
    if len(off) > 1:
        assert off[-1] < off[0]
    assert off[-1] < 20
