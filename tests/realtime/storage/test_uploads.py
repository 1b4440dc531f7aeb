"""fal's upload protocol, as @fal-ai/client 0.15-1.10.1 and fal-client 1.0.3 speak it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.requests import ClientDisconnect

from realtime.errors import Unauthorized
from realtime.service import Caller
from tests.storage import Desk

INITIATE = "/storage/upload/initiate?storage_type=fal-cdn-v3"
MULTIPART = "/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"
TOKEN = "/storage/auth/token?storage_type=fal-cdn-v3"


# ---- JavaScript ----


async def test_javascript_asks_for_a_url_puts_to_it_and_finds_the_file(desk: Desk):
    begun = await desk.ask("POST", INITIATE, json={"content_type": "image/png", "file_name": "a b.png"})
    assert begun.status == 200
    assert set(begun.json) == {"upload_url", "file_url"}
    sent = await desk.ask("PUT", begun.json["upload_url"], b"\x89PNG", key="", content_type="image/png")
    assert 200 <= sent.status < 300
    found = await desk.ask("GET", begun.json["file_url"], key="")
    assert (found.status, found.body, found.headers["content-type"]) == (200, b"\x89PNG", "image/png")


async def test_a_file_is_not_there_before_it_was_sent(desk: Desk):
    begun = await desk.ask("POST", INITIATE, json={"file_name": "a.png"})
    assert (await desk.ask("GET", begun.json["file_url"], key="")).status == 404


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("a b.png", "a%20b.png"),
        ("ä#?&%.png", "%C3%A4%23%3F%26%25.png"),
        ("1700000000000.svg+xml", "1700000000000.svg%2Bxml"),
        ("<script>.html", "%3Cscript%3E.html"),
        ("...", "..."),
    ],
)
async def test_the_name_is_encoded_because_clients_hand_the_url_on_as_it_is(
    desk: Desk, name: str, encoded: str
):
    url = await desk.upload(name=name)
    assert url.endswith("/" + encoded)
    assert (await desk.ask("GET", url, key="")).body == b"data"


async def test_the_ticket_is_not_part_of_the_url_that_is_handed_on(desk: Desk):
    begun = await desk.ask("POST", INITIATE, json={"file_name": "a.png"})
    assert begun.json["upload_url"].startswith(begun.json["file_url"] + "?upload=")
    assert "?" not in begun.json["file_url"]


@pytest.mark.parametrize("change", ["", "?upload=", "?upload=wrong", "?upload=\udcff"])
async def test_nobody_uploads_without_the_ticket(desk: Desk, change: str):
    begun = await desk.ask("POST", INITIATE, json={"file_name": "a.png"})
    sent = await desk.ask("PUT", begun.json["file_url"] + change.encode("utf-8", "replace").decode(), b"x")
    assert sent.status == 404
    assert (await desk.ask("GET", begun.json["file_url"], key="")).status == 404


async def test_an_upload_needs_a_key_to_begin(desk: Desk):
    assert (await desk.ask("POST", INITIATE, json={}, key="")).status == 401
    assert (await desk.ask("POST", MULTIPART, json={}, key="me:wrong")).status == 401
    assert (await desk.ask("POST", TOKEN, json={}, key="")).status == 401


async def test_a_file_sent_twice_is_the_second_one_and_counts_once(desk: Desk):
    begun = await desk.ask("POST", INITIATE, json={"file_name": "a.png"})
    for data in (b"first one", b"second"):
        assert (await desk.ask("PUT", begun.json["upload_url"], data, key="")).status == 200
    assert (await desk.ask("GET", begun.json["file_url"], key="")).body == b"second"
    assert desk.bytes_on_disk() == len(b"second")


async def test_an_empty_file_is_a_file(desk: Desk):
    assert (await desk.ask("GET", await desk.upload(b""), key="")).body == b""


async def parts_of(desk: Desk, sizes: list[int]) -> tuple[str, list[dict[str, object]]]:
    """The upload URL of a multipart upload, and what was answered for each part."""
    begun = await desk.ask("POST", MULTIPART, json={"file_name": "big.bin"})
    path, query = begun.json["upload_url"].split("?")
    answers = []
    for number, size in enumerate(sizes, 1):
        sent = await desk.ask("PUT", f"{path}/{number}?{query}", bytes([number]) * size, key="")
        assert sent.status == 200
        assert sent.json["partNumber"] == number
        answers.append(sent.json)
    return begun.json["upload_url"], answers


def complete_url(upload_url: str) -> str:
    return "{}/complete?{}".format(*upload_url.split("?"))


async def test_javascript_sends_parts_and_completes_them(desk: Desk):
    upload_url, parts = await parts_of(desk, [300_000, 300_000, 5])
    done = await desk.ask("POST", complete_url(upload_url), json={"parts": parts}, key="")
    assert 200 <= done.status < 300
    found = await desk.ask("GET", upload_url.split("?")[0], key="")
    assert found.body == b"\1" * 300_000 + b"\2" * 300_000 + b"\3" * 5


async def test_a_part_that_failed_is_sent_again(desk: Desk):
    upload_url, parts = await parts_of(desk, [5, 5])
    path, query = upload_url.split("?")

    async def broken():
        yield b"22"
        raise ConnectionResetError

    with pytest.raises(ClientDisconnect):
        await desk.ask("PUT", f"{path}/2?{query}", broken(), key="")
    again = await desk.ask("PUT", f"{path}/2?{query}", b"again", key="")
    assert again.json["etag"] != parts[1]["etag"]
    stale = await desk.ask("POST", complete_url(upload_url), json={"parts": parts}, key="")
    assert stale.status == 400
    done = await desk.ask("POST", complete_url(upload_url), json={"parts": [parts[0], again.json]}, key="")
    assert done.status == 200
    assert (await desk.ask("GET", path, key="")).body == b"\1" * 5 + b"again"
    assert desk.bytes_on_disk() == 10


async def test_parts_that_are_not_named_are_thrown_away(desk: Desk):
    upload_url, parts = await parts_of(desk, [5, 7, 11])
    await desk.ask("POST", complete_url(upload_url), json={"parts": [parts[2], parts[0]]}, key="")
    found = await desk.ask("GET", upload_url.split("?")[0], key="")
    assert found.body == b"\1" * 5 + b"\3" * 11
    assert desk.bytes_on_disk() == 16


async def test_completing_twice_is_as_completing_once(desk: Desk):
    upload_url, parts = await parts_of(desk, [5])
    for _ in range(2):
        assert (await desk.ask("POST", complete_url(upload_url), json={"parts": parts}, key="")).status == 200


async def test_a_complete_upload_takes_no_more_parts(desk: Desk):
    upload_url, parts = await parts_of(desk, [5])
    await desk.ask("POST", complete_url(upload_url), json={"parts": parts}, key="")
    path, query = upload_url.split("?")
    late = await desk.ask("PUT", f"{path}/1?{query}", b"other", key="")
    assert late.status == 400
    assert "complete" in late.json["detail"]
    assert (await desk.ask("GET", path, key="")).body == b"\1" * 5
    assert desk.bytes_on_disk() == 5


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([], 422),
        ([{"partNumber": 1}], 422),
        ([{"partNumber": "1", "etag": "x"}], 422),
        ([{"partNumber": 1, "etag": "not it"}], 400),
        ([{"partNumber": 2, "etag": "x"}], 400),
        ([{"partNumber": 0, "etag": "x"}], 422),
        (None, 422),
        ("all", 422),
    ],
)
async def test_completing_with_other_parts_than_were_sent_is_refused(desk: Desk, parts: object, status: int):
    upload_url, _ = await parts_of(desk, [5])
    done = await desk.ask("POST", complete_url(upload_url), json={"parts": parts}, key="")
    assert done.status == status
    assert (await desk.ask("GET", upload_url.split("?")[0], key="")).status == 404


async def test_a_part_named_twice_is_refused(desk: Desk):
    upload_url, parts = await parts_of(desk, [5])
    done = await desk.ask("POST", complete_url(upload_url), json={"parts": parts * 2}, key="")
    assert (done.status, done.json["detail"]) == (400, "a part is named twice")


@pytest.mark.parametrize("body", [b"", b"[", b"[1]", b"\xff", b'{"file_name": 5}', b"[" * 100_000])
async def test_a_body_that_is_no_wish_is_refused_or_empty(desk: Desk, body: bytes):
    begun = await desk.ask("POST", INITIATE, body)
    assert begun.status == (200 if not body else 422)
    if body:
        assert begun.json["detail"][0]["loc"][0] == "body"


@pytest.mark.parametrize("owners", [["me:secret"], []], ids=["a revoked key", "an open server"])
async def test_a_ticket_ends_with_the_key_that_asked_for_it(tmp_path: Path, owners: list[str]):
    before = Desk(tmp_path, owners)
    whole = (await before.ask("POST", INITIATE, json={"file_name": "a.png"})).json["upload_url"]
    parted, parts = await parts_of(before, [5])
    before.close()
    after = Desk(tmp_path, ["you:secret"])
    stored = after.bytes_on_disk()
    unknown = await after.ask("PUT", whole.split("?")[0] + "?upload=wrong", b"x", key="")
    assert unknown.status == 404
    assert await after.ask("PUT", whole, b"x", key="") == unknown
    assert await after.ask("PUT", "{}/2?{}".format(*parted.split("?")), b"x", key="") == unknown
    assert await after.ask("POST", complete_url(parted), json={"parts": parts}, key="") == unknown
    assert after.bytes_on_disk() == stored
    after.close()


# ---- Python ----


async def token_of(desk: Desk, key: str = "me:secret") -> str:
    answer = await desk.ask("POST", TOKEN, json={}, key=key)
    assert answer.status == 200
    assert answer.json["token_type"] == "Bearer"
    return f"Bearer {answer.json['token']}"


async def test_the_token_says_where_and_until_when(desk: Desk):
    answer = await desk.ask("POST", TOKEN, json={})
    assert answer.json["base_url"] == "http://storage.test"
    ends = datetime.fromisoformat(answer.json["expires_at"])
    assert ends == datetime.fromtimestamp(desk.clock.now + 3600, UTC)
    desk.clock.now = ends.timestamp() - 0.001  # fal-client uses it until then
    assert desk.tokens.check_upload(answer.json["token"]) == "me"


async def test_python_posts_the_file_with_its_token(desk: Desk):
    sent = await desk.ask(
        "POST",
        "/files/upload",
        b"\x89PNG",
        authorization=await token_of(desk),
        content_type="image/png",
        x_fal_file_name="a b.png",
    )
    assert sent.status == 200
    url = sent.json["access_url"]
    assert url.endswith("/a%20b.png")
    found = await desk.ask("GET", url, key="")
    assert (found.body, found.headers["content-type"]) == (b"\x89PNG", "image/png")


async def test_an_api_key_may_post_a_file_too(desk: Desk):
    for scheme in ("Key", "Bearer"):
        sent = await desk.ask("POST", "/files/upload", b"x", authorization=f"{scheme} me:secret")
        assert sent.status == 200
    assert (await desk.ask("POST", "/files/upload", b"x", key="")).status == 401
    assert (await desk.ask("POST", "/files/upload", b"x", authorization="Key me:wrong")).status == 401


async def test_python_sends_parts_in_any_order_and_names_them_with_their_quotes(desk: Desk):
    authorization = await token_of(desk)
    begun = await desk.ask(
        "POST",
        "/files/upload/multipart",
        b"",
        authorization=authorization,
        content_type="video/mp4",
        x_fal_file_name="v.mp4",
    )
    url, upload_id = begun.json["access_url"], begun.json["uploadId"]
    parts = []
    for number in (3, 1, 2):
        sent = await desk.ask(
            "PUT", f"{url}/multipart/{upload_id}/{number}", b"%d" % number * 4, authorization=authorization
        )
        assert sent.headers["etag"].startswith('"')
        parts.append({"partNumber": number, "etag": sent.headers["etag"]})
    done = await desk.ask(
        "POST", f"{url}/multipart/{upload_id}/complete", json={"parts": parts}, authorization=authorization
    )
    assert done.status == 200
    found = await desk.ask("GET", url, key="")
    assert (found.body, found.headers["content-type"]) == (b"111122223333", "video/mp4")


async def test_a_token_of_another_key_or_none_sends_no_parts(desk: Desk):
    begun = await desk.ask("POST", "/files/upload/multipart", b"", authorization=await token_of(desk))
    url = f"{begun.json['access_url']}/multipart/{begun.json['uploadId']}/1"
    assert (await desk.ask("PUT", url, b"x", authorization=await token_of(desk, "you:secret"))).status == 404
    assert (await desk.ask("PUT", url, b"x", key="")).status == 401
    assert (await desk.ask("PUT", url, b"x", authorization="Bearer forged")).status == 401


async def test_a_token_expires_and_a_token_for_sockets_is_none(desk: Desk):
    authorization = await token_of(desk)
    desk.clock.now += 3600
    assert (await desk.ask("POST", "/files/upload", b"x", authorization=authorization)).status == 401
    realtime = f"Bearer {desk.tokens.mint(['lcm'], 1000, 'me')}"
    assert (await desk.ask("POST", "/files/upload", b"x", authorization=realtime)).status == 401
    upload = desk.tokens.mint_upload("me", 1000)
    with pytest.raises(Unauthorized, match="not one of this server"):
        desk.tokens.check(upload, "fal-ai/lcm")


async def test_pythons_fallback_puts_with_its_key_in_the_header(desk: Desk):
    begun = await desk.ask(
        "POST",
        "/storage/upload/initiate?storage_type=gcs",
        json={"file_name": "u.bin", "content_type": "a/b"},
        x_fal_object_lifecycle='{"expiration_duration_seconds": 60}',
        x_fal_object_lifecycle_preference='{"expiration_duration_seconds": 60}',
    )
    sent = await desk.ask("PUT", begun.json["upload_url"], b"data", content_type="a/b")
    assert sent.status == 200
    assert (await desk.ask("GET", begun.json["file_url"], key="")).body == b"data"


# ---- wishes ----


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "{",
        "nonsense",
        '{"expiration_duration_seconds": "3600"}',
        '{"expiration_duration_seconds": -1}',
        '{"expiration_duration_seconds": true}',
        '{"expiration_duration_seconds": 1e300}',
        '{"expiration_duration_seconds": NaN}',
        '{"initial_acl": {"default": "maybe"}}',
        '{"initial_acl": {"rules": [{"user": "u"}]}}',
        "{}" + " " * 9000,
        json.dumps({"initial_acl": {"rules": [{"user": "u", "decision": "allow"}] * 65}}),
    ],
)
@pytest.mark.parametrize("where", [INITIATE, MULTIPART])
async def test_a_lifecycle_that_cannot_be_honoured_is_refused(desk: Desk, header: str, where: str):
    answer = await desk.ask("POST", where, json={}, x_fal_object_lifecycle=header)
    assert answer.status == 400
    assert answer.json["detail"].startswith("x-fal-object-lifecycle")


@pytest.mark.parametrize(
    "header", ["{}", '{"expiration_duration_seconds": null}', '{"initial_acl": null}', '{"later": "fields"}']
)
async def test_a_lifecycle_without_wishes_is_none(desk: Desk, header: str):
    assert (await desk.ask("POST", INITIATE, json={}, x_fal_object_lifecycle=header)).status == 200


# ---- our own use ----


async def test_what_is_kept_is_served_under_a_name_of_its_type(desk: Desk):
    path = await desk.storage.keep(b"jpeg", "image/jpeg", caller=Caller("me"))
    assert path.startswith("/files/")
    assert path.endswith(".jpeg")
    found = await desk.ask("GET", path, key="")
    assert (found.body, found.headers["content-type"]) == (b"jpeg", "image/jpeg")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "https://v3.fal.media",
        "http://127.0.0.1:8000",
        "https://example.com/behind/a/proxy",
        "http://localhost:8000/__h/v3.fal.media",
    ],
)
async def test_our_own_urls_are_opened_without_http_under_whatever_host(desk: Desk, prefix: str):
    path = urlsplit(await desk.upload(b"picture", name="a b.png")).path
    assert await desk.storage.content(prefix + path, Caller("you"), 1000) == b"picture"


async def test_urls_of_others_are_not_ours(desk: Desk):
    path = urlsplit(await desk.upload()).path
    others = [
        "https://a.example/x.png",
        "https://a.example" + path + "/x",
        "https://a.example/files/" + "0" * 32 + "/a.png",
    ]
    others += [
        "https://[",
        "",
        "/",
        "/files/",
        path.replace("/files/", "/other/"),
        "https://a.example/?u=" + path,
    ]
    for url in others:
        assert await desk.storage.content(url, Caller("me"), 1000) is None


async def test_files_outlive_the_server(desk: Desk, tmp_path: Path):
    url = await desk.upload(b"still here")
    again = Desk(tmp_path)
    assert (await again.ask("GET", url, key="")).body == b"still here"
    again.close()
