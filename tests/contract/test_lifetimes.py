"""What ends while clients go on: their tokens, and the server. One story for all versions at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.contract.chromium import Tab, browse
from tests.contract.clients import (
    BROWSER,
    EVERYONE,
    JAVASCRIPT,
    PYTHON,
    V0_6,
    V0_7,
    V0_8,
    V0_9,
    V1_10,
    Client,
    Live,
    LiveIn,
    Process,
    Version,
)
from tests.contract.frames import draw, frame
from tests.contract.ways import KEY, WAYS, ask_token, settings_for, way_to
from tests.servers import Server, serve

pytestmark = [
    pytest.mark.net,
    pytest.mark.proc,
    pytest.mark.node,
    pytest.mark.browser,
    pytest.mark.timeout(90),
]

CANNOT_CLOSE = {V0_6, V0_7, V0_8, V0_9}
ALWAYS_FETCHES = {V1_10, BROWSER, *PYTHON}  # a token for every connection; the others keep theirs
TOKEN_S = 8.0  # enough for everyone to connect on a busy machine

Crowd = dict[Version, Live]


@contextmanager
def everyone(server: Server, way: str, authority: Path, pages: str) -> Iterator[list[Client]]:
    there = way_to(server, way, authority)
    with ExitStack() as stack:
        browser = stack.enter_context(browse(server, authority))
        clients = []
        for version in EVERYONE:
            live_in: LiveIn = partial(Process, version, there, KEY)
            if version is BROWSER:
                live_in = partial(Tab, browser, pages, there)
            clients.append(Client(version, live_in))
            stack.callback(clients[-1].stop)
        yield clients


def connect_all(clients: list[Client]) -> Crowd:
    """One connection each that has drawn once, seed 1."""
    lives = {client.version: client.connect() for client in clients}
    for live in lives.values():
        live.send(**frame(live.client.version, seed=1))
    for live in lives.values():
        assert live.result()["seed"] == 1
    return lives


def parting(live: Live) -> int:
    """The close code the client saw."""
    code = live.client.wait("closed")["code"]
    assert isinstance(code, int)
    return code


# ---- the server restarts ----


@pytest.fixture(scope="module", params=WAYS)
def restarted(
    request: pytest.FixtureRequest, authority: Path, pages: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crowd]:
    """Connections of a server that was stopped and started again on its port, with its token secret."""
    settings = settings_for(request.param, authority) | {"state_dir": tmp_path_factory.mktemp("state")}
    with ExitStack() as stack:
        with serve(**settings) as server:
            lives = connect_all(stack.enter_context(everyone(server, request.param, authority, pages)))
            server.terminate()
        with serve(**settings | {"port": server.port}):
            yield lives


@pytest.mark.parametrize("version", EVERYONE, ids=str)
def test_a_client_goes_on_after_a_restart_of_the_server(restarted: Crowd, version: Version) -> None:
    live = restarted[version]
    assert parting(live) == 1012
    shown = live.errors()
    if version in PYTHON:
        assert [error["message"].partition(":")[0] for error in shown] == ["CONNECTION_CLOSED"]
    else:
        assert [error["status"] for error in shown] == [1012]
    live = reopened(live)
    assert draw(live, seed=2)["seed"] == 2
    if version in JAVASCRIPT:  # a token from before the restart still opens
        assert len(live.client.seen("token")) == (2 if version in ALWAYS_FETCHES else 1)


@pytest.fixture(scope="module")
def crashed(authority: Path, pages: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """As `restarted`, but the server was killed and said nothing."""
    settings = settings_for("override", authority) | {"state_dir": tmp_path_factory.mktemp("state")}
    with ExitStack() as stack:
        with serve(**settings) as server:
            lives = connect_all(stack.enter_context(everyone(server, "override", authority, pages)))
            server.process.kill()
        with serve(**settings | {"port": server.port}):
            yield lives


@pytest.mark.parametrize("version", EVERYONE, ids=str)
def test_a_client_goes_on_after_a_crash_of_the_server(crashed: Crowd, version: Version) -> None:
    live = crashed[version]
    assert parting(live) == 1006
    assert live.errors()
    assert draw(reopened(live), seed=2)["seed"] == 2


def reopened(live: Live) -> Live:
    """JavaScript opens again at the next send; Python has to connect anew."""
    return live.client.connect() if live.client.version in PYTHON else live


# ---- the token expires ----


@pytest.fixture(scope="module", params=WAYS)
def expired(request: pytest.FixtureRequest, authority: Path, pages: str) -> Iterator[Crowd]:
    """Open connections whose tokens have expired. They were not their own: fal's clients ask for 120 s."""
    server = request.getfixturevalue("plain_server" if request.param == "override" else "tls_server")
    with everyone(server, request.param, authority, pages) as clients:
        minted = time.monotonic()
        for client in clients:
            body = {"allowed_apps": [client.version.app], "token_expiration": TOKEN_S}
            client.do("forge", token=ask_token(server, authority, "/tokens/", body))
        lives = connect_all(clients)
        time.sleep(max(0.0, minted + TOKEN_S + 1 - time.monotonic()))  # the server's clock is a real one
        for client in clients:
            client.do("forge", token=None)
        yield lives


@pytest.mark.parametrize("version", EVERYONE, ids=str)
def test_a_socket_outlives_its_token_and_an_expired_one_is_replaced(expired: Crowd, version: Version) -> None:
    live = expired[version]
    client = live.client
    assert draw(live, seed=2)["seed"] == 2
    assert client.seen("closed") == []

    if version in CANNOT_CLOSE:
        client.do("cut")
    else:
        live.close()
    assert parting(live) == 1000

    live = reopened(live)
    if version not in ALWAYS_FETCHES:
        live.send(**frame(version, seed=3))  # opens with the old token, is refused and lost
        parting(live)
    if version is V0_6:  # keeps the token for 108 s whatever happens
        assert [result["seed"] for result in live.results()] == [1, 2]
        return
    assert draw(live, seed=4)["seed"] == 4
    assert [result["seed"] for result in live.results()][-1] == 4
    if version in JAVASCRIPT:
        assert [event["status"] for event in client.seen("token")] == [200]
