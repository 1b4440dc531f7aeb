"""We as `proxyUrl`: what goes through, and that `x-fal-target-url` leads nowhere else."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.origin import always, origin, response
from tests.realtime.talk import ask, opened
from tests.servers import KEY, Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

PATH = "/api/fal/proxy"
RUN = "https://fal.run/fal-ai/lcm"
DRAW = {"prompt": "a red circle", "seed": 1, "sync_mode": True}


def through(
    server: Server, url: str | None, method: str = "POST", body: Any = DRAW, path: str = PATH, **headers: str
) -> tuple[int, Any]:
    head = {"x-fal-target-url": url} if url is not None else {}
    status, _, answer = server.ask(method, path, body, head | headers)
    return status, json.loads(answer or b"null")


# ---- what goes through ----


@pytest.mark.parametrize("path", [PATH, "/fal/proxy", "/api/fal/proxy/"])
def test_a_run_through_the_proxy_is_the_run_itself(server: Server, path: str):
    status, direct = through(server, None, path="/fal-ai/lcm")
    assert status == 200
    status, proxied = through(server, RUN, path=path)
    assert status == 200
    assert proxied["images"] == direct["images"]


def test_method_query_and_status_go_through(server: Server):
    status, drawn = through(server, RUN + "?prompt=a%20boat&seed=7&sync_mode=true", "GET", None)
    assert (status, drawn["seed"]) == (200, 7)
    status, refused = through(server, RUN, body={"prompt": "a", "num_inference_steps": 99})
    assert status == 422
    assert refused["detail"][0]["loc"] == ["body", "num_inference_steps"]
    assert through(server, RUN, "DELETE")[0] == 405
    assert through(server, "https://fal.run/fal-ai/no-such-app")[0] == 404


async def test_a_token_through_the_proxy_opens_a_socket(server: Server):
    for host in ("rest.fal.ai", "rest.alpha.fal.ai"):
        status, token = through(server, f"https://{host}/tokens/", body={"allowed_apps": ["lcm"]})
        assert status == 200
        async with opened(server, fal_jwt_token=token) as ws:
            assert "images" in await ask(ws, {"prompt": "a"})


def test_an_old_id_is_found_by_its_host_name(server: Server):
    status, drawn = through(
        server,
        "https://110602490-lcm.gateway.alpha.fal.ai/",
    )
    assert (status, drawn["seed"]) == (200, 1)


def test_a_page_may_read_what_came_through(server: Server):
    _, headers, _ = server.ask(
        "POST", PATH, DRAW, {"x-fal-target-url": RUN, "origin": "http://localhost:3311"}
    )
    assert headers["access-control-allow-origin"] == "http://localhost:3311"
    assert headers["x-fal-request-id"]


# ---- whose key ----


@pytest.fixture(scope="module")
def lending_server() -> Iterator[Server]:
    with serve(keys=[KEY], proxy_key=KEY) as server:
        yield server


def test_no_key_is_lent_unless_the_settings_say_so(keyed_server: Server):
    assert through(keyed_server, RUN)[0] == 401
    assert through(keyed_server, RUN, authorization=f"Key {KEY}")[0] == 200
    assert through(keyed_server, "https://rest.fal.ai/tokens/", body={"allowed_apps": ["lcm"]})[0] == 401


def test_the_key_of_the_settings_is_lent_to_those_who_bring_none(lending_server: Server):
    assert through(lending_server, RUN)[0] == 200
    assert through(lending_server, RUN, authorization="Key test:wrong")[0] == 401
    assert through(lending_server, None, path="/fal-ai/lcm")[0] == 401


def test_a_page_of_a_stranger_is_lent_nothing(lending_server: Server):
    status, answer = through(lending_server, RUN, origin="https://evil.example")
    assert (status, answer["error_type"]) == (403, "forbidden")


# ---- where nothing goes ----

NOWHERE = [
    "",
    "x",
    "/fal-ai/lcm",
    "//fal.run/fal-ai/lcm",
    "http://fal.run/fal-ai/lcm",
    "ftp://fal.run/fal-ai/lcm",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https:///fal-ai/lcm",
    "https://fal.run:8443/fal-ai/lcm",
    "https://fal.run:99999/fal-ai/lcm",
    "https://fal.run:x/fal-ai/lcm",
    "https://user@fal.run/fal-ai/lcm",
    "https://user:word@fal.run/fal-ai/lcm",
    "https://fal.run@127.0.0.1:{port}/",
    "https://fal.run%40127.0.0.1:{port}/",
    "https://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/",
    "https://localhost:{port}/fal.run",
    "https://[::1]:{port}/",
    "https://[::ffff:127.0.0.1]/",
    "https://[fal.run]/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0/",
    "https://169.254.169.254/latest/meta-data/",
    "https://fal.run.evil.example/fal-ai/lcm",
    "https://evilfal.run/fal-ai/lcm",
    "https://fal.run.:443/fal-ai/lcm",
    "https://fal.ai.example/tokens/",
    "https://api.fal.ai/anything",
    "https://fal.ai/anything",
    "https://evil.example/?x=https://fal.run/fal-ai/lcm",
    "https://evil.example#@fal.run/fal-ai/lcm",
    "https://evil.example\\@fal.run/fal-ai/lcm",
    "https://fal.run\\@evil.example/",
    "https://fal.run /fal-ai/lcm",
    "https://fal.run/fal-ai/lcm\t",
    "https://fal.run/fal-ai/lcm https://evil.example/",
    "https://fal.run/" + "a" * 9000,
]


async def test_a_target_that_is_not_fal_s_is_refused_and_nothing_is_fetched(server: Server):
    async with origin(always(response(b"{}"))) as canary:
        for url in NOWHERE:
            status, answer = await asyncio.to_thread(through, server, url.replace("{port}", str(canary.port)))
            assert (status, answer["error_type"]) == (400, "bad_request"), url
            assert "x-fal-target-url" in answer["detail"]
            assert "evil" not in answer["detail"]
        assert canary.connections == 0


def test_without_a_target_or_with_two_there_is_nothing_to_do(server: Server):
    assert through(server, None)[0] == 400
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=5)) as connection:
        connection.putrequest("POST", PATH)
        for url in (RUN, "https://evil.example/"):
            connection.putheader("x-fal-target-url", url)
        connection.endheaders()
        assert connection.getresponse().status == 400


async def test_on_every_other_path_the_header_means_nothing(server: Server):
    async with origin(always(response(b"{}"))) as canary:
        target = {"x-fal-target-url": canary.url()}
        status, _, answer = await asyncio.to_thread(server.ask, "POST", "/fal-ai/lcm", DRAW, target)
        assert (status, json.loads(answer)["seed"]) == (200, 1)
        for path in ("/", "/livez", "/info"):
            assert (await asyncio.to_thread(server.ask, "GET", path, None, target))[0] == 200
        for path in ("/fal/proxy/x", "/proxy", "/api/fal", "/__h/fal.run/api/fal/proxy", "/API/FAL/PROXY"):
            assert (await asyncio.to_thread(server.ask, "POST", path, DRAW, target))[0] == 404
        status, _, _ = await asyncio.to_thread(server.ask, "POST", PATH, DRAW, target | {"host": "fal.run"})
        assert status == 404
        assert canary.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "https://fal.run/api/fal/proxy",
        "https://rest.fal.ai/fal/proxy",
        "https://fal.run/__h/localhost/api/fal/proxy",
        "https://fal.run/__h/fal.run/fal-ai/lcm",
        "https://fal.run/%2f__h/localhost/livez",
        "https://fal.run/../livez",
        "https://fal.run/livez",
        "https://fal.run/metrics",
        "https://fal.run/info",
        "https://fal.run/web/main.js",
        "https://fal.run",
    ],
)
def test_the_proxy_leads_neither_to_itself_nor_to_our_own_pages(server: Server, url: str):
    status, answer = through(server, url, **{"x-fal-target-url": url})
    assert status == 404
    assert answer["detail"]
