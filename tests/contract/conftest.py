"""One server per way of reaching it for the whole session, and a fresh client process (or page) per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.browser.chrome import find
from tests.contract.chromium import Browser, Pages, Tab, launch
from tests.contract.clients import BROWSER, KEY, Client, Process, Version, Way
from tests.servers import Server, serve

# Every host name fal's clients were seen to use, and the server's own.
NAMES = (
    "fal.run",
    "*.fal.run",
    "*.fal.ai",
    "*.alpha.fal.ai",
    "*.gateway.alpha.fal.ai",
    "*.fal.media",
    "localhost",
)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority nobody else trusts (ca.pem), a certificate of it (cert.pem) and its key."""
    folder = tmp_path_factory.mktemp("authority")
    authority = trustme.CA()
    issued = authority.issue_cert(*NAMES)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    return folder


def settings_for(way: str, authority: Path) -> dict[str, Any]:
    tls = {"tls_cert": str(authority / "cert.pem"), "tls_key": str(authority / "key.pem")}
    return {"keys": [KEY], **({} if way == "override" else tls)}


def way_to(server: Server, way: str, authority: Path) -> Way:
    """names: fal's own host names over TLS. override: plain HTTP and web/fal-here.js, or fal-client's module
    constants. run host: fal-client's FAL_RUN_HOST, which is TLS and has no place for tokens."""
    trust = {"NODE_EXTRA_CA_CERTS": str(authority / "ca.pem"), "SSL_CERT_FILE": str(authority / "ca.pem")}
    if way == "override":
        return Way(way, origin=f"http://127.0.0.1:{server.port}")
    if way == "run host":
        return Way(way, env=trust | {"FAL_RUN_HOST": f"localhost:{server.port}"})
    return Way(way, names_port=server.port, env=trust)


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


@contextmanager
def browse(server: Server, authority: Path) -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip("no Chromium on this machine: the contract was not tested in a browser")
    with launch(program, server.port, (authority / "cert.pem").read_bytes()) as browser:
        yield browser


@pytest.fixture(scope="session")
def browser(tls_server: Server, authority: Path) -> Iterator[Browser]:
    with browse(tls_server, authority) as browser:
        yield browser


Start = Callable[..., Client]


@pytest.fixture
def start(request: pytest.FixtureRequest, authority: Path) -> Iterator[Start]:
    """start(version, way) -> Client of this session's server of that way; stopped with the test."""
    clients: list[Client] = []

    def start(version: Version, way: str, key: str = KEY) -> Client:
        server = request.getfixturevalue("plain_server" if way == "override" else "tls_server")
        there = way_to(server, way, authority)
        if version.runtime == "chromium":
            live_in = partial(
                Tab, request.getfixturevalue("browser"), request.getfixturevalue("pages"), there
            )
        else:
            live_in = partial(Process, version, there, key)
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
