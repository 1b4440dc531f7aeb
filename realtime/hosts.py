"""Which of fal's hosts a request is meant for, and who may send one from a browser.

One port serves every role. The role comes from the `Host` header (DNS and TLS map fal's names here), or
from a path prefix `/__h/<original host>/...` that clients without DNS tricks use through the override
snippet, or it is open (a plain host such as localhost: every role at once).
"""

from __future__ import annotations

import re
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

PREFIX = "/__h/"
FILES = "https://v3.fal.media"
QUEUE = "https://queue.fal.run"


class Role(StrEnum):
    RUN = "run"  # fal.run, falrun.com and what is below them: run, stream, realtime
    QUEUE = "queue"  # queue.fal.run, queue.falrun.com
    REST = "rest"  # rest.fal.ai, rest.alpha.fal.ai: tokens, storage
    LEGACY = "legacy"  # {legacyId}.gateway.alpha.fal.ai: serverless-client <= 0.7, the app is in the name
    CDN = "cdn"  # *.fal.media
    PLAIN = "plain"  # this server under its own name: everything


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. `path` starts with a slash and has no `/__h/` prefix any more."""

    role: Role
    host: str  # effective, lower case, without port
    path: str
    prefix: str = ""  # what was cut off the path; links back to us must start with it

    @property
    def endpoint(self) -> str:
        """The app a realtime path names, e.g. "fal-ai/lcm" or "fal-ai/lcm/image-to-image", "" if none.

        The last segment says the protocol (`/realtime`, or `/ws` in 0.8-0.9) and is no part of the id; a
        client's `path` option may replace it by anything, so other endings belong to the id.
        """
        parts = [part for part in self.path.split("/") if part]
        if parts and parts[-1] in ("realtime", "ws"):
            parts.pop()
        if self.role is Role.LEGACY:
            return "/".join([self.host.removesuffix(".gateway.alpha.fal.ai"), *parts])
        return "/".join(parts)


def target(host_header: str, path: str) -> Target:
    """Raises nothing: an odd host is a plain one."""
    prefix = ""
    host = name_of(host_header)
    if path.startswith(PREFIX):
        original, slash, rest = path[len(PREFIX) :].partition("/")
        host, prefix, path = name_of(original), PREFIX + original, slash + rest or "/"
    return Target(_role(host), host, path, prefix)


def base_of(request: HTTPConnection, target: Target) -> str:
    """What this client puts before "/files/...": no final slash. `request` after `forwarded`."""
    return _base(request, target, FILES, "")


def queue_base_of(request: HTTPConnection, target: Target) -> str:
    """What this client puts before "/{owner}/{app}/requests/...": no final slash."""
    prefix = PREFIX + "queue.fal.run" if target.prefix else ""
    return _base(request, target, QUEUE, prefix)


def _base(request: HTTPConnection, target: Target, mapped: str, prefix: str) -> str:
    if target.role is not Role.PLAIN and not target.prefix:
        return mapped  # it came under a fal name, so that the other fal names lead here too
    return origin_of(request) + prefix


def origin_of(request: HTTPConnection) -> str:
    """This server as this client sees it: scheme, host, path prefix, no final slash."""
    scheme = {"ws": "http", "wss": "https"}.get(request.scope["scheme"], request.scope["scheme"])
    return f"{scheme}://{request.headers.get('host', '')}{request.scope.get('root_path', '')}"


Networks = Collection[IPv4Network | IPv6Network]
_AUTHORITY = re.compile(r"[A-Za-z0-9._\-\[\]:]{1,255}")
_FORWARDED_PREFIX = re.compile(r"(/[A-Za-z0-9._~\-]+){1,16}")


def forwarded(scope: MutableMapping[str, Any], trusted: Networks) -> MutableMapping[str, Any]:
    """The ASGI scope as the client of a trusted proxy would see it: scheme, Host, `root_path`, `path`.

    Understood are X-Forwarded-Proto, -Host and -Prefix, each the first of a list. A proxy may have cut
    the prefix off the path or left it on. What is malformed is as if it were not there.
    """
    if not trusted or not scope.get("client"):
        return scope
    try:
        peer = ip_address(scope["client"][0])
    except ValueError:
        return scope
    peer = getattr(peer, "ipv4_mapped", None) or peer
    if not any(peer in network for network in trusted):
        return scope
    said = {
        name: value.decode("latin-1").partition(",")[0].strip()
        for name, value in scope["headers"]
        if name.startswith(b"x-forwarded-")
    }
    scope = dict(scope)
    if (scheme := said.get(b"x-forwarded-proto", "").lower()) in ("http", "https"):
        scope["scheme"] = scheme.replace("http", "ws") if scope["type"] == "websocket" else scheme
    if _AUTHORITY.fullmatch(host := said.get(b"x-forwarded-host", "")):
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        scope["headers"] = [(b"host", host.encode("ascii")), *others]
    if _FORWARDED_PREFIX.fullmatch(prefix := said.get(b"x-forwarded-prefix", "").rstrip("/")):
        scope["root_path"] = prefix
        if scope["path"].startswith(prefix + "/"):
            scope["path"] = scope["path"].removeprefix(prefix)
    return scope


def _role(host: str) -> Role:
    if host in ("rest.fal.ai", "rest.alpha.fal.ai"):
        return Role.REST
    if host in ("queue.fal.run", "queue.falrun.com"):
        return Role.QUEUE
    if host in ("fal.run", "falrun.com") or host.endswith((".fal.run", ".falrun.com")):
        return Role.RUN
    if host.endswith(".gateway.alpha.fal.ai"):
        return Role.LEGACY
    if host.endswith(".fal.media"):
        return Role.CDN
    return Role.PLAIN


def is_fal(name: str) -> bool:
    """Whether this is a host of fal's, one of those that lead here when its names are mapped."""
    return _role(name) is not Role.PLAIN


def name_of(host: str) -> str:
    """The host name of a `Host` header or URL authority: lower case, no port, no brackets, no final dot."""
    try:
        return (urlsplit("//" + host).hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def origin_allowed(
    origin: str | None, host_header: str, public_hosts: Collection[str], keys_required: bool
) -> bool:
    """Whether a browser page of `origin` may use this server.

    Allowed are programs (no Origin), pages on loopback at any port (a developer's own page, talking to
    us directly or as fal.run), and pages of `public_hosts`. A page of the very host it calls is allowed
    too, but on a server without keys only under a name we know: a stranger's name that resolves to
    127.0.0.1 would be the same host as well (DNS rebinding).
    """
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
        page = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not page:
        return False
    known = {name.lower().rstrip(".") for name in public_hosts}
    if is_loopback(page) or page in known:
        return True
    return keys_required and page == name_of(host_header)
