"""Runs over HTTP against a real server with the fake engine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from engines.fake import colour_of
from tests.pictures import data_uri, picture
from tests.realtime.talk import ask, eventually, opened, receive, send
from tests.servers import KEY, Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

AUTHORIZED = {"Authorization": f"Key {KEY}"}
SLOW = "fake:base_ms=150,row_ms=0,vae_ms=1,places=1"  # a run of two steps takes 0.3 s, and fills the engine


def run(
    server: Server, payload: Any = None, path: str = "/fal-ai/lcm", **headers: str
) -> tuple[int, Any, dict[str, Any]]:
    """(status, headers, body) of a run."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    status, answered, body = server.ask("POST", path, payload, given)
    return status, answered, json.loads(body)


def colour(data: bytes) -> tuple[int, ...]:
    found = Image.open(io.BytesIO(data)).convert("RGB").getpixel((3, 3))
    assert isinstance(found, tuple)
    return found


def near(data: bytes, prompt: str, seed: int) -> bool:
    return all(abs(a - b) <= 3 for a, b in zip(colour(data), colour_of(prompt, seed), strict=True))


def cancelled(server: Server) -> float:
    """By the engine's own count; its last Pong may be a moment old."""
    return server.metric("realtime_engine_ended_total", outcome="cancelled")


# ---- answers ----


def test_a_picture_is_kept_and_its_url_answered(server: Server):
    status, headers, body = run(server, {"prompt": "a fox", "seed": 7, "num_inference_steps": 2})
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["x-fal-billable-units"] == "1"
    (image,) = body["images"]
    assert image["url"].startswith(server.url + "/files/")
    assert (image["width"], image["height"], image["content_type"]) == (512, 512, "image/jpeg")
    assert (body["seed"], body["num_inference_steps"], len(body["timings"]["steps"])) == (7, 2, 2)
    status, headers, data = server.ask("GET", image["url"].removeprefix(server.url))
    assert (status, headers["content-type"], len(data)) == (200, "image/jpeg", image["file_size"])
    assert near(data, "a fox", 7)


def test_the_answer_says_where_its_time_went(server: Server):
    timings = run(server, {"prompt": "a fox", "prompt_pad": "x" * 500_000})[2]["timings"]
    own = {name: timings.pop(name) for name in ("receive", "decode", "prepare")}
    assert {"queue", "text", "steps", "vae", "encode", "inference"} <= timings.keys()
    assert all(0 < seconds < 5 for seconds in own.values()), own
    assert "send" not in timings, "not known in a body that is kept and sent again"


def test_in_sync_mode_the_picture_is_in_the_answer(server: Server):
    body = run(server, {"prompt": "a fox", "seed": 7, "sync_mode": True, "num_images": 2})[2]
    for number, image in enumerate(body["images"]):
        head, _, data = image["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        assert near(base64.b64decode(data), "a fox", 7 + number)


def test_a_get_has_its_input_in_the_query(server: Server):
    status, body = server.get("/fal-ai/lcm?prompt=a%20fox&seed=7&num_inference_steps=2&sync_mode=true")
    assert status == 200
    answer = json.loads(body)
    assert (answer["seed"], answer["num_inference_steps"]) == (7, 2)
    assert near(base64.b64decode(answer["images"][0]["url"].partition(",")[2]), "a fox", 7)


@pytest.mark.parametrize(
    "path",
    [
        "/fal-ai/lcm",
        "/fal-ai/lcm/",
        "/fal-ai/lcm/text-to-image",
        "/110602490-lcm",
        "/110602490/lcm",
        "/__h/fal.run/fal-ai/lcm",
        "/__h/fal.run/110602490-lcm",
        "/__h/110602490-lcm.gateway.alpha.fal.ai/",
        "/fal-ai/fast-sdxl",
    ],
)
def test_an_app_is_found_under_each_of_its_names(server: Server, path: str):
    status, _, body = run(server, {"prompt": "a", "num_inference_steps": 1}, path)
    assert status == 200
    assert body["images"]


@pytest.mark.parametrize(
    "path", ["/fal-ai/lcm/image-to-image", "/fal-ai/lcm-sd15-i2i", "/fal-ai/fast-sdxl/image-to-image"]
)
def test_image_to_image_keeps_the_size_of_its_input(server: Server, path: str):
    source = data_uri(picture(320, 192))
    status, _, body = run(server, {"prompt": "a", "image_url": source}, path)
    assert status == 200
    assert (body["images"][0]["width"], body["images"][0]["height"]) == (320, 192)


def test_a_kept_picture_can_be_the_input_of_the_next_run(server: Server):
    first = run(server, {"prompt": "a", "image_size": {"width": 64, "height": 96}})[2]
    url = first["images"][0]["url"]
    status, _, body = run(server, {"prompt": "b", "image_url": url}, "/fal-ai/lcm/image-to-image")
    assert status == 200, body
    assert (body["images"][0]["width"], body["images"][0]["height"]) == (64, 96)


def test_a_caller_says_how_long_its_pictures_live_and_who_may_have_them(keyed_server: Server):
    def kept(lifecycle: dict[str, Any]) -> str:
        header = {"x-fal-object-lifecycle-preference": json.dumps(lifecycle), **AUTHORIZED}
        body = keyed_server.ask("POST", "/fal-ai/lcm", {"prompt": "a", "num_inference_steps": 1}, header)[2]
        return json.loads(body)["images"][0]["url"].removeprefix(keyed_server.url)

    closed = kept({"initial_acl": {"default": "forbid", "rules": []}})
    assert keyed_server.ask("GET", closed)[0] == 404
    assert keyed_server.ask("GET", closed, headers=AUTHORIZED)[0] == 200
    short = kept({"expiration_duration_seconds": 1})
    assert keyed_server.ask("GET", kept({"expiration_duration_seconds": 3600}))[0] == 200
    wait_for(lambda: keyed_server.ask("GET", short)[0] == 404)


def test_what_javascript_makes_of_bytes_is_read(server: Server):
    """JSON.stringify of a Uint8Array is {"0": 255, ...}."""
    data = picture(32, 32)
    given = {str(at): byte for at, byte in enumerate(data)}
    status, _, body = run(server, {"prompt": "a", "image_bytes": given}, "/fal-ai/lcm/image-to-image")
    assert status == 200, body


@pytest.mark.parametrize(
    ("headers", "path", "base"),
    [
        ({}, "/fal-ai/lcm", None),
        ({}, "/__h/fal.run/fal-ai/lcm", None),
        ({"Host": "fal.run"}, "/fal-ai/lcm", "https://v3.fal.media"),
        ({"Host": "pictures.example:8443"}, "/fal-ai/lcm", "http://pictures.example:8443"),
        # nobody said that this peer is a proxy
        ({"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}, "/fal-ai/lcm", None),
    ],
)
def test_urls_lead_where_the_client_came_from(server: Server, headers: dict, path: str, base: str | None):
    _, _, answer = server.ask("POST", path, {"prompt": "a", "num_inference_steps": 1}, headers)
    assert json.loads(answer)["images"][0]["url"].startswith((base or server.url) + "/files/")


def test_a_trusted_proxy_says_where_we_are():
    with serve(trusted_proxies=["127.0.0.0/8"]) as server:
        forwarded = {
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "pictures.example",
            "X-Forwarded-Prefix": "/lcm",
        }
        for path in ("/fal-ai/lcm", "/lcm/fal-ai/lcm"):  # the proxy cut the prefix off, or left it on
            _, _, body = server.ask("POST", path, {"prompt": "a", "num_inference_steps": 1}, forwarded)
            url = json.loads(body)["images"][0]["url"]
            assert url.startswith("https://pictures.example/lcm/files/")
            assert server.get(url.removeprefix("https://pictures.example/lcm"))[0] == 200


# ---- refusals ----


@pytest.mark.parametrize(
    ("payload", "kind", "field"),
    [
        (None, "missing", "prompt"),
        ({}, "missing", "prompt"),
        ({"prompt": ""}, "string_too_short", "prompt"),
        ({"prompt": "a", "num_inference_steps": 99}, "less_than_equal", "num_inference_steps"),
        ({"prompt": "a", "model": "sdxl"}, "unsupported", "model"),
        ({"prompt": "a", "image_url": "data:image/png;base64,AAAA"}, "image_load_error", "image_url"),
        ({"prompt": "a", "image_url": "http://127.0.0.1:9/a.png"}, "file_download_error", "image_url"),
        ({"prompt": "!fault"}, "validation_error", "prompt"),
        ([], "json_invalid", None),
        (7, "json_invalid", None),
        ({"prompt": "half a pair \ud800"}, "json_invalid", None),
    ],
)
def test_what_is_wrong_with_an_input_is_said_field_by_field(
    server: Server, payload: Any, kind: str, field: str | None
):
    status, headers, body = run(server, payload)
    assert status == 422
    assert headers["x-fal-request-id"]
    assert headers["x-fal-billable-units"] == "0"
    (entry,) = body["detail"]
    assert entry["type"] == kind
    assert entry["loc"] == (["body", field] if field else ["body"])
    assert entry["msg"]


def post(server: Server, body: bytes, path: str = "/fal-ai/lcm", **headers: str) -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"{'a': 1}", b"\xff\xfe", b'{"seed": NaN}', b'{"a": 1e999}', b'{"a": 1, "a": 2}'),
        # the parser holds the interpreter: what would make it slow is refused by counting
        *(b"[" * 100_000, b"[" + b"0," * 2_000_000 + b"0]", b'{"a":' * 50 + b"1" + b"}" * 50),
    ],
)
def test_a_body_that_is_no_json_is_422_as_in_fals_own_apps(server: Server, body: bytes):
    status, _, answer = post(server, body)
    assert status == 422
    assert answer["detail"][0]["type"] == "json_invalid"
    assert len(json.dumps(answer)) < 300, "nothing of the body is sent back"


def test_a_body_over_the_limit_is_413():
    with serve(max_frame_bytes=100_000) as server:
        status, headers, body = post(server, json.dumps({"prompt": "a" * 200_000}).encode())
        assert status == 413
        assert headers["x-fal-error-type"] == body["error_type"] == "request_too_large"
        assert "100000" in body["detail"]
        assert run(server, {"prompt": "a"})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "detail"),
    [
        ("POST", "/__h/fal.run/fal-ai/nothing", 404, "not_found", 'Application "fal-ai/nothing" not found'),
        ("POST", "/__h/fal.run/fal-ai/lcm/a/b", 404, "not_found", "Path /a/b not found"),
        ("POST", "/__h/fal.run/lcm", 404, "not_found", 'Application "lcm" not found'),
        ("POST", "/__h/fal.run/", 404, "not_found", 'Application "" not found'),
        ("POST", "/fal-ai/nothing", 404, "not_found", "Path /fal-ai/nothing not found"),
        ("PUT", "/fal-ai/lcm", 405, "method_not_allowed", "Method Not Allowed"),
        ("DELETE", "/__h/fal.run/fal-ai/lcm", 405, "method_not_allowed", "Method Not Allowed"),
        ("POST", "/fal-ai/lcm/realtime", 404, "not_found", "this path is for a WebSocket"),
        ("GET", "/fal-ai/lcm/ws", 404, "not_found", "this path is for a WebSocket"),
    ],
)
def test_what_is_not_there_is_said_as_fal_says_it(
    server: Server, method: str, path: str, status: int, kind: str, detail: str
):
    answered, headers, body = server.ask(method, path, {"prompt": "a"} if method == "POST" else None)
    said = json.loads(body)
    assert answered == status
    assert headers["x-fal-error-type"] == said["error_type"] == kind
    assert said["detail"].startswith(detail)
    assert headers["allow"] == ("POST, GET" if status == 405 else None)


@pytest.mark.parametrize(
    "header",
    [
        {"x-fal-request-timeout": "soon"},
        {"x-fal-request-timeout": "-1"},
        {"x-fal-request-start-timeout": "nan"},
        {"x-fal-object-lifecycle-preference": "{"},
    ],
)
def test_a_header_that_cannot_be_read_is_400(server: Server, header: dict[str, str]):
    status, headers, _ = server.ask("POST", "/fal-ai/lcm", {"prompt": "a"}, header)
    assert (status, headers["x-fal-error-type"]) == (400, "bad_request")


def test_a_run_needs_a_key_where_keys_are_configured(keyed_server: Server):
    for headers in ({}, {"Authorization": "Key test:wrong"}):
        status, answered, body = keyed_server.ask("POST", "/fal-ai/lcm", {"prompt": "a"}, headers)
        assert status == 401
        assert answered["x-fal-error-type"] == "unauthorized"
        assert json.loads(body)["detail"]
    assert keyed_server.ask("POST", "/fal-ai/lcm", {"prompt": "a"}, AUTHORIZED)[0] == 200


def test_a_token_opens_the_run_of_its_own_apps(keyed_server: Server):
    token = json.loads(keyed_server.ask("POST", "/tokens/", {"allowed_apps": ["lcm"]}, AUTHORIZED)[2])
    wish = {"prompt": "a"}
    assert keyed_server.ask("POST", f"/fal-ai/lcm?fal_jwt_token={token}", wish)[0] == 200
    assert keyed_server.ask("POST", f"/fal-ai/fast-sdxl?fal_jwt_token={token}", wish)[0] == 401


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {"Origin": "https://evil.example"}),
        ("GET", {"Origin": "https://evil.example"}),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),  # <img src=...>
    ],
)
def test_a_page_of_a_stranger_cannot_draw_here(server: Server, method: str, headers: dict[str, str]):
    before = server.metric("realtime_runs_total")
    path = "/fal-ai/lcm?prompt=a"
    status, answered, _ = server.ask(method, path, {"prompt": "a"} if method == "POST" else None, headers)
    assert status == 403
    assert "access-control-allow-origin" not in answered
    assert server.metric("realtime_runs_total") == before


def test_a_page_on_loopback_can(server: Server):
    headers = {"Origin": "http://localhost:3311", "Sec-Fetch-Site": "same-site"}
    status, answered, _ = server.ask("POST", "/fal-ai/lcm", {"prompt": "a"}, headers)
    assert status == 200
    assert answered["access-control-allow-origin"] == "http://localhost:3311"


# ---- slow peers ----


def head(size: int, path: str = "/fal-ai/lcm") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()


def test_a_body_may_take_longer_than_a_handshake_while_it_moves():
    with serve(handshake_s=0.3) as server, socket.create_connection((server.host, server.port)) as peer:
        peer.settimeout(5)
        body = json.dumps({"prompt": "a", "sync_mode": True, "more": "x" * 200_000}).encode()
        peer.sendall(head(len(body)))
        for at in range(0, len(body), 20_000):
            peer.sendall(body[at : at + 20_000])
            time.sleep(0.1)  # a slow line: 1.1 s in all
        assert peer.recv(12) == b"HTTP/1.1 200"


def test_a_body_that_stands_still_is_cut():
    with serve(handshake_s=0.3) as server, socket.create_connection((server.host, server.port)) as peer:
        peer.settimeout(5)
        peer.sendall(head(200_000) + b"{" * 30_000)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""


def test_a_reader_that_does_not_read_is_cut():
    noise = Image.frombytes("RGB", (512, 512), random.Random(1).randbytes(512 * 512 * 3))
    file = io.BytesIO()
    noise.save(file, "PNG", compress_level=0)
    wish = {  # an answer of 8 MB: the input itself, in eight files
        **{"prompt": "a", "num_images": 8, "num_inference_steps": 1, "sync_mode": True, "format": "png"},
        **{"image_url": data_uri(file.getvalue()), "inpaint_mask_only": True},
        "mask_url": data_uri(solid(512, 512, "black")),
    }
    body = json.dumps(wish).encode()
    with serve(stall_s=0.3) as server, socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(5)
        peer.connect((server.host, server.port))
        peer.sendall(head(len(body)) + body)
        wait_for(lambda: server.metric("realtime_http_requests_total", role="plain", status="200") >= 1)
        assert server.terminate(5) == 0, "and is not waited for: the kernel would take 8 s to give up"


def solid(width: int, height: int, colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), colour).save(file, "PNG")
    return file.getvalue()


# ---- time, limits and the end ----


@pytest.fixture
def slow() -> Iterator[Server]:
    with serve(model=SLOW, heartbeat_s=0.1) as server:
        yield server


@pytest.mark.parametrize("name", ["x-fal-request-timeout", "x-fal-request-start-timeout"])
def test_a_run_that_cannot_begin_in_time_is_a_504_that_is_not_retried(slow: Server, name: str):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, slow, {"prompt": "first", "num_inference_steps": 8})
        assert_running(slow)
        status, headers, body = slow.ask(
            "POST", "/fal-ai/lcm", {"prompt": "second"}, {name: "0.2", "x-fal-request-timeout": "0.2"}
        )
        assert status == 504
        assert headers["x-fal-request-timeout-type"] == "user"
        assert headers["x-fal-error-type"] == json.loads(body)["error_type"] == "request_timeout"
        assert first.result()[0] == 200, "the one before it is not touched"
    assert slow.metric("realtime_runs_total", status="504") == 1


def assert_running(server: Server, count: int = 1) -> None:
    until = time.monotonic() + 10
    while server.metric("realtime_engine_requests", state="running") < count:
        assert time.monotonic() < until, "nothing is being drawn"
        time.sleep(0.02)


def test_a_start_timeout_does_not_stop_what_has_begun(slow: Server):
    status, _, _ = run(slow, {"prompt": "a", "num_inference_steps": 4}, x_fal_request_timeout="0.3")
    assert status == 200


def test_a_start_timeout_counts_the_start_of_the_engine():
    with serve(ready=False, model="fake:load_s=5") as server:
        status, headers, _ = run(server, {"prompt": "a"}, x_fal_request_timeout="0.2")
        assert (status, headers["x-fal-request-timeout-type"]) == (504, "user")


def test_a_run_waits_for_an_engine_that_starts():
    with serve(ready=False, model="fake:load_s=1") as server:
        assert run(server, {"prompt": "a"})[0] == 200


def test_a_run_that_takes_too_long_is_ended_and_taken_back():
    with serve(model=SLOW, run_s=0.5, heartbeat_s=0.1) as server:
        status, headers, body = run(server, {"prompt": "a", "num_inference_steps": 12})
        assert status == 504
        assert headers["x-fal-request-timeout-type"] == "user"
        assert body["error_type"] == "generation_timeout"
        wait_for(lambda: cancelled(server) == 1)


def wait_for(holds: Any) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.02)


def test_a_client_that_leaves_takes_its_run_with_it(slow: Server):
    connection = http.client.HTTPConnection(slow.host, slow.port, timeout=10)
    connection.request("POST", "/fal-ai/lcm", json.dumps({"prompt": "a", "num_inference_steps": 12}))
    assert_running(slow)
    connection.close()
    wait_for(lambda: cancelled(slow) == 1)
    wait_for(lambda: slow.metric("realtime_runs_total", status="cancelled") == 1)
    assert run(slow, {"prompt": "b", "num_inference_steps": 1})[0] == 200


def test_more_runs_of_one_key_than_allowed_are_429():
    with serve(model=SLOW, max_runs=3, heartbeat_s=0.1) as server, ThreadPoolExecutor(3) as pool:
        first = [pool.submit(run, server, {"prompt": "a", "num_inference_steps": 4}) for _ in range(3)]
        wait_for(lambda: server.metric("realtime_engine_requests", state="running") == 1)
        wait_for(lambda: server.metric("realtime_engine_requests", state="waiting") == 2)
        status, headers, body = run(server, {"prompt": "one more"})
        assert (status, headers["x-fal-needs-retry"]) == (429, "1")
        assert body["error_type"] == "concurrent_requests_limit"
        assert "3 runs" in body["detail"]
        assert [future.result()[0] for future in first] == [200] * 3
        assert run(server, {"prompt": "b", "num_inference_steps": 1})[0] == 200


def test_a_drained_server_answers_its_runs_and_takes_no_more(slow: Server):
    answers: list[tuple[int, Any, dict[str, Any]]] = []
    asked = threading.Thread(
        target=lambda: answers.append(run(slow, {"prompt": "a", "num_inference_steps": 8}))
    )
    asked.start()
    assert_running(slow)
    slow.process.terminate()
    wait_for(lambda: slow.get("/readyz")[0] == 503)
    status, headers, _ = run(slow, {"prompt": "too late"})
    assert (status, headers["x-fal-error-type"]) == (503, "runner_scheduling_failure")
    asked.join(10)
    ((status, _, body),) = answers
    assert status == 200
    assert body["images"]
    assert slow.process.wait(10) == 0


def test_a_request_that_kills_engines_is_refused_and_others_are_drawn():
    with serve() as server, ThreadPoolExecutor(4) as pool:
        bad = pool.submit(run, server, {"prompt": "!crash"})
        good = [pool.submit(run, server, {"prompt": f"p{n}", "sync_mode": True}) for n in range(3)]
        status, headers, body = bad.result()
        assert status == 422
        assert headers["x-fal-error-type"] == body["error_type"] == "runner_server_error"
        assert [future.result()[0] for future in good] == [200] * 3


# ---- sharing the engine ----


async def test_many_runs_at_once_leave_a_live_session_its_share():
    """32 runs of one caller weigh as much as the one live session does, not 32 times as much."""
    with serve(model="fake:base_ms=20,row_ms=5,places=2") as server:
        async with opened(server) as ws, httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            wish = {"prompt": "a", "num_inference_steps": 2}
            runs = asyncio.gather(*(client.post("/fal-ai/lcm", json=wish) for _ in range(32)))
            frames = 0
            while not runs.done():
                assert "images" in await ask(ws, wish)
                frames += 1
            assert {answer.status_code for answer in await runs} == {200}
    assert frames >= 12, f"{frames} frames beside 32 runs on two places"


async def test_a_live_session_does_not_starve_a_run():
    with serve(model="fake:base_ms=20,row_ms=5,places=1") as server:
        async with opened(server, max_buffering=8) as ws, httpx.AsyncClient(timeout=15) as client:
            for number in range(200):
                await send(ws, {"prompt": f"p{number}", "num_inference_steps": 4})
            began = time.monotonic()
            answer = await client.post(server.url + "/fal-ai/lcm", json={"prompt": "a"})
            assert answer.status_code == 200
            assert time.monotonic() - began < 5
            assert "images" in await receive(ws)


async def test_runs_are_counted_by_how_they_ended():
    with serve() as server:
        for payload in ({"prompt": "a"}, {"prompt": "b"}, {}):
            run(server, payload)
        assert server.metric("realtime_runs_total", app="fal-ai/lcm", lane="run", status="200") == 2
        assert server.metric("realtime_runs_total", app="fal-ai/lcm", lane="run", status="422") == 1
        assert server.metric("realtime_run_seconds_count", app="fal-ai/lcm", lane="run") == 2
        assert server.metric("realtime_http_requests_total", role="plain", status="422") == 1
        await eventually(lambda: server.metric("realtime_engine_requests", state="running") == 0)
