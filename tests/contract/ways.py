"""How clients that look for fal's servers find the one under test."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import Server

KEY = "kid:ksecret"  # the API key the servers of these tests know
WAYS = ["names", "override"]
PROXIES = ["fal's proxy", "our proxy"]  # what a page without a key of its own goes through
PASSED_ON = "fal's proxy in SvelteKit"  # unlike the one for Express it keeps the status of an answer
PLAIN = ["override", "our proxy"]  # over HTTP without TLS
ONE = ["override"]  # enough where the way to the server cannot matter


@dataclass(frozen=True)
class Way:
    name: str
    origin: str = ""  # plain HTTP, for web/fal-here.js; empty when names are mapped
    names_port: int = 0  # fal's host names lead to this port, over TLS
    env: Mapping[str, str] = field(default_factory=dict)
    proxy: str = ""  # the client's `proxyUrl`; it then has no key


def settings_for(way: str, authority: Path) -> dict[str, Any]:
    tls = {"tls_cert": str(authority / "cert.pem"), "tls_key": str(authority / "key.pem")}
    return {
        "keys": [KEY],
        "test_apps": True,
        "webhook_private": True,
        **({"proxy_key": KEY} if way in PLAIN else tls),
    }


def way_to(server: Server, way: str, authority: Path, proxy: str = "") -> Way:
    """names: fal's own host names over TLS. override: plain HTTP and web/fal-here.js or web/fal_here.py.
    run host: fal-client's FAL_RUN_HOST and FAL_QUEUE_RUN_HOST, which is TLS and has no place for tokens.
    backup: names, when fal-client can resolve no name but the ones it then turns to.
    our proxy: `proxyUrl` is ours. fal's proxy, fal's proxy in SvelteKit: it is `proxy`, one of proxy.cjs, and
    what that does not carry goes by name."""
    trust = {"NODE_EXTRA_CA_CERTS": str(authority / "ca.pem"), "SSL_CERT_FILE": str(authority / "ca.pem")}
    if way == "override":
        return Way(way, origin=f"http://127.0.0.1:{server.port}")
    if way == "our proxy":
        return Way(way, proxy=f"http://127.0.0.1:{server.port}/api/fal/proxy")
    if way == "run host":
        host = f"localhost:{server.port}"
        hosts = {"FAL_RUN_HOST": host, "FAL_QUEUE_RUN_HOST": f"{host}/__h/queue.fal.run"}
        return Way(way, env=trust | hosts)
    lost = {"FAL_NAMES_LOST": "fal.run queue.fal.run"} if way == "backup" else {}
    return Way(way, names_port=server.port, env=trust | lost, proxy=proxy)


def ask_token(server: Server, authority: Path, path: str, body: dict[str, Any]) -> Any:
    """What the server answers to a token request with our key."""
    url = server.url.replace("127.0.0.1", "localhost") + path  # the certificate has names only
    head = {"authorization": f"Key {KEY}", "content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), head)
    trust = ssl.create_default_context(cafile=authority / "ca.pem")
    with urllib.request.urlopen(request, timeout=5, context=trust) as response:
        return json.load(response)
