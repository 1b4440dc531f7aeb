"""Who may open a socket, and what they hear if they may not: never an HTTP error on the upgrade."""

import contextlib
import json

import pytest
from websockets.exceptions import ConnectionClosed

from tests.realtime.talk import ask, opened, receive, send
from tests.servers import KEY, Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]


def token_of(server: Server, *apps: str, seconds: float = 120, key: str = KEY) -> str:
    body = {"allowed_apps": list(apps), "token_expiration": seconds}
    status, _, answer = server.ask("POST", "/tokens/", body, {"Authorization": f"Key {key}"})
    assert status == 200
    return str(json.loads(answer))


async def assert_unauthorized(server: Server, path: str = "/fal-ai/lcm/realtime", **given: object) -> None:
    async with opened(server, path, **given) as ws:  # type: ignore[arg-type]
        with contextlib.suppress(ConnectionClosed):
            await send(ws, {"prompt": "dropped, not drawn", "request_id": "never"})
        frame = await ws.recv()
        assert isinstance(frame, str)
        assert json.loads(frame) == {"status": "error", "error": "Unauthorized"}
        await ws.wait_closed()
        assert ws.close_code in (1000, 1008)
        assert ws.protocol.close_rcvd is not None


async def test_a_socket_without_credentials_is_unauthorized_where_keys_are_configured(keyed_server: Server):
    await assert_unauthorized(keyed_server)


@pytest.mark.parametrize("header", ["Key test:wrong", "Key other:a-secret-of-the-tests", "Basic xyz", "Key"])
async def test_a_wrong_key_on_the_handshake_is_unauthorized(keyed_server: Server, header: str):
    await assert_unauthorized(keyed_server, headers={"Authorization": header})


async def test_a_key_on_the_handshake_opens(keyed_server: Server):
    async with opened(keyed_server, headers={"Authorization": f"Key {KEY}"}) as ws:
        assert "images" in await ask(ws, {"prompt": "a"})


@pytest.mark.parametrize(
    "path", ["/fal-ai/lcm/realtime", "/110602490/lcm/ws", "/fal-ai/lcm/text-to-image/realtime"]
)
async def test_a_token_opens_its_app_many_times(keyed_server: Server, path: str):
    token = token_of(keyed_server, "lcm")
    for _ in range(2):
        async with opened(keyed_server, path, fal_jwt_token=token) as ws:
            assert "images" in await ask(ws, {"prompt": "a"})


async def test_a_token_for_another_app_is_unauthorized(keyed_server: Server):
    token = token_of(keyed_server, "lcm-sd15-i2i")
    await assert_unauthorized(keyed_server, fal_jwt_token=token)


@pytest.mark.parametrize("token", ["forged", "[object Object]", "eyJhbGciOiJub25lIn0.e30."])
async def test_a_forged_token_is_unauthorized_even_on_an_open_server(server: Server, token: str):
    await assert_unauthorized(server, fal_jwt_token=token)


async def test_a_token_of_another_server_is_unauthorized(server: Server, keyed_server: Server):
    await assert_unauthorized(server, fal_jwt_token=token_of(keyed_server, "lcm"))


async def test_an_expired_token_is_unauthorized_but_cuts_no_live_socket(server: Server):
    token = token_of(server, "lcm", seconds=1)
    async with opened(server, fal_jwt_token=token) as ws:
        assert "images" in await ask(ws, {"prompt": "!slow 1.1"})
        await assert_unauthorized(server, fal_jwt_token=token)
        assert "images" in await ask(ws, {"prompt": "still open"})


async def test_a_token_outlives_a_restart_of_the_server(tmp_path):
    with serve(state_dir=tmp_path, keys=[KEY]) as before:
        token = token_of(before, "lcm")
    with serve(state_dir=tmp_path, keys=[KEY]) as after:
        async with opened(after, fal_jwt_token=token) as ws:
            assert "images" in await ask(ws, {"prompt": "a"})


@pytest.mark.parametrize("origin", ["http://localhost:3311", "http://127.0.0.1:8000", "http://[::1]:5173"])
async def test_pages_on_loopback_may_open_a_socket(server: Server, origin: str):
    async with opened(server, name="fal.run", headers={"Origin": origin}) as ws:
        assert "images" in await ask(ws, {"prompt": "a"})


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://localhost.evil.example"])
async def test_pages_from_elsewhere_are_told_so_and_closed(server: Server, origin: str):
    async with opened(server, headers={"Origin": origin}) as ws:
        assert (await receive(ws))["error"] == "FORBIDDEN"
        await ws.wait_closed()
        assert ws.close_code == 1008


def test_pages_from_elsewhere_get_no_token_and_read_nothing(server: Server):
    status, headers, _ = server.ask(
        "POST", "/tokens/", {"allowed_apps": ["lcm"]}, {"Origin": "https://evil.example"}
    )
    assert status == 403
    assert "access-control-allow-origin" not in headers


async def test_a_named_public_host_may_open_a_socket():
    with serve(public_hosts=["studio.example"]) as server:
        async with opened(server, headers={"Origin": "https://studio.example"}) as ws:
            assert "images" in await ask(ws, {"prompt": "a"})
