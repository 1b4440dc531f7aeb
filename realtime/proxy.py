"""We as the `proxyUrl` of a page: fal's clients send us their request and say whom it is for.

`x-fal-target-url` is honoured on two paths only, for fal's hosts only, and it is resolved into our own
dispatch: no connection is ever opened for it, so that there is nothing to forge and nothing to loop. The
request goes on as if it had come to `/__h/{host}/...`; so links in answers lead back to this very server.
Source: @fal-ai/server-proxy, src/index.ts; @fal-ai/client, src/middleware.ts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from realtime import hosts
from realtime.errors import BadFrame
from realtime.hosts import PREFIX, Role, Target
from realtime.service import Caller, Service

if TYPE_CHECKING:
    from realtime.gateway import Gateway

PATHS = frozenset({"/api/fal/proxy", "/fal/proxy"})  # the first is the clients' own default
HEADER = "x-fal-target-url"
MAX_URL = 8192  # characters


class Proxy(Service):
    roles = frozenset({Role.PLAIN})

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def public(self, request: Request, target: Target) -> bool:
        # The request inside is judged as any other.
        return target.path.rstrip("/") in PATHS and not target.prefix

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        if not self.public(request, target):
            return None
        host, path, query = where(request.headers.getlist(HEADER))
        headers = [(name, value) for name, value in request.scope["headers"] if name != HEADER.encode()]
        lent = self._gateway.settings.proxy_key
        if lent and "authorization" not in request.headers:
            headers.append((b"authorization", f"Key {lent}".encode()))
        there = f"{PREFIX}{host}{path}"
        scope = {
            **request.scope,
            "headers": headers,
            "path": there,
            "raw_path": quote(there).encode("ascii"),
            "query_string": query.encode("ascii"),
        }
        return await self._gateway.respond(
            Request(scope, request.receive), hosts.target(request.headers.get("host", ""), there)
        )


def where(urls: list[str]) -> tuple[str, str, str]:
    """(host, path, query) of the one URL of fal's that a request is for; the path is decoded.

    Raises BadFrame.
    """
    if len(urls) != 1:
        raise BadFrame(f"the {HEADER} header must be there once: the URL this request is for")
    url = urls[0]
    if len(url) > MAX_URL or not url.isascii() or any(ord(c) <= 32 or c in '\\"<>^`{|}\x7f' for c in url):
        raise BadFrame(f"the {HEADER} header is no URL")
    try:
        parts = urlsplit(url)
        plain = parts.port in (None, 443) and parts.username is None and parts.password is None
    except ValueError:
        raise BadFrame(f"the {HEADER} header is no URL") from None
    host = parts.hostname or ""
    if parts.scheme != "https" or not plain or not hosts.is_fal(host):
        raise BadFrame(f"the {HEADER} header must be an https URL of one of fal's hosts")
    return host, unquote(parts.path) or "/", parts.query
