"""No URL, redirect or DNS answer makes the server connect to anything but a public address.

The network under the guard is a decoy: whatever address it is told to connect to, it connects to a
canary on loopback. So one hit means that the guard let an address through, and without the guard
every target must hit: the detector is itself tested.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import cycle

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.errors import FetchError
from realtime.fetch import Fetcher, Resolve, addresses, is_public
from realtime.settings import Settings
from tests.origin import Origin, always, origin, response

pytestmark = pytest.mark.net


def words(text: str) -> list[str]:
    return text.split()


# Addresses of every special range, and ways to spell or embed them.
INTERNAL4 = words("""
0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.0.0.1 10.255.255.255 100.64.0.0 100.64.0.1 100.100.100.200
100.127.255.255 127.0.0.0 127.0.0.1 127.0.0.2 127.1.1.1 127.255.255.255 168.63.129.16 169.254.0.0
169.254.0.1 169.254.169.254 169.254.170.2 169.254.255.255 172.16.0.0 172.16.0.1 172.17.0.1 172.31.255.255
192.0.0.0 192.0.0.1 192.0.0.8 192.0.0.170 192.0.0.192 192.0.0.255 192.0.2.1 192.88.99.1 192.168.0.0
192.168.0.1 192.168.1.254 192.168.255.255 198.18.0.0 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
224.0.0.0 224.0.0.1 224.0.0.251 239.255.255.255 240.0.0.0 240.0.0.1 255.255.255.254 255.255.255.255
""")
INTERNAL6 = words("""
:: ::1 ::2 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:7f00:1 ::ffff:0:0 ::127.0.0.1
::10.0.0.1 ::7f00:1 ::8.8.8.8 64:ff9b::7f00:1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::1
64:ff9b:1::8.8.8.8 100::1 100:0:0:1::1 2001::1 2001:0:7f00:1:: 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1
2001:10::1 2001:20::1 2001:db8::1 2001:1ff:ffff::1 2002::1 2002:7f00:1:: 2002:7f00:1::1 2002:a00:1::1
2002:808:808::1 3fff::1 3fff:fff::1 4000::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254 fdff:ffff::1 fe80::1
fe80::a9fe:a9fe febf::1 fec0::1 feff::1 ff00::1 ff01::1 ff02::1 ff02::fb ff05::2 ff0e::1
0:0:0:0:0:0:0:1 0000:0000:0000:0000:0000:ffff:7f00:0001 ::FFFF:127.0.0.1
""")
# What getaddrinfo and browsers read as an address; resolved for real, without a name server.
SPELT = words("""
2130706433 0x7f000001 0x7F000001 017700000001 127.1 127.0.1 0177.0.0.1 0x7f.0.0.1 0x7f.1 0 0.0 0x0
00 127.0.0.1. 127.0.0.1.. 0x7f.0x0.0x0.0x1 127.0.0.0x1 0177.0.0.01 167772161 3232235777 2852039166
0xa9fea9fe 0251.0376.0251.0376 169.16689662 10.1 192.168.257 1.0x7f000001 ①②⑦.0.0.1 １２７.0.0.1 127。0。0。1
127．0．0．1 127｡0｡0｡1 ⑯⑨。②⑤④。⑯⑨｡②⑤④ ０
localhost LOCALHOST localhost. LocalHost ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ
""")
PUBLIC = words("""
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255
198.20.0.0 223.255.255.255 2000::1 2001:200::1 2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450:4001::1
2003::1 3ffe:ffff::1 64:ff9b::8.8.8.8 ::ffff:8.8.8.8
""")
NO_ADDRESS = ["", "localhost", "127.1", "2130706433", "fe80::1%eth0", "1.1.1.1%1", "2001:4860::1%lo", "[::1]"]


def names(addresses: Iterable[str]) -> list[str]:
    return [f"[{address}]" if ":" in address else address for address in addresses]


TARGETS = names([*INTERNAL4, *INTERNAL6]) + SPELT


TLS = ssl.create_default_context()


class Decoy(httpcore2.AnyIOBackend):
    """Connects to the canary and writes down where it was sent."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[str] = []

    async def connect_tcp(self, host: str, port: int, *args: object) -> httpcore2.AsyncNetworkStream:
        self.asked.append(host)
        return await super().connect_tcp("127.0.0.1", self.port)


@asynccontextmanager
async def canary(
    *, guarded: bool = True, resolve: Resolve | None = None
) -> AsyncIterator[tuple[Fetcher, Origin, Decoy]]:
    async with origin(always(response(b"secret"))) as there:
        decoy = Decoy(there.port)
        # Any port is allowed: the port must not do the address check's work.
        fetcher = Fetcher(
            Settings(fetch_private=not guarded, fetch_s=5.0),
            ports=range(65536),
            resolve=resolve,
            network=decoy,
        )
        yield fetcher, there, decoy
        await fetcher.aclose()


def answers(*turns: list[str]) -> Resolve:
    """A name server: one answer a question, the last one for ever."""
    left: Iterator[list[str]] = iter(turns)
    last: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        nonlocal last
        last = next(left, last)
        return last

    return resolve


def test_there_are_enough_targets() -> None:
    assert len(set(TARGETS)) >= 120


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_internal_target_is_reached(scheme: str) -> None:
    async with canary() as (fetcher, there, decoy):
        for target in TARGETS:
            with pytest.raises(FetchError) as caught:
                await fetcher.get(f"{scheme}://{target}:{there.port}/", "image_url")
            assert str(caught.value) in (
                "image_url: the URL does not lead to a public address",
                "image_url: the URL names no host",
            ), target
        assert there.connections == there.hits == 0
        assert decoy.asked == []


async def test_without_the_guard_the_canary_is_hit_by_every_address() -> None:
    async with canary(guarded=False) as (fetcher, there, _):
        reached = []
        for target in TARGETS:
            try:
                assert await fetcher.get(f"http://{target}:{there.port}/", "image_url") == b"secret"
            except FetchError:  # a spelling this machine's resolver does not know
                continue
            reached.append(target)
        assert there.hits == len(reached)
        assert set(names([*INTERNAL4, *INTERNAL6])) <= set(reached)
        assert len(reached) >= 120
        assert {"2130706433", "0x7f000001", "127.1", "①②⑦.0.0.1", "127。0。0。1", "localhost"} <= set(reached)


@pytest.mark.parametrize("address", [*INTERNAL4, *INTERNAL6, *NO_ADDRESS])
def test_an_internal_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


async def test_a_public_name_is_reached_at_the_address_that_was_checked() -> None:
    async with canary(resolve=answers(["93.184.216.34"])) as (fetcher, there, decoy):
        assert await fetcher.get("http://pictures.example/a.png", "image_url") == b"secret"
        assert decoy.asked == ["93.184.216.34"]
        assert b"Host: pictures.example\r\n" in there.requests[0]


@pytest.mark.parametrize("address", [*INTERNAL4[::6], *INTERNAL6[::6]])
async def test_a_name_with_an_internal_address_is_not_reached(address: str) -> None:
    for found in ([address], ["1.1.1.1", address], [address, "1.1.1.1"], ["2606:4700:4700::1111", address]):
        async with canary(resolve=answers(found)) as (fetcher, there, decoy):
            with pytest.raises(FetchError, match="does not lead to a public address"):
                await fetcher.get("http://pictures.example/", "image_url")
            assert there.connections == 0
            assert decoy.asked == []


async def test_a_name_is_resolved_once_so_rebinding_is_pointless() -> None:
    async with canary(resolve=answers(["1.1.1.1"], ["127.0.0.1"])) as (fetcher, there, decoy):
        await fetcher.get("http://rebind.example/", "image_url")
        assert decoy.asked == ["1.1.1.1"]
        # The connection was closed by the server: the next fetch asks again, and is told the other address.
        with pytest.raises(FetchError, match="does not lead"):
            await fetcher.get("http://rebind.example/", "image_url")
        assert there.hits == 1


async def test_an_unknown_name_reads_like_an_internal_one() -> None:
    async with canary(resolve=answers([])) as (fetcher, there, _):
        with pytest.raises(FetchError, match="does not lead to a public address"):
            await fetcher.get("http://nothing.example/", "image_url")
        assert there.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_leads_inside(status: int) -> None:
    places = iter(cycle([*TARGETS]))

    async def elsewhere(target: str, writer: asyncio.StreamWriter) -> None:
        location = f"http://{next(places)}/{'secret' if target == '/' else ''}"
        writer.write(
            response(status=f"{status} Go").replace(b"\r\n\r\n", f"\r\nLocation: {location}\r\n\r\n".encode())
        )

    async with origin(elsewhere) as there:
        decoy = Decoy(there.port)

        async def resolve(host: str, port: int) -> list[str]:
            return (
                ["1.1.1.1"] if host == "pictures.example" else await asyncio.to_thread(addresses, host, port)
            )

        fetcher = Fetcher(Settings(), resolve=resolve, network=decoy)
        for number in range(len(TARGETS)):
            with pytest.raises(FetchError, match=r"does not lead to a public address|names no host"):
                await fetcher.get("http://pictures.example/", "image_url")
            assert there.hits == number + 1  # the first stop, and no second
        assert set(decoy.asked) == {"1.1.1.1"}
        await fetcher.aclose()


@pytest.mark.parametrize("hops", [1, 2, 3])
async def test_a_late_redirect_leads_no_further_inside(hops: int) -> None:
    async def onwards(target: str, writer: asyncio.StreamWriter) -> None:
        seen = int(target.strip("/") or 0) + 1
        place = f"/{seen}" if seen < hops else "http://169.254.169.254/latest/meta-data/"
        writer.write(response(status="302 Found", headers=(f"Location: {place}",)))

    async with origin(onwards) as there:
        decoy = Decoy(there.port)

        async def resolve(host: str, port: int) -> list[str]:
            return ["1.1.1.1"] if host == "pictures.example" else [host]

        fetcher = Fetcher(Settings(), resolve=resolve, network=decoy)
        with pytest.raises(FetchError, match="does not lead to a public address"):
            await fetcher.get("http://pictures.example/", "image_url")
        assert there.hits == hops
        assert set(decoy.asked) == {"1.1.1.1"}
        await fetcher.aclose()


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", "starts with 'file'"),
        ("gopher://127.0.0.1/", "starts with 'gopher'"),
        ("ftp://1.1.1.1/a.png", "starts with 'ftp'"),
        ("data:image/png;base64,aaaa", "starts with 'data'"),
        ("http://1.1.1.1:22/", "names port 22"),
        ("http://1.1.1.1:6379/", "names port 6379"),
        ("http://user:pass@1.1.1.1/", "user name or password"),
        ("//127.0.0.1/", "does not lead"),
    ],
)
async def test_a_redirect_is_held_to_every_rule(location: str, reason: str) -> None:
    moved = response(status="302 Found", headers=(f"Location: {location}",))
    async with origin(always(moved)) as there:
        decoy = Decoy(there.port)
        fetcher = Fetcher(Settings(), resolve=answers(["1.1.1.1"], ["127.0.0.1"]), network=decoy)
        with pytest.raises(FetchError, match=reason):
            await fetcher.get("http://pictures.example/", "image_url")
        assert there.hits == 1
        await fetcher.aclose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "starts with 'file'"),
        ("FILE:///etc/passwd", "starts with 'file'"),
        ("gopher://1.1.1.1:70/_GET", "starts with 'gopher'"),
        ("dict://1.1.1.1:11211/stat", "starts with 'dict'"),
        ("ftp://1.1.1.1/", "starts with 'ftp'"),
        ("ldap://1.1.1.1/", "starts with 'ldap'"),
        ("unix:/var/run/docker.sock", "starts with 'unix'"),
        ("unix://%2Fvar%2Frun%2Fdocker.sock/info", "starts with 'unix'"),
        ("http+unix://%2Frun%2Fdocker.sock/", "starts with 'http\\+unix'"),
        ("jar:http://1.1.1.1!/", "starts with 'jar'"),
        ("ws://1.1.1.1/", "starts with 'ws'"),
        ("javascript:alert(1)", "starts with 'javascript'"),
        ("//1.1.1.1/", "starts with ''"),
        ("http://user@1.1.1.1/", "user name or password"),
        ("http://user:pass@1.1.1.1/", "user name or password"),
        ("http://1.1.1.1@127.0.0.1/", "user name or password"),
        ("http://1.1.1.1\\@127.0.0.1/", "user name or password"),
        ("http://1.1.1.1:80@127.0.0.1:80/", "user name or password"),
        ("http://1.1.1.1#@127.0.0.1/", "does not lead|could not"),
        ("http://1.1.1.1:22/", "names port 22"),
        ("http://1.1.1.1:25/", "names port 25"),
        ("http://1.1.1.1:8080/", "names port 8080"),
        ("http://1.1.1.1:0/", "names port 0"),
        ("http://1.1.1.1:65536/", "cannot be read"),
        ("http://1.1.1.1:-1/", "cannot be read"),
        ("http://1.1.1.1:http/", "cannot be read"),
        ("http://", "names no host"),
        ("http:///etc/passwd", "names no host"),
        ("http://./", "names no host"),
        ("http://%31%32%37.0.0.1/", "names no host"),
        ("http://127.0.0.1%00.example.com/", "names no host"),
        ("http://127.0.0.1\r\nHost: example.com/", "names no host|cannot be read"),
        ("http://exa mple.com/", "names no host"),
        ("http://[::1/", "cannot be read"),
        ("http://[fe80::1%25eth0]/", "names no host"),
        ("http://[fe80::1%eth0]/", "names no host"),
        ("http://[]/", "names no host|cannot be read"),
        ("http://[127.0.0.1]/", "names no host|cannot be read"),
        ("http://" + "a" * 254 + "/", "names no host"),
        ("http://" + "ä" * 1000 + "/", "names no host"),
        ("http://1.1.1.1/" + "a" * 5000, "has 5015 characters, the limit is 4096"),
    ],
)
async def test_a_url_that_is_no_plain_web_address_is_refused(url: str, reason: str) -> None:
    async with origin(always(response(b"secret"))) as there:
        decoy = Decoy(there.port)
        fetcher = Fetcher(Settings(), resolve=answers(["127.0.0.1"]), network=decoy)
        with pytest.raises(FetchError, match=reason):
            await fetcher.get(url, "image_url")
        assert there.connections == 0
        assert decoy.asked == []
        await fetcher.aclose()


parts = st.sampled_from(
    [
        "http://",
        "https:",
        "//",
        "\\",
        "@",
        ":",
        "[",
        "]",
        "%00",
        "#",
        "?",
        "/",
        ".",
        "127.0.0.1",
        "::1",
        "\ud800",
    ]
)


@given(st.lists(parts | st.text(max_size=4), max_size=12).map("".join))
def test_any_text_is_refused_as_a_url_when_every_name_is_internal(url: str) -> None:
    async def get() -> None:
        fetcher = Fetcher(Settings(), ports=range(65536), resolve=answers(["127.0.0.1"]), tls=TLS)
        with pytest.raises(FetchError) as caught:
            await fetcher.get(url, "image_url")
        await fetcher.aclose()
        str(caught.value).encode()

    asyncio.run(get())


async def test_line_breaks_in_a_url_add_no_headers() -> None:
    async with canary(resolve=answers(["1.1.1.1"])) as (fetcher, there, _):
        for url in (
            "http://pictures.example/a\r\nX-Evil: 1\r\n\r\nGET /b HTTP/1.1",
            "http://pictures.example/a%0d%0aX-Evil:%201",
            "http://pictures.example/?a\nX-Evil: 1",
        ):
            await fetcher.get(url, "image_url")
        assert there.hits == 3
        assert not any(b"\nX-Evil" in head for head in there.requests)


async def test_private_addresses_are_allowed_by_setting_only() -> None:
    assert Settings().fetch_private is False
    async with origin(always(response(b"mine"))) as there:
        fetcher = Fetcher(Settings(fetch_private=True))
        assert await fetcher.get(there.url(), "image_url") == b"mine"
        await fetcher.aclose()
        fetcher = Fetcher(Settings())
        with pytest.raises(FetchError, match="names port"):
            await fetcher.get(there.url(), "image_url")
        await fetcher.aclose()
        assert there.hits == 1
