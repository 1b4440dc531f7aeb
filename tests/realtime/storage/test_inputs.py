"""Files of ours as inputs: opened in place, as the caller, and never asked of ourselves over HTTP."""

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from websockets.sync.client import connect

from tests.servers import Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

KEYS = ["me:secret", "you:secret"]
FORBID = '{"initial_acl": {"default": "forbid"}}'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(keys=KEYS) as running:
        yield running


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Key {name}:secret"}


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "PNG")
    return out.getvalue()


def uploaded(server: Server, data: bytes, **headers: str) -> str:
    begun = httpx.post(f"{server.url}/storage/upload/initiate", json={}, headers=key("me") | headers).json()
    assert httpx.put(begun["upload_url"], content=data).status_code == 200
    return str(begun["file_url"])


def drawn_over(server: Server, way: str, url: str, name: str) -> dict[str, Any]:
    """The answer to a request of key `name` whose input picture is `url`."""
    wish = {"prompt": "x", "image_url": url, "sync_mode": True}
    if way == "run":
        answer = httpx.post(f"{server.url}/fal-ai/lcm", json=wish, headers=key(name), timeout=10)
        return dict(answer.json())
    with connect(server.ws + "/fal-ai/lcm/realtime", additional_headers=key(name)) as socket:
        socket.send(json.dumps(wish))
        return dict(json.loads(socket.recv(timeout=10)))


@pytest.mark.parametrize("way", ["run", "realtime"])
@pytest.mark.parametrize(
    "base", ["{url}", "https://v3.fal.media", "{url}/__h/v3.fal.media", "https://proxy.example/prefix"]
)
def test_an_uploaded_picture_is_an_input_without_a_request_to_ourselves(server: Server, way: str, base: str):
    """A server on loopback fetches nothing from there: only a file opened in place can be drawn over."""
    url = uploaded(server, png())
    before = server.metric("realtime_http_requests_total")
    answer = drawn_over(server, way, url.replace(server.url, base.format(url=server.url)), "me")
    assert "images" in answer, answer
    others = server.metric("realtime_http_requests_total") - before
    assert others == {"run": 2, "realtime": 1}[way]  # the run, and asking for the metric the first time


@pytest.mark.parametrize("way", ["run", "realtime"])
def test_a_picture_that_was_drawn_is_an_input(server: Server, way: str):
    made = httpx.post(f"{server.url}/fal-ai/lcm", json={"prompt": "x"}, headers=key("me"), timeout=10).json()
    assert "images" in drawn_over(server, way, made["images"][0]["url"], "you")


@pytest.mark.parametrize("way", ["run", "realtime"])
def test_a_private_picture_is_an_input_of_its_owner_alone(server: Server, way: str):
    url = uploaded(server, png(), **{"x-fal-object-lifecycle": FORBID})
    assert "images" in drawn_over(server, way, url, "me")
    refused = drawn_over(server, way, url, "you")
    assert refused["detail"][0]["type"] == "file_download_error"
    assert "gone" in refused["detail"][0]["msg"]


@pytest.mark.parametrize("way", ["run", "realtime"])
def test_what_is_no_picture_or_too_large_or_not_there_is_said(server: Server, way: str):
    for url, kind in (
        (uploaded(server, b"no picture"), "image_load_error"),
        (uploaded(server, b"x" * (20 * 1024 * 1024 + 1)), "file_too_large"),
        (uploaded(server, b""), "image_load_error"),
        (f"{server.url}/files/{'0' * 32}/a.png", "file_download_error"),
    ):
        answer = drawn_over(server, way, url, "me")
        assert answer["detail"][0]["type"] == kind, answer
        assert answer["detail"][0]["loc"] == ["body", "image_url"]
