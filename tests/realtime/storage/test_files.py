"""What GET and HEAD of a stored file answer: ranges (RFC 9110 §13-14), types, and who may read."""

import json

import pytest

from tests.storage import Desk

DATA = bytes(range(200))


async def in_parts(desk: Desk) -> str:
    """The URL of DATA, sent as 70 + 70 + 60 bytes."""
    begun = await desk.ask("POST", "/storage/upload/initiate-multipart", json={"file_name": "a.bin"})
    path, query = begun.json["upload_url"].split("?")
    pieces = [DATA[:70], DATA[70:140], DATA[140:]]
    parts = [(await desk.ask("PUT", f"{path}/{n}?{query}", p, key="")).json for n, p in enumerate(pieces, 1)]
    await desk.ask("POST", f"{path}/complete?{query}", json={"parts": parts}, key="")
    return str(begun.json["file_url"])


@pytest.mark.parametrize("whole", [True, False], ids=["one object", "three parts"])
@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 200),
        ("bytes=5-9", 5, 10),
        ("bytes=60-150", 60, 151),
        ("bytes=69-70", 69, 71),
        ("bytes=70-139", 70, 140),
        ("bytes=199-", 199, 200),
        ("bytes=150-999999999999", 150, 200),
        ("bytes=-1", 199, 200),
        ("bytes=-200", 0, 200),
        ("bytes=-999", 0, 200),
        (" bytes=5-9 ", 5, 10),
    ],
)
async def test_a_range_is_exactly_these_bytes(desk: Desk, whole: bool, asked: str, start: int, stop: int):
    url = await desk.upload(DATA) if whole else await in_parts(desk)
    found = await desk.ask("GET", url, key="", range=asked)
    assert found.status == 206
    assert found.body == DATA[start:stop]
    assert found.headers["content-range"] == f"bytes {start}-{stop - 1}/200"
    assert found.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=200-", "bytes=999-1000", "bytes=200-200", "bytes=-0"])
async def test_a_range_behind_the_end_is_416_with_the_size(desk: Desk, asked: str):
    found = await desk.ask("GET", await desk.upload(DATA), key="", range=asked)
    assert (found.status, found.body, found.headers["content-range"]) == (416, b"", "bytes */200")


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=",
        "bytes=-",
        "bytes=9-5",
        "bytes=a-b",
        "bytes=0-1,5-6",
        "lines=0-1",
        "0-1",
        "bytes=1-2-3",
        "x" * 9999,
    ],
)
async def test_what_is_no_single_range_is_answered_with_the_whole_file(desk: Desk, asked: str):
    found = await desk.ask("GET", await desk.upload(DATA), key="", range=asked)
    assert (found.status, found.body) == (200, DATA)
    assert "content-range" not in found.headers


async def test_an_empty_file_has_no_range(desk: Desk):
    url = await desk.upload(b"")
    assert (await desk.ask("GET", url, key="", range="bytes=0-")).status == 416


async def test_head_is_get_without_the_body(desk: Desk):
    url = await desk.upload(DATA)
    for headers in ({}, {"range": "bytes=5-9"}, {"range": "bytes=900-"}):
        got = await desk.ask("GET", url, key="", **headers)
        head = await desk.ask("HEAD", url, key="", **headers)
        assert (head.status, head.headers) == (got.status, got.headers)


async def test_the_same_bytes_are_not_sent_to_who_has_them(desk: Desk):
    url = await in_parts(desk)
    etag = (await desk.ask("GET", url, key="")).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        found = await desk.ask("GET", url, key="", if_none_match=known)
        assert (found.status, found.body, found.headers["etag"]) == (304, b"", etag)
    assert (await desk.ask("GET", url, key="", if_none_match='"other"')).status == 200


async def test_a_range_of_another_version_is_not_sent(desk: Desk):
    begun = await desk.ask("POST", "/storage/upload/initiate", json={"file_name": "a.png"})
    url = begun.json["file_url"]
    await desk.ask("PUT", begun.json["upload_url"], b"version one", key="")
    etag = (await desk.ask("GET", url, key="")).headers["etag"]
    assert (await desk.ask("GET", url, key="", range="bytes=8-", if_range=etag)).status == 206
    await desk.ask("PUT", begun.json["upload_url"], b"version two", key="")
    found = await desk.ask("GET", url, key="", range="bytes=8-", if_range=etag)
    assert (found.status, found.body) == (200, b"version two")


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("image/png", True),
        ("image/jpeg", True),
        ("video/mp4", True),
        ("audio/wav", True),
        ("text/plain; charset=utf-8", True),
        ("application/json", True),
        ("text/html", False),
        ("TEXT/HTML", False),
        ("image/svg+xml", False),
        ("image/SVG+xml", False),
        ("application/xhtml+xml", False),
        ("text/xml", False),
        ("text/javascript", False),
        ("application/pdf", False),
        ("text/plainx", False),
        ("application/octet-stream", False),
        ("multipart/x-mixed-replace", False),
    ],
)
async def test_what_a_browser_could_run_is_a_download(desk: Desk, content_type: str, shown: bool):
    found = await desk.ask("GET", await desk.upload(b"<script>", content_type=content_type), key="")
    assert found.headers["content-type"].lower().startswith(content_type.lower())
    assert found.headers["content-disposition"].startswith("inline" if shown else "attachment")
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in found.headers["content-security-policy"]
    assert "script-src" not in found.headers["content-security-policy"]


async def test_the_download_has_its_name(desk: Desk):
    found = await desk.ask("GET", await desk.upload(name='ä "b"; c.html', content_type="text/html"), key="")
    assert found.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4%20%22b%22%3B%20c.html"


async def test_any_page_may_read_what_it_has_the_url_of(desk: Desk):
    found = await desk.ask("GET", await desk.upload(), key="", origin="https://somewhere.example")
    assert found.headers["access-control-allow-origin"] == "*"
    assert "etag" in found.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in found.headers


async def test_caches_keep_a_file_no_longer_than_we_do(desk: Desk):
    url = await desk.upload(x_fal_object_lifecycle='{"expiration_duration_seconds": 100}')
    assert (await desk.ask("GET", url, key="")).headers["cache-control"] == "public, max-age=100"
    desk.clock.now += 60
    assert (await desk.ask("GET", url, key="")).headers["cache-control"] == "public, max-age=40"
    long = await desk.upload(x_fal_object_lifecycle='{"expiration_duration_seconds": 31536000}')
    assert (await desk.ask("GET", long, key="")).headers["cache-control"] == "public, max-age=86400"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/files/", 404),
        ("GET", "/files/x", 404),
        ("GET", "/files/x/y", 404),
        ("GET", "/files/" + "0" * 32 + "/a.png", 404),
        ("GET", "/files/upload", 404),
        ("DELETE", "/files/" + "0" * 32 + "/a.png", 405),
        ("POST", "/files/" + "0" * 32 + "/a.png", 405),
        ("PUT", "/files/" + "0" * 32 + "/a.png", 404),
        ("GET", "/storage/upload/initiate", 405),
        ("PUT", "/storage/auth/token", 405),
    ],
)
async def test_what_is_not_there_is_said(desk: Desk, method: str, path: str, status: int):
    answer = await desk.ask(method, path)
    assert answer.status == status
    assert answer.json["detail"]


async def test_a_file_is_not_found_under_another_name(desk: Desk):
    url = await desk.upload(name="a.png")
    assert (await desk.ask("GET", url.replace("a.png", "invoice.html"), key="")).status == 404


# ---- who may read ----


def rules(default: str | None, **users: str) -> str:
    acl = {"default": default, "rules": [{"user": u, "decision": d} for u, d in users.items()]}
    return json.dumps({"initial_acl": acl})


@pytest.mark.parametrize(
    ("acl", "nobody", "you", "me"),
    [
        (rules("allow"), 200, 200, 200),
        (rules(None), 200, 200, 200),
        (rules("forbid"), 404, 404, 200),
        (rules("hide"), 404, 404, 200),
        (rules("forbid", you="allow"), 404, 200, 200),
        (rules("forbid", other="allow"), 404, 404, 200),
        (rules("allow", you="forbid"), 200, 404, 200),
        (rules("allow", you="hide", me="hide"), 200, 404, 200),
    ],
)
async def test_an_access_list_is_honoured_and_403_is_404(
    desk: Desk, acl: str, nobody: int, you: int, me: int
):
    url = await desk.upload(x_fal_object_lifecycle=acl)
    missing = await desk.ask("GET", url.replace(url.split("/")[4], "0" * 32), key="")
    expected = {"": nobody, "you:secret": you, "me:secret": me, "me:wrong": nobody}
    for key, status in expected.items():
        found = await desk.ask("GET", url, key=key)
        assert found.status == status, key
        if status == 404:
            assert (found.body, found.headers) == (missing.body, missing.headers)


async def test_a_file_for_some_is_for_no_shared_cache(desk: Desk):
    url = await desk.upload(x_fal_object_lifecycle=rules("forbid"))
    assert (await desk.ask("GET", url)).headers["cache-control"].startswith("private")


async def test_an_upload_token_reads_what_its_key_may(desk: Desk):
    url = await desk.upload(x_fal_object_lifecycle=rules("forbid"))
    for owner, status in (("me", 200), ("you", 404)):
        token = f"Bearer {desk.tokens.mint_upload(owner, 60)}"
        assert (await desk.ask("GET", url, key="", authorization=token)).status == status


async def test_a_private_picture_is_an_input_for_its_owner_only(desk: Desk):
    from realtime.errors import NotFound
    from realtime.service import Caller

    url = await desk.upload(b"mine", x_fal_object_lifecycle=rules("forbid"))
    assert await desk.storage.content(url, Caller("me"), 1000) == b"mine"
    with pytest.raises(NotFound):
        await desk.storage.content(url, Caller("you"), 1000)
