"""What clients show of a refused frame or a refused connection, and that they can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.clients import (
    BROWSER,
    EVERYONE,
    JAVASCRIPT,
    PYTHON,
    SLASHLESS,
    V0_6,
    V0_7,
    V1_10,
    Client,
    Live,
    Start,
    Version,
    every,
)
from tests.contract.frames import data_uri, draw, frame
from tests.contract.ways import KEY, ONE, ask_token
from tests.servers import Server

pytestmark = [pytest.mark.net, pytest.mark.proc]


# ---- what was sent ----


def problem(live: Live) -> dict[str, Any]:
    """The x-fal-error as the client's user gets it."""
    if live.client.version is V0_6:
        body = live.result()  # 0.6 hands it to onResult
    else:
        error = live.error()
        assert error["kind"] == ("RealtimeError" if live.client.version.runtime == "python" else "ApiError")
        assert error["status"] == (None if live.client.version.runtime == "python" else 400)
        body = error["body"]
        assert error["message"] == f"{body['error']}: {body['reason']}"
    assert body["type"] == "x-fal-error"
    return body


@every(EVERYONE)
@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"num_inference_steps": 13}, "num_inference_steps"), ({"strength": "very"}, "strength")],
    ids=["out of bounds", "wrong type"],
)
def test_a_bad_field_is_one_error_that_names_it_and_the_session_lives(
    client: Client, wrong: dict[str, Any], field: str
) -> None:
    live = client.connect()
    draw(live)
    live.send(**frame(client.version, request_id="bad", **wrong))
    body = problem(live)
    assert [entry["loc"][-1] for entry in body["detail"]] == [field]
    assert body["request_id"] == "bad"
    assert draw(live, seed=9)["seed"] == 9
    assert client.seen("closed") == []


@every(EVERYONE, ways=ONE)
def test_a_picture_that_is_none_is_one_error_and_the_session_lives(client: Client) -> None:
    live = client.connect()
    live.send(**frame(client.version, image_url=data_uri(b"not a picture")))
    assert problem(live)["detail"][0]["loc"][-1] == "image_url"
    assert draw(live, seed=9)["seed"] == 9


@every(
    JAVASCRIPT,
    but={V0_6: "a Uint8Array is spread into an object", V0_7: "needs no second test of raw bytes"},
    ways=ONE,
)
def test_bytes_that_are_no_msgpack_are_one_error_and_the_session_lives(client: Client) -> None:
    live = client.connect()
    draw(live)
    live.send_raw(b"\xc1\xc1\xc1")
    problem(live)
    assert draw(live, seed=9)["seed"] == 9


@every([V1_10, BROWSER], ways=ONE)
def test_a_message_that_is_a_bare_string_is_one_error_and_the_session_lives(client: Client) -> None:
    live = client.connect()
    draw(live)
    live.send_raw("hello")
    problem(live)
    assert draw(live, seed=9)["seed"] == 9


@every(JAVASCRIPT, but={V0_6: "sends {} for a Blob, which is the same frame as in 0.7"}, ways=ONE)
def test_a_blob_that_arrives_as_an_empty_map_is_one_error_and_the_session_lives(client: Client) -> None:
    """Realtime never uploads: msgpack and JSON both make {} of a Blob."""
    live = client.connect()
    draw(live)
    live.send(**frame(client.version) | {"image_url": {"$blob": "png"}})
    assert problem(live)["detail"][0]["loc"][-1] == "image_url"
    assert draw(live, seed=9)["seed"] == 9


@every(EVERYONE, but=SLASHLESS, ways=ONE)
def test_an_app_nobody_serves_is_an_error_and_not_silence(client: Client) -> None:
    live = client.connect("fal-ai/no-such-app")
    live.send(prompt="a")
    assert "no-such-app" in problem(live)["reason"]


# ---- who sent it ----


@every(JAVASCRIPT, but={V0_6: "drops Unauthorized and keeps its token for 108 s: see the next test"})
def test_a_forged_token_is_dropped_silently_and_the_next_send_fetches_a_good_one(client: Client) -> None:
    live = client.connect()
    client.do("forge", token="eyJhbGciOiJub25lIn0.e30.")
    # Large, so that much of it is still on its way when the server has made up its mind.
    live.send(**frame(client.version, seed=1, image_url=data_uri(bytes(300_000))))
    assert client.wait("closed")["code"] == 1000
    client.do("forge", token=None)
    assert draw(live, seed=2)["seed"] == 2  # frame 1 is lost: clients do not resend it
    assert [e["status"] for e in client.seen("token")] == [200]
    assert live.errors() == []


@every([V0_6])
def test_0_6_shows_nothing_of_a_forged_token(client: Client) -> None:
    live = client.connect()
    client.do("forge", token="eyJhbGciOiJub25lIn0.e30.")
    live.send(**frame(client.version))
    client.wait("closed")
    assert live.results() == []


@every(PYTHON)
def test_python_gets_unauthorized_as_a_message_for_a_forged_token(client: Client) -> None:
    client.do("forge", token="eyJhbGciOiJub25lIn0.e30.")
    live = client.connect()
    assert live.result() == {"status": "error", "error": "Unauthorized"}
    assert client.wait("closed", live=live.name)["code"] == 1000


@every(JAVASCRIPT, but={V0_6: "as in the test above"}, ways=ONE)
def test_a_token_for_another_app_does_not_open_this_one(client: Client, start: Start) -> None:
    other = start(V1_10, "override")
    other.connect("fal-ai/somebody-elses").send(prompt="a")
    foreign = other.wait("open")["url"].partition("fal_jwt_token=")[2]
    live = client.connect()
    client.do("forge", token=foreign)
    live.send(**frame(client.version))
    assert client.wait("closed")["code"] == 1000
    assert (live.results(), live.errors()) == ([], [])


@pytest.mark.node
@pytest.mark.parametrize("version", [v for v in JAVASCRIPT if v is not BROWSER], ids=str)
def test_a_wrong_key_opens_no_socket_and_breaks_nothing(version: Version, start: Start) -> None:
    client = start(version, "override", key="kid:wrong")
    live = client.connect()
    live.send(**frame(version))
    assert client.wait("token")["status"] == 401
    client.settle()
    assert client.seen("open") == []
    assert KEY not in str(client.events)


@pytest.mark.parametrize("version", PYTHON, ids=str)
@pytest.mark.parametrize("way", ["names", "override"])
def test_a_wrong_key_is_an_exception_in_python(version: Version, way: str, start: Start) -> None:
    error = start(version, way, key="kid:wrong").connect().error()
    assert (error["kind"], error["status"]) == ("FalClientHTTPError", 401)


@every([V1_10, BROWSER], ways=ONE)
def test_a_page_with_a_token_provider_asks_for_no_token_itself(
    client: Client, plain_server: Server, authority: Path
) -> None:
    """What 1.9 and later recommend: the page's own back end asks, with the key the page does not have."""
    body = {"allowed_apps": ["fal-ai/lcm/realtime"], "duration": 60}
    live = client.connect(token=ask_token(plain_server, authority, "/tokens/realtime", body)["token"])
    assert draw(live, seed=6)["seed"] == 6
    assert client.seen("token") == []
