"""The real fal-client 1.0.3 uploads to a real server: sync and async, small and in parts, by its fallback."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import fal_client
import httpx
import psutil
import pytest
from fal_client import client as fal
from PIL import Image

from tests.servers import KEY, Server, serve

pytestmark = pytest.mark.net

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(keys=[KEY]) as running:
        yield running


@pytest.fixture(autouse=True)
def pointed(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """fal-client leads to the server; the connections it leaves open are closed."""
    opened: list[httpx.Client | httpx.AsyncClient] = []

    def recorded(kind: type[httpx.Client] | type[httpx.AsyncClient]):
        def make(**given: object):
            opened.append(kind(**given))  # type: ignore[arg-type]
            return opened[-1]

        return make

    monkeypatch.setattr(fal, "REST_URL", server.url)
    monkeypatch.setattr(fal, "CDN_URL", server.url)
    monkeypatch.setattr(fal.httpx, "Client", recorded(httpx.Client))
    monkeypatch.setattr(fal.httpx, "AsyncClient", recorded(httpx.AsyncClient))
    yield
    monkeypatch.undo()
    for client in opened:
        if isinstance(client, httpx.Client):
            client.close()


@pytest.fixture(params=["sync", "async"])
def upload(request: pytest.FixtureRequest):
    """`upload(data, content_type, file_name=...)` by either client, giving the URL."""
    if request.param == "sync":
        return fal_client.SyncClient(key=KEY).upload

    async def uploaded(*args: object, **named: object) -> str:
        client = fal_client.AsyncClient(key=KEY)
        try:
            return await client.upload(*args, **named)  # type: ignore[arg-type]
        finally:
            await (await client._client).aclose()

    return lambda *args, **named: asyncio.run(uploaded(*args, **named))


def test_bytes_are_uploaded_and_found(upload):
    url = upload(b"\x89PNG...", "image/png", file_name="a b.png")
    found = httpx.get(url)
    assert found.content == b"\x89PNG..."
    assert found.headers["content-type"] == "image/png"
    assert url.endswith("/a%20b.png")


def test_the_fallback_repository_works_alone(upload):
    url = upload(b"data", "text/plain", repository="fal", fallback_repository=[])
    assert httpx.get(url).text == "data"


def test_a_lifecycle_is_understood(upload):
    acl = fal_client.client.StorageACL(default="forbid")
    lifecycle = fal_client.client.StorageSettings(expires_in="1h", initial_acl=acl)
    url = upload(b"private", "text/plain", lifecycle=lifecycle)
    assert httpx.get(url).status_code == 404
    found = httpx.get(url, headers={"authorization": f"Key {KEY}"})
    assert found.text == "private"
    assert 3590 <= int(found.headers["cache-control"].rpartition("=")[2]) <= 3600


def test_a_file_and_a_picture_are_uploaded(tmp_path: Path):
    client = fal_client.SyncClient(key=KEY)
    file = tmp_path / "note.txt"
    file.write_text("hello")
    assert httpx.get(client.upload_file(file)).text == "hello"
    url = client.upload_image(Image.new("RGB", (8, 8), "red"))
    assert httpx.get(url).content.startswith(b"\xff\xd8\xff")


def test_a_wrong_key_is_told_so():
    client = fal_client.SyncClient(key="test:wrong")
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        client.upload(b"x", "text/plain", fallback_repository=[])


def digest_of(url: str) -> str:
    found = hashlib.sha256()
    with httpx.stream("GET", url, timeout=60) as answer:
        for piece in answer.iter_bytes():
            found.update(piece)
    return found.hexdigest()


def big(size: int) -> bytes:
    """Bytes of which no two MiB are alike."""
    return b"".join(b"%032d" % n * (MiB // 32) for n in range(size // MiB + 1))[:size]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_105_mib_arrive_in_parts_ten_at_a_time_and_memory_stays(server: Server, upload):
    data = big(105 * MiB + 17)
    upload(b"warm", "text/plain")
    process = psutil.Process(server.pid)
    before, peak, done = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        url = upload(data, "video/mp4", file_name="v.mp4")
        assert digest_of(url) == hashlib.sha256(data).hexdigest()
    finally:
        done.set()
        watching.join()
    assert 0 < peak - before < 48 * MiB  # measured 23; ten parts of 10 MiB would be 100
