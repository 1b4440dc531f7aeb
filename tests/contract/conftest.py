"""One server per way of reaching it for the whole session, and a fresh client process (or page) per test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import pytest

from realtime.certs import issue
from tests.contract.chromium import Browser, Pages, Tab, browse
from tests.contract.clients import BROWSER, HERE, V0_15_BROWSER, Client, LiveIn, Process, Start, Version
from tests.contract.ways import KEY, PLAIN, settings_for, way_to
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
def old_pages() -> Iterator[str]:
    """URL of the page that loads 0.15."""
    pages = Pages(V0_15_BROWSER)
    yield pages.url
    pages.stop()


@pytest.fixture(scope="session")
def browser(tls_server: Server, authority: Path) -> Iterator[Browser]:
    with browse(tls_server, authority) as browser:
        yield browser


@pytest.fixture(scope="session")
def fal_proxies(tls_server: Server, authority: Path) -> Iterator[dict[str, str]]:
    """URLs of fal's own proxy in front of us, by way."""
    if shutil.which("node") is None:
        pytest.skip("no Node.js on this machine: fal's proxy was not tested")
    env = {"FAL_KEY": KEY, **way_to(tls_server, "names", authority).env}
    command = ["node", "--require", "./names.cjs", "proxy.cjs"]
    pipe = subprocess.PIPE
    environment = {**os.environ, **env, "FAL_NAMES_PORT": str(tls_server.port)}
    with subprocess.Popen(command, cwd=HERE, env=environment, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        yield json.loads(child.stdout.readline())
        child.stdin.close()


@pytest.fixture
def start(request: pytest.FixtureRequest, authority: Path) -> Iterator[Start]:
    """start(version, way) -> Client of the shared server of that way; stopped with the test."""
    with ExitStack() as clients:
        yield partial(begin, request, authority, clients)


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, authority: Path) -> Iterator[Start]:
    """As `start`, but one client of a version and way for all tests of a module."""
    with ExitStack() as clients:
        yield cache(partial(begin, request, authority, clients))


def begin(
    request: pytest.FixtureRequest,
    authority: Path,
    clients: ExitStack,
    version: Version,
    way: str,
    key: str = "",
    server: Server | None = None,
) -> Client:
    server = server or request.getfixturevalue("plain_server" if way in PLAIN else "tls_server")
    proxy = request.getfixturevalue("fal_proxies")[way] if way.startswith("fal's proxy") else ""
    there = way_to(server, way, authority, proxy)
    key = key or ("" if there.proxy else KEY)
    live_in: LiveIn = partial(Process, version, there, key)
    if version.runtime == "chromium":
        page = request.getfixturevalue("pages" if version is BROWSER else "old_pages")
        live_in = partial(Tab, request.getfixturevalue("browser"), page, there)
    client = Client(version, live_in, key, there.proxy)
    clients.callback(client.stop)
    return client


@pytest.fixture
def client(request: pytest.FixtureRequest, start: Start) -> Client:
    """The client of `@every(...)`."""
    version, way = request.param
    return start(version, way)


@pytest.fixture
def caller(request: pytest.FixtureRequest, shared: Start) -> Client:
    """The same, of those who only call methods and leave nothing behind."""
    version, way = request.param
    return shared(version, way)
