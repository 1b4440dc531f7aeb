"""One server per way of reaching it for the whole session, and a fresh client process (or page) per test."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from realtime.certs import issue
from tests.contract.chromium import Browser, Pages, Tab, browse
from tests.contract.clients import BROWSER, Client, LiveIn, Process, Start, Version
from tests.contract.ways import KEY, settings_for, way_to
from tests.servers import Server, serve


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `realtime certs` fills: ca.pem, which nobody else trusts, cert.pem and key.pem."""
    return issue(tmp_path_factory.mktemp("authority")).folder


@pytest.fixture(scope="session")
def tls_server(authority: Path) -> Iterator[Server]:
    with serve(**settings_for("names", authority)) as server:
        yield server


@pytest.fixture(scope="session")
def plain_server(authority: Path) -> Iterator[Server]:
    with serve(**settings_for("override", authority)) as server:
        yield server


@pytest.fixture(scope="session")
def pages() -> Iterator[str]:
    """URL of the page that loads the newest client."""
    pages = Pages(BROWSER)
    yield pages.url
    pages.stop()


@pytest.fixture(scope="session")
def browser(tls_server: Server, authority: Path) -> Iterator[Browser]:
    with browse(tls_server, authority) as browser:
        yield browser


@pytest.fixture
def start(request: pytest.FixtureRequest, authority: Path) -> Iterator[Start]:
    """start(version, way) -> Client of the shared server of that way; stopped with the test."""
    clients: list[Client] = []

    def start(version: Version, way: str, key: str = KEY) -> Client:
        server = request.getfixturevalue("plain_server" if way == "override" else "tls_server")
        there = way_to(server, way, authority)
        live_in: LiveIn = partial(Process, version, there, key)
        if version is BROWSER:
            live_in = partial(
                Tab, request.getfixturevalue("browser"), request.getfixturevalue("pages"), there
            )
        clients.append(Client(version, live_in, key))
        return clients[-1]

    yield start
    for client in clients:
        client.stop()


@pytest.fixture
def client(request: pytest.FixtureRequest, start: Start) -> Client:
    """The client of `@every(...)`."""
    version, way = request.param
    return start(version, way)
