"""The HTTP side: tokens, health, CORS, the canvas, and clear answers for what is not there."""

import json
import re
import uuid
from typing import Any

import pytest

from tests.realtime.talk import ask, eventually, opened
from tests.servers import KEY, Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

AUTHORIZED = {"Authorization": f"Key {KEY}"}


@pytest.mark.parametrize(
    "path", ["/tokens/", "/tokens", "/__h/rest.fal.ai/tokens/", "/__h/rest.alpha.fal.ai/tokens/"]
)
def test_a_token_is_a_bare_json_string(server: Server, path: str):
    status, headers, body = server.ask("POST", path, {"allowed_apps": ["lcm"], "token_expiration": 120})
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert re.fullmatch(r"[\w.-]+", json.loads(body))


@pytest.mark.parametrize("host", ["rest.fal.ai", "rest.alpha.fal.ai:443", "localhost"])
def test_tokens_are_served_by_host_name(server: Server, host: str):
    status, _, body = server.ask("POST", "/tokens/", {"allowed_apps": ["lcm"]}, {"Host": host})
    assert (status, type(json.loads(body))) == (200, str)


def test_tokens_are_not_served_where_fal_has_none(server: Server):
    assert server.ask("POST", "/__h/fal.run/tokens/", {"allowed_apps": ["lcm"]})[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        {"allowed_apps": ["fal-ai/lcm/realtime"], "duration": 120},
        {"app": "fal-ai/lcm"},
        {"allowed_apps": ["lcm"], "token_expiration": 300},
    ],
)
async def test_the_newer_token_endpoint_answers_an_object_that_opens_a_socket(server: Server, body: dict):
    status, _, answer = server.ask("POST", "/tokens/realtime", body)
    assert status == 200
    async with opened(server, fal_jwt_token=json.loads(answer)["token"]) as ws:
        assert "images" in await ask(ws, {"prompt": "a"})


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"allowed_apps": []},
        {"allowed_apps": [1]},
        {"allowed_apps": {"lcm": True}},
        {"allowed_apps": ["a"] * 33},
        {"allowed_apps": ["lcm"], "token_expiration": -1},
        {"allowed_apps": ["lcm"], "token_expiration": "x"},
        {"allowed_apps": ["lcm"], "token_expiration": 10**9},
        {"allowed_apps": ["lcm"], "token_expiration": True},
        [],
        "lcm",
        {"allowed_apps": ["x" * 70_000]},
    ],
)
def test_a_bad_token_request_is_400_with_a_reason(server: Server, body: object):
    status, _, answer = server.ask("POST", "/tokens/", body)
    assert status == 400
    assert json.loads(answer)["detail"]


def test_tokens_need_a_key_where_keys_are_configured(keyed_server: Server):
    wish = {"allowed_apps": ["lcm"]}
    for headers in ({}, {"Authorization": "Key test:wrong"}, {"Authorization": "Key x:y"}):
        status, _, body = keyed_server.ask("POST", "/tokens/", wish, headers)
        assert status == 401
        assert json.loads(body)["detail"]
    assert keyed_server.ask("POST", "/tokens/", wish, AUTHORIZED)[0] == 200


def test_a_get_of_tokens_is_405(server: Server):
    status, _, body = server.ask("GET", "/tokens/")
    assert (status, json.loads(body)["detail"]) == (405, "Method Not Allowed")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/web/../realtime/server.py", 404),
        ("GET", "/web/%2e%2e/realtime/server.py", 404),
        ("GET", "/web//etc/passwd", 404),
        ("GET", "/web/", 404),
        ("GET", "/web/%00", 404),
        ("POST", "/fal-ai/no-such-app", 404),
        ("POST", "/livez", 405),
        ("DELETE", "/", 405),
        ("PUT", "/fal-ai/lcm", 405),
        ("POST", "/__h/queue.fal.run/fal-ai/no-such-app", 404),
        ("POST", "/__h/rest.fal.ai/storage/nothing", 404),
    ],
)
def test_what_is_not_there_is_said_as_json(server: Server, method: str, path: str, status: int):
    answered, headers, body = server.ask(method, path)
    assert answered == status
    assert headers["content-type"] == "application/json"
    assert isinstance(json.loads(body)["detail"], str)


@pytest.mark.parametrize("path", ["/info", "/nothing", "/livez", "/tokens/"])
def test_every_answer_has_a_request_id_of_its_own(server: Server, path: str):
    ids = {server.ask("GET", path)[1]["x-fal-request-id"] for _ in range(3)}
    assert len({uuid.UUID(identity) for identity in ids}) == 3


def test_a_preflight_echoes_what_is_asked(server: Server):
    status, headers, body = server.ask(
        "OPTIONS",
        "/__h/rest.fal.ai/tokens/",
        headers={
            "Origin": "http://localhost:3311",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-fal-target-url",
        },
    )
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-origin"] == "http://localhost:3311"
    assert headers["access-control-allow-headers"] == "authorization,content-type,x-fal-target-url"
    assert {"GET", "POST", "PUT", "OPTIONS"} <= set(headers["access-control-allow-methods"].split(", "))
    assert int(headers["access-control-max-age"]) > 0


@pytest.mark.parametrize("path", ["/info", "/nothing"])
def test_answers_and_errors_can_be_read_by_pages_on_loopback(server: Server, path: str):
    headers = server.ask("GET", path, headers={"Origin": "http://localhost:3311"})[1]
    assert headers["access-control-allow-origin"] == "http://localhost:3311"
    assert "x-fal-request-id" in headers["access-control-expose-headers"]


def exposed(server: Server, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, set[str]]:
    """The status, and the headers that a page on loopback may read."""
    status, said, _ = server.ask(method, path, body, {"Origin": "http://localhost:3311", **headers})
    names = set(said["access-control-expose-headers"].split(", "))
    assert {name.lower() for name in said if name.lower().startswith("x-fal-")} <= names
    return status, names


def test_pages_may_read_every_header_of_fals(server: Server):
    small = {"prompt": "a", "image_size": {"width": 64, "height": 64}}
    status, names = exposed(server, "POST", "/fal-ai/lcm", small)
    assert (status, names) == (200, {"x-fal-request-id", "x-fal-billable-units", "etag", "retry-after"})
    late = small | {"prompt": "!slow 3"}
    status, names = exposed(server, "POST", "/fal-ai/lcm", late, **{"x-fal-request-timeout": "0.000001"})
    assert status == 504
    assert {"x-fal-error-type", "x-fal-request-timeout-type"} <= names


def test_pages_that_may_use_us_may_read_what_every_page_may_of_a_file(server: Server):
    picture = json.loads(server.ask("POST", "/fal-ai/lcm", {"prompt": "a"})[2])["images"][0]["url"]
    path = picture.removeprefix(server.url)
    anybody = server.ask("GET", path)[1]["access-control-expose-headers"]
    status, names = exposed(server, "GET", path, Range="bytes=0-9")
    assert status == 206
    assert {"content-range", "accept-ranges", "x-fal-request-id", *anybody.split(", ")} <= names


def test_health_is_alive_and_ready(server: Server):
    assert server.get("/livez")[0] == 200
    status, body = server.get("/readyz")
    assert (status, json.loads(body)["status"]) == (200, "ready")


def test_a_server_is_alive_but_not_ready_while_its_engine_loads():
    with serve(ready=False, model="fake:load_s=2") as server:
        assert server.get("/livez")[0] == 200
        status, body = server.get("/readyz")
        assert status == 503
        assert json.loads(body)["status"] == "starting"
        server.wait_ready()


async def test_a_frame_sent_while_the_engine_loads_is_drawn_when_it_is_there():
    with serve(ready=False, model="fake:load_s=1") as server:
        async with opened(server) as ws:
            assert "images" in await ask(ws, {"prompt": "a"})


def test_metrics_have_units_and_no_open_labels(server: Server):
    text = server.get("/metrics")[1].decode()
    assert "# TYPE realtime_frame_seconds histogram" in text
    assert "realtime_engine_ready 1.0" in text
    labels = set(re.findall(r'(\w+)="', text))
    assert labels <= {"app", "outcome", "by", "role", "status", "lane", "le", "state", "vae", "kernel", "how"}


async def test_open_sockets_are_counted(server: Server):
    before = server.metric("realtime_sockets")
    async with opened(server), opened(server):
        await eventually(lambda: server.metric("realtime_sockets") == before + 2)
    await eventually(lambda: server.metric("realtime_sockets") == before)


def test_info_tells_the_canvas_what_there_is(server: Server):
    info = json.loads(server.get("/info")[1])
    assert info["models"][0]["name"] == "fake"
    assert info["engine"] == {"state": "ready", "progress": None}
    apps = {app["id"]: app["schema"] for app in info["apps"]}
    assert "prompt" in apps["fal-ai/lcm"]["properties"]
    assert info["suggestions"] == {}, "the fake engine has no taste"


@pytest.mark.parametrize(("path", "kind"), [("/", "text/html"), ("/web/canvas.js", "text/javascript")])
def test_the_canvas_is_served_under_a_strict_policy(server: Server, path: str, kind: str):
    status, headers, body = server.ask("GET", path)
    assert status == 200
    assert body
    assert headers["content-type"].startswith(kind)
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert f"ws://{server.host}:{server.port}" in policy


def test_a_host_header_cannot_write_the_policy(server: Server):
    headers = server.ask("GET", "/", headers={"Host": "x; script-src *"})[1]
    assert "script-src *" not in headers["content-security-policy"]
