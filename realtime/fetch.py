"""The only way out: fetches a picture from a URL a stranger chose, or tells such a URL something.

Three rules carry the safety, and none of them looks at strings:
- a name is resolved once, every address it has is checked, and the connection goes to such an address
  (so neither odd spellings of 127.0.0.1 nor a second DNS answer lead inside);
- redirects are followed here, one by one, through the same check;
- bytes, headers and time are bounded while they arrive, and nothing is decompressed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpcore2

from realtime.errors import FetchError
from realtime.settings import Settings

Resolve = Callable[[str, int], Awaitable[list[str]]]  # (host, port) to addresses

PORTS = {"http": 80, "https": 443}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 3
MAX_URL = 4096  # characters
MAX_HEADERS = 64 * 1024  # bytes
MAX_ADDRESSES = 4  # of one name that are tried
CONNECT_S = 2.0  # for one of several addresses; the last one has the time that is left
RESOLVERS = 8  # threads: getaddrinfo blocks, and must not take those that decode pictures
CONNECTIONS = 64
IDLE_S = 5.0  # pooled connections live on so long: the next frame often names the same host


class Fetcher:
    """One for all sessions. `aclose` ends it.

    ports: those that may be asked when private addresses may not. resolve, network, tls: for tests.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ports: Collection[int] = frozenset(PORTS.values()),
        resolve: Resolve | None = None,
        network: httpcore2.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolve")
        guard = Guard(network or httpcore2.AnyIOBackend(), resolve or self._resolve, settings.fetch_private)
        # An explicit pool reads no proxy from the environment: a proxy would resolve names itself.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls or httpcore2.default_ssl_context(),
            max_connections=CONNECTIONS,
            keepalive_expiry=IDLE_S,
            network_backend=guard,
        )

    async def get(self, url: str, field: str) -> bytes:
        """The body behind an http(s) URL. Raises FetchError, whose text names no address.

        field: the request field the URL came from.
        """
        limit = self._settings.fetch_s
        try:
            async with asyncio.timeout(limit):
                for _ in range(MAX_REDIRECTS + 1):
                    body, location = await self._once(self.target(url))
                    if location is None:
                        return body
                    url = _join(url, location)
            raise Refusal(f"redirects more than {MAX_REDIRECTS} times")
        except TimeoutError:
            raise FetchError.at(
                field, f"the URL took longer than {limit:g} s", FetchError.error_type
            ) from None
        except Refusal as error:
            raise FetchError.at(field, f"the URL {error}", error.type) from None
        except (httpcore2.NetworkError, httpcore2.TimeoutException):
            raise FetchError.at(field, "the URL's host could not be reached", FetchError.error_type) from None
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            raise FetchError.at(field, "the URL's host does not speak HTTP", FetchError.error_type) from None

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer to this JSON; a redirect is an answer too. The caller limits the time.

        Raises Refusal for a URL that may not be asked, Unreachable.
        """
        target = self.target(url)
        sent: list[tuple[bytes | str, bytes | str]] = [
            ("Host", _host_header(target)),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Accept-Encoding", "identity"),
            ("User-Agent", "realtime-lcm"),
            *headers.items(),
        ]
        try:
            async with self._pool.stream("POST", target, headers=sent, content=body) as response:
                return int(response.status)  # what follows is not read: the connection is closed with it
        except (httpcore2.NetworkError, httpcore2.TimeoutException):
            raise Unreachable("the host could not be reached") from None
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            raise Unreachable("the host does not speak HTTP") from None

    async def aclose(self) -> None:
        await self._pool.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def target(self, url: str) -> httpcore2.URL:
        """The one reading of a URL: what is checked here is what is asked. Raises Refusal."""
        if len(url) > MAX_URL:
            raise Refusal(f"has {len(url)} characters, the limit is {MAX_URL}")
        try:
            parts = urlsplit(url.strip())
            port = parts.port
            target = quote(parts.path or "/", safe=_SAFE)
            if parts.query:
                target += "?" + quote(parts.query, safe=_SAFE)
        except ValueError:
            raise Refusal("cannot be read") from None
        if parts.scheme not in PORTS:
            raise Refusal(f"starts with {parts.scheme[:20]!r}; only https and http are fetched")
        if "@" in parts.netloc:
            raise Refusal("carries a user name or password; these are not sent")
        host = _host(parts)
        if port is None:
            port = PORTS[parts.scheme]
        if port not in self._ports and not self._settings.fetch_private:
            raise Refusal(f"names port {port}; only {', '.join(map(str, sorted(self._ports)))} are asked")
        return httpcore2.URL(scheme=parts.scheme, host=host, port=port, target=target)

    async def _once(self, url: httpcore2.URL) -> tuple[bytes, str | None]:
        """(body, None) or (b"", where to go instead)."""
        limit = self._settings.max_fetch_bytes
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("Host", _host_header(url)),
            ("Accept", "image/png, image/jpeg, image/webp"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", "realtime-lcm"),
        ]
        async with self._pool.stream("GET", url, headers=headers) as response:
            if sum(len(name) + len(value) + 4 for name, value in response.headers) > MAX_HEADERS:
                raise Refusal(f"was answered with more than {MAX_HEADERS} bytes of headers")
            given = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in given:
                return b"", given[b"location"].decode("latin-1")
            if response.status != 200:
                raise Refusal(f"was answered with status {response.status}")
            if given.get(b"content-encoding", b"identity").lower() != b"identity":
                raise Refusal("was answered with compressed content, which was not asked for")
            if int(given.get(b"content-length", b"0")) > limit:
                raise Refusal(f"is a file of more than {limit} bytes", "file_too_large")
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > limit:
                    raise Refusal(f"is a file of more than {limit} bytes", "file_too_large")
            return bytes(body), None

    async def _resolve(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, addresses, host, port)


def addresses(host: str, port: int) -> list[str]:
    """What the system's resolver makes of a host, odd spellings of addresses included. Blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Refusal(Exception):
    """Completes "the URL ...". `type` as in a detail entry."""

    def __init__(self, reason: str, type: str = FetchError.error_type) -> None:
        super().__init__(reason)
        self.type = type


class Unreachable(Exception):
    """The URL may be asked, and nobody answers."""


class Guard(httpcore2.AsyncNetworkBackend):
    """Connects to checked addresses only. Host header and TLS name stay those of the URL."""

    def __init__(self, inner: httpcore2.AsyncNetworkBackend, resolve: Resolve, private: bool) -> None:
        self._inner, self._resolve, self._private = inner, resolve, private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore2's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError):
            found = []
        # One private address among public ones is an attack or a mistake; neither is worth a try.
        # Both cases read the same to the caller, who learns nothing about names inside our network.
        if not found or not (self._private or all(map(is_public, found))):
            raise Refusal("does not lead to a public address")
        *others, last = found[:MAX_ADDRESSES]
        for address in others:
            try:
                return await self._inner.connect_tcp(address, port, CONNECT_S, local_address, socket_options)
            except (httpcore2.NetworkError, httpcore2.TimeoutException):
                continue
        return await self._inner.connect_tcp(last, port, timeout, local_address, socket_options)


def is_public(address: str) -> bool:
    """Whether an address (not a name) belongs to the public internet and to one host.

    `ipaddress.is_global` is no such test: it holds for multicast, for ::127.0.0.1, for NAT64 of
    loopback and, on Python 3.11.7, for 6to4 (measured). Hence the tables.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # with a zone, say: "fe80::1%eth0" is parsed, "1%2" is not
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is None:
            return ip in _UNICAST6 and ip.scope_id is None and not any(ip in net for net in _SPECIAL6)
        ip = inner
    return not any(ip in net for net in _SPECIAL4)


# IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and successors), without
# the entries that only describe public services. What embeds an IPv4 address is refused, except
# the NAT64 prefix: an IPv6-only host reaches the whole IPv4 internet through it.
_SPECIAL4 = [
    ipaddress.IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and cloud metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure: the host behind every virtual machine
        "169.254.0.0/16",  # link-local, and cloud metadata at 169.254.169.254
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST6 = ipaddress.IPv6Network("2000::/3")  # all that is assigned as global unicast (RFC 4291 §2.4)
_SPECIAL6 = [
    ipaddress.IPv6Network(net)
    for net in (
        "2001::/23",  # protocol assignments; Teredo is 2001::/32
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation (RFC 9637)
    )
]

_SAFE = "/?:@!$&'()*+,;=-._~%"  # what a URL may hold unescaped (RFC 3986 §3.3)


def _join(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Refusal("redirects to something that is no URL") from None


# A name (underscores occur in practice) or an IPv6 address; no zone, which names an interface of ours.
_HOST = re.compile(r"[a-z0-9_.-]{1,253}|[0-9a-f:.]{2,45}")


def _host(parts: SplitResult) -> str:
    """The host in ASCII, without the root dot. Raises Refusal."""
    host = (parts.hostname or "").rstrip(".")
    if not host.isascii() and len(host) <= 253:
        try:
            host = host.encode("idna").decode("ascii").rstrip(".")
        except UnicodeError:
            host = ""
    if not _HOST.fullmatch(host):
        raise Refusal("names no host")
    return host


def _host_header(url: httpcore2.URL) -> bytes:
    host = b"[%s]" % url.host if b":" in url.host else url.host
    return host if url.port in (None, PORTS.get(url.scheme.decode("ascii"))) else b"%s:%d" % (host, url.port)
