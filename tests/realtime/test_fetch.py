"""What a stranger's web server may do to us: nothing that lasts, grows or hangs."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from realtime.errors import FetchError
from realtime.fetch import Fetcher, Resolve
from realtime.settings import Settings
from tests.origin import Answer, Origin, always, origin, response
from tests.pictures import picture

pytestmark = pytest.mark.net

PICTURE = picture()
LIMIT = 100_000


@asynccontextmanager
async def fetching(
    answer: Answer, *, fetch_s: float = 5.0, resolve: Resolve | None = None
) -> AsyncIterator[tuple[Fetcher, Origin]]:
    settings = Settings(fetch_private=True, max_fetch_bytes=LIMIT, fetch_s=fetch_s)
    fetcher = Fetcher(settings, resolve=resolve)
    async with origin(answer) as there:
        yield fetcher, there
        await fetcher.aclose()


async def refused(answer: Answer, reason: str, *, fetch_s: float = 5.0) -> FetchError:
    async with fetching(answer, fetch_s=fetch_s) as (fetcher, there):
        with pytest.raises(FetchError, match=reason) as caught:
            await fetcher.get(there.url(), "image_url")
    assert caught.value.status == 422
    assert caught.value.detail
    assert caught.value.detail[0]["loc"] == ["body", "image_url"]
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


async def test_a_file_is_fetched_as_it_is() -> None:
    async with fetching(always(response(PICTURE))) as (fetcher, there):
        assert await fetcher.get(there.url("/a b.png?q=ä&r=%20"), "image_url") == PICTURE
        head = there.requests[0].decode()
    assert head.startswith("GET /a%20b.png?q=%C3%A4&r=%20 HTTP/1.1\r\n")
    assert "Accept-Encoding: identity\r\n" in head
    assert f"Host: 127.0.0.1:{there.port}\r\n" in head
    assert "Cookie" not in head
    assert "Authorization" not in head


async def test_a_chunked_file_is_fetched() -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    async with fetching(always(chunks)) as (fetcher, there):
        assert await fetcher.get(there.url(), "image_url") == b"hello!"


async def test_a_connection_is_used_again() -> None:
    fetcher = Fetcher(Settings(fetch_private=True))
    async with origin(always(response(PICTURE)), keep_alive=True) as there:
        for _ in range(3):
            assert await fetcher.get(there.url(), "image_url") == PICTURE
        assert (there.connections, there.hits) == (1, 3)
        await fetcher.aclose()


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 418, 429, 500, 503])
async def test_any_status_but_200_is_an_error(status: int) -> None:
    await refused(always(response(PICTURE, f"{status} Such")), f"status {status}")


async def test_a_stated_length_over_the_limit_is_refused_unread() -> None:
    error = await refused(always(response(b"", length=LIMIT + 1)), "more than 100000 bytes")
    assert error.detail
    assert error.detail[0]["type"] == "file_too_large"


async def test_an_endless_file_is_cut_at_the_limit() -> None:
    sent = 0

    async def endless(target: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    tracemalloc.start()
    await refused(endless, "more than 100000 bytes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert sent < 64 << 20


async def test_a_file_of_exactly_the_limit_is_taken() -> None:
    async with fetching(always(response(b"x" * LIMIT))) as (fetcher, there):
        assert len(await fetcher.get(there.url(), "image_url")) == LIMIT


async def test_compressed_content_is_refused_not_inflated() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    await refused(always(response(bomb, headers=("Content-Encoding: gzip",))), "compressed")


async def test_a_dribbling_server_is_cut_at_the_time_limit() -> None:
    async def dribble(target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    t0 = time.monotonic()
    await refused(dribble, "took longer than 0.3 s", fetch_s=0.3)
    assert time.monotonic() - t0 < 3


async def test_a_silent_server_is_cut_at_the_time_limit() -> None:
    async def silent(target: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    await refused(silent, "took longer", fetch_s=0.2)


async def test_redirects_share_one_time_limit() -> None:
    async def slow(target: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(response(status="302 Found", headers=("Location: /again",)))

    await refused(slow, "took longer", fetch_s=0.3)


@pytest.mark.parametrize("size", [80 * 1024, 2 << 20])
async def test_too_many_headers_are_refused(size: int) -> None:
    lines = tuple(f"X-{i}: {'a' * 1000}" for i in range(size // 1000))
    await refused(always(response(PICTURE, headers=lines)), "headers|does not speak HTTP")


async def test_endless_headers_are_cut() -> None:
    async def endless(target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-A: " + b"a" * 1000 + b"\r\n")
            await writer.drain()

    await refused(endless, "does not speak HTTP")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation:\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
    ],
)
async def test_a_server_that_speaks_nonsense_is_an_error_of_the_url(data: bytes) -> None:
    await refused(always(data), "the URL")


async def test_nobody_home_is_an_error_of_the_url() -> None:
    async with origin(always(b"")) as gone:
        pass
    fetcher = Fetcher(Settings(fetch_private=True))
    with pytest.raises(FetchError, match="could not be reached"):
        await fetcher.get(gone.url(), "image_url")
    await fetcher.aclose()


def bouncing(times: int, status: int = 302) -> Answer:
    """Redirects `times` times, then serves the picture."""

    async def answer(target: str, writer: asyncio.StreamWriter) -> None:
        seen = int(target.strip("/") or 0)
        if seen == times:
            writer.write(response(PICTURE))
        else:
            writer.write(response(status=f"{status} Go", headers=(f"Location: /{seen + 1}",)))

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_three_redirects_are_followed(status: int) -> None:
    async with fetching(bouncing(3, status)) as (fetcher, there):
        assert await fetcher.get(there.url(), "image_url") == PICTURE
        assert there.hits == 4


async def test_a_fourth_redirect_is_refused() -> None:
    await refused(bouncing(4), "redirects more than 3 times")
    await refused(bouncing(1_000_000), "redirects more than 3 times")


async def test_the_next_address_is_tried_when_the_first_does_not_answer() -> None:
    async def two(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]  # nobody listens on the first

    async with fetching(always(response(PICTURE)), resolve=two) as (fetcher, there):
        assert await fetcher.get(there.url(host="pictures.example"), "image_url") == PICTURE


async def test_a_tls_server_is_asked_by_name_and_its_certificate_checked() -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("pictures.example")
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(server_tls)
    names: list[str | None] = []
    server_tls.sni_callback = lambda sock, name, context: names.append(name)
    client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_tls)

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    fetcher = Fetcher(Settings(fetch_private=True), resolve=here, tls=client_tls)
    async with origin(always(response(PICTURE)), tls=server_tls) as there:
        assert await fetcher.get(f"https://Pictures.Example.:{there.port}/", "image_url") == PICTURE
        assert names == ["pictures.example"]
        assert f"Host: pictures.example:{there.port}".encode() in there.requests[0]
        with pytest.raises(FetchError, match="could not be reached"):
            await fetcher.get(f"https://other.example:{there.port}/", "image_url")
        await fetcher.aclose()


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with origin(always(response(b"proxied"))) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        async with fetching(always(response(PICTURE))) as (fetcher, there):
            assert await fetcher.get(there.url(), "image_url") == PICTURE
        assert proxy.hits == 0
