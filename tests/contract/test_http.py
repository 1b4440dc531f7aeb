"""run, queue, stream and storage as users of fal's JavaScript clients call them, by every way to get here."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from engines.fake import colour_of
from tests.contract.clients import (
    BROWSER,
    LEGACY,
    V0_15,
    V0_15_BROWSER,
    V1_10,
    Client,
    Start,
    Version,
    every,
    reports,
)
from tests.contract.frames import INPUT, picture, png
from tests.contract.ways import KEY, ONE, PASSED_ON, PROXIES, WAYS
from tests.realtime.queue.test_webhooks import verified
from tests.servers import Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

APP = "fal-ai/lcm"
LARGE = 95 * 1024 * 1024  # bytes; above 90 MiB the clients send parts
CLIENTS = [V0_15, V1_10, BROWSER]
NO_STATUS = "fal's express proxy answers 200 whatever the status was: express.ts `sendResponse`"


def everywhere(
    versions: Iterable[Version] = CLIENTS, but: Mapping[str, str] | None = None, passed_on: bool = False
) -> pytest.MarkDecorator:
    """Every version directly, and where they take a `proxyUrl` (0.15 only in pages) through both proxies.

    passed_on: the newest through fal's for SvelteKit too, as with all that fal's for Express spoils.
    """
    direct = every(versions, ways=[way for way in WAYS if way not in (but or {})])
    proxied = every(
        [version for version in versions if version is not V0_15],
        ways=[way for way in PROXIES if way not in (but or {})],
    )
    spoilt = {*PROXIES} & {*(but or {})} == {"fal's proxy"}
    passing = every([V1_10], ways=[PASSED_ON] if passed_on or spoilt else [])
    callers = [*direct.args[1], *proxied.args[1], *passing.args[1]]
    return pytest.mark.parametrize("caller", callers, indirect=True)


def placed(*older: Version) -> pytest.MarkDecorator:
    """start(*place, ...): older ones and the newest directly, and the newest in a page by our proxy."""
    direct = every([*older, V1_10, BROWSER], ways=ONE)
    proxied = every([BROWSER], ways=["our proxy"])
    return pytest.mark.parametrize("place", [*direct.args[1], *proxied.args[1]])


def wish(**more: Any) -> dict[str, Any]:
    return {"prompt": "a red circle", "seed": 1, **more}


def file(content: bytes | int, name: str, type: str) -> dict[str, Any]:
    """A File of these bytes, or of so many."""
    return {"$file": content, "name": name, "type": type}


def data(caller: Client, answer: Any) -> Any:
    """The output: since 1.0 it comes with the id of its request."""
    if caller.version in (V0_15, V0_15_BROWSER):
        return answer
    assert set(answer) == {"data", "requestId"}
    assert len(answer["requestId"]) == 36
    return answer["data"]


def shown(caller: Client, output: Any, prompt: str = "a red circle", seed: int = 1) -> bool:
    """Can the user's program fetch the picture, and is it that of this prompt and seed?"""
    url = output["images"][0]["url"]
    if url.startswith("https:") or url.startswith("http:"):
        got = caller.call("get", url).answer()
        assert (got["status"], got["type"]) == (200, output["images"][0]["content_type"])
        output = {"images": [output["images"][0] | {"content": got["bytes"]}]}
    pixels = picture(output).getpixel((5, 5))
    assert isinstance(pixels, tuple)
    return all(abs(a - b) <= 4 for a, b in zip(pixels, colour_of(prompt, seed), strict=True))


# ---- run ----


@everywhere()
def test_run_answers_with_a_picture_at_a_url_anybody_can_fetch(caller: Client) -> None:
    output = data(caller, caller.call("run", APP, input=wish()).answer())
    assert output["seed"] == 1
    assert not output["images"][0]["url"].startswith("data:")
    assert shown(caller, output)


@everywhere()
def test_run_with_sync_mode_answers_with_the_picture_itself(caller: Client) -> None:
    output = data(caller, caller.call("run", APP, input=wish(sync_mode=True)).answer())
    assert output["images"][0]["url"].startswith("data:image/jpeg;base64,")
    assert shown(caller, output)


@everywhere()
def test_run_takes_a_sub_path_and_the_old_kind_of_id(caller: Client) -> None:
    for app in ("fal-ai/fast-lcm-diffusion/image-to-image", LEGACY, "110602490/lcm"):
        output = data(
            caller, caller.call("run", app, input=wish(image_url=INPUT, num_inference_steps=2)).answer()
        )
        assert shown(caller, output)


@every([V0_15], ways=WAYS, fixture="caller")
def test_run_takes_a_path_of_its_own(caller: Client) -> None:
    """An option that 1.0 took away."""
    given = wish(image_url=INPUT, num_inference_steps=2)
    output = caller.call("run", "fal-ai/fast-lcm-diffusion", input=given, path="/image-to-image").answer()
    assert shown(caller, output)


@everywhere()
def test_run_by_get_has_its_input_in_the_query(caller: Client) -> None:
    given = wish(num_inference_steps=2, sync_mode=True)
    output = data(caller, caller.call("run", APP, input=given, method="get").answer())
    assert (output["seed"], output["num_inference_steps"]) == (1, 2)
    assert shown(caller, output)


@everywhere(but={"fal's proxy": NO_STATUS})
def test_run_without_any_input_is_told_what_is_missing(caller: Client) -> None:
    error = caller.call("run", APP).failure()
    assert (error["kind"], error["status"], error["message"]) == (
        "ValidationError",
        422,
        "Unprocessable Entity",
    )
    assert [entry["loc"] for entry in error["body"]["detail"]] == [["body", "prompt"]]


@everywhere(but={"fal's proxy": NO_STATUS})
def test_a_field_out_of_bounds_is_a_validation_error_that_names_it(caller: Client) -> None:
    error = caller.call("run", APP, input=wish(num_inference_steps=99, strength="very")).failure()
    assert (error["kind"], error["status"]) == ("ValidationError", 422)
    fields = {entry["loc"][-1]: entry["type"] for entry in error["body"]["detail"]}
    assert fields == {"num_inference_steps": "less_than_equal", "strength": "float_parsing"}
    if caller.version is not V0_15:
        assert len(error["request_id"]) == 36


@everywhere(but={"fal's proxy": NO_STATUS})
def test_an_app_nobody_serves_is_404(caller: Client) -> None:
    error = caller.call("run", "fal-ai/no-such-app", input=wish()).failure()
    assert (error["kind"], error["status"]) == ("ApiError", 404)
    assert "no-such-app" in error["body"]["detail"]


@placed(V0_15)
def test_a_wrong_key_is_401_and_not_asked_again(
    place: tuple[Version, str], plain_server: Server, start: Start
) -> None:
    client = start(*place, key="kid:wrong")
    before = plain_server.metric("realtime_http_requests_total", status="401")
    error = client.call("run", APP, input=wish()).failure()
    assert (error["kind"], error["status"], error["message"]) == ("ApiError", 401, "Unauthorized")
    assert plain_server.metric("realtime_http_requests_total", status="401") == before + 1


@everywhere()
def test_files_in_the_input_are_uploaded_and_used(caller: Client) -> None:
    """`transformInput`: a File anywhere in the input becomes the URL of an upload."""
    image = file(png(), "a b.png", "image/png")
    output = data(caller, caller.call("run", "fal-ai/lcm-sd15-i2i", input=wish(image_url=image)).answer())
    assert (output["images"][0]["width"], output["images"][0]["height"]) == (64, 64)
    assert shown(caller, output)


@everywhere(but={"fal's proxy": NO_STATUS})
def test_bytes_in_json_are_taken_as_a_picture_or_refused_but_never_a_crash(caller: Client) -> None:
    """JSON.stringify makes {"0": 137, ...} of a Uint8Array."""
    call = caller.call("run", "fal-ai/fast-lcm-diffusion/image-to-image", input=wish(image_bytes=b"\x89PNG"))
    assert call.failure()["status"] == 422


# ---- queue ----


@everywhere()
def test_subscribe_by_polling_sees_the_request_through(caller: Client) -> None:
    call = caller.call(
        "subscribe",
        APP,
        input=wish(),
        logs=True,
        pollInterval=100,
        onQueueUpdate=reports("update"),
        onEnqueue=reports("enqueued"),
    )
    output = data(caller, call.answer())
    assert shown(caller, output)
    updates = call.reports("update")
    assert {update["status"] for update in updates} <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}
    assert updates[-1]["status"] == "COMPLETED"
    assert any("steps" in line["message"] for line in updates[-1]["logs"]), updates[-1]["logs"]
    assert updates[-1]["metrics"]["inference_time"] > 0
    (request_id,) = call.reports("enqueued")
    assert {update["request_id"] for update in updates} == {request_id}


@everywhere(passed_on=True)
def test_subscribe_by_streaming_sees_each_log_line_once(caller: Client) -> None:
    call = caller.call(
        "subscribe", APP, input=wish(), logs=True, mode="streaming", onQueueUpdate=reports("update")
    )
    assert shown(caller, data(caller, call.answer()))
    updates = call.reports("update")
    assert updates[-1]["status"] == "COMPLETED"
    lines = [line["message"] for line in updates[-1]["logs"]]
    assert lines
    assert len(lines) == len(set(lines))


@everywhere()
def test_submit_status_and_result_are_one_request(caller: Client) -> None:
    submitted = caller.call("queue.submit", APP, input=wish()).answer()
    assert submitted["status"] == "IN_QUEUE"
    at = {"requestId": submitted["request_id"]}
    status = completed(caller, APP, at["requestId"])
    assert status["logs"]
    assert caller.call("queue.status", APP, **at).answer()["logs"] is None
    results = [caller.call("queue.result", APP, **at).answer() for _ in range(2)]
    assert results[0] == results[1]
    assert shown(caller, data(caller, results[0]))
    if caller.version is not V0_15:
        assert results[0]["requestId"] == submitted["request_id"]


def completed(caller: Client, app: str, request_id: str) -> Any:
    for _ in range(100):
        status = caller.call("queue.status", app, requestId=request_id, logs=True).answer()
        if status["status"] == "COMPLETED":
            return status
        caller.settle(after_ms=50)
    raise AssertionError(f"never completed: {status}")


@everywhere()
def test_a_sub_path_is_submitted_and_found_without_it(caller: Client) -> None:
    app = "fal-ai/fast-lcm-diffusion/image-to-image"
    given = wish(image_url=INPUT, num_inference_steps=2)
    request_id = caller.call("queue.submit", app, input=given).answer()["request_id"]
    completed(caller, app, request_id)
    output = data(caller, caller.call("queue.result", app, requestId=request_id).answer())
    assert shown(caller, output)


@everywhere()
def test_stream_status_ends_when_the_request_is_done(caller: Client) -> None:
    request_id = caller.call("queue.submit", APP, input=wish()).answer()["request_id"]
    call = caller.call("queue.streamStatus", APP, requestId=request_id, logs=True)
    last = call.answer()
    assert (last["status"], last["request_id"]) == ("COMPLETED", request_id)


@everywhere([V1_10, BROWSER], but=dict.fromkeys(PROXIES, "a token stream goes directly to fal.run"))
def test_stream_status_with_a_token_instead_of_a_key(caller: Client) -> None:
    request_id = caller.call("queue.submit", APP, input=wish()).answer()["request_id"]
    call = caller.call("queue.streamStatus", APP, requestId=request_id, connectionMode="client")
    assert call.answer()["status"] == "COMPLETED"


@everywhere(but={"fal's proxy": NO_STATUS})
def test_a_failure_in_the_queue_is_completed_and_its_result_is_the_error(caller: Client) -> None:
    bad = wish(image_url="data:image/png;base64,bm8gcGljdHVyZQ==")
    request_id = caller.call("queue.submit", APP, input=bad).answer()["request_id"]
    status = completed(caller, APP, request_id)
    assert status["error"]
    assert status["error_type"]
    error = caller.call("queue.result", APP, requestId=request_id).failure()
    assert (error["kind"], error["status"]) == ("ValidationError", 422)
    assert error["body"]["detail"][0]["loc"][-1] == "image_url"
    call = caller.call("subscribe", APP, input=bad, pollInterval=100)
    assert call.failure()["status"] == 422


@everywhere(but={"fal's proxy": NO_STATUS})
def test_a_request_nobody_made_is_404(caller: Client) -> None:
    for method in ("status", "result", "cancel"):
        error = caller.call(
            f"queue.{method}", APP, requestId="00000000-0000-4000-8000-000000000000"
        ).failure()
        assert (error["kind"], error["status"]) == ("ApiError", 404)
        assert error["body"]["status"] == "NOT_FOUND"


@everywhere(but={"fal's proxy": NO_STATUS})
def test_a_request_that_is_done_cannot_be_cancelled(caller: Client) -> None:
    request_id = caller.call("queue.submit", APP, input=wish()).answer()["request_id"]
    completed(caller, APP, request_id)
    error = caller.call("queue.cancel", APP, requestId=request_id).failure()
    assert (error["status"], error["body"]["status"]) == (400, "ALREADY_COMPLETED")


class Told:
    """Webhook calls by request, as they came: headers, body."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[dict[str, str], bytes]] = {}
        self.news = threading.Condition()
        told = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(204)
                self.end_headers()
                with told.news:
                    told.calls[headers["x-fal-webhook-request-id"]] = headers, body
                    told.news.notify_all()

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self.server.server_port}/told?by=us"

    def of(self, request_id: str) -> tuple[dict[str, str], bytes]:
        with self.news:
            assert self.news.wait_for(lambda: request_id in self.calls, 10), "nobody was told"
            return self.calls[request_id]


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    told = Told()
    thread = threading.Thread(target=told.server.serve_forever)
    thread.start()
    yield told
    told.server.shutdown()
    thread.join()
    told.server.server_close()


@everywhere()
def test_a_webhook_is_told_how_it_ended_and_signed_as_fal_signs(
    caller: Client, told: Told, plain_server: Server, tls_server: Server
) -> None:
    given = wish(sync_mode=True)
    submitted = caller.call("queue.submit", APP, input=given, webhookUrl=told.url, priority="low").answer()
    headers, body = told.of(submitted["request_id"])
    said = json.loads(body)
    assert (said["status"], said["request_id"]) == ("OK", submitted["request_id"])
    assert shown(caller, said["payload"])
    published = [json.loads(server.get("/.well-known/jwks.json")[1]) for server in (plain_server, tls_server)]
    assert any(verified(headers, body, jwks) for jwks in published)
    assert not any(verified(headers, body + b" ", jwks) for jwks in published)


# ---- 0.15 in a page ----


@every([V0_15_BROWSER], ways=PROXIES, fixture="caller")
def test_a_page_of_0_15_runs_and_subscribes_by_proxy(caller: Client) -> None:
    """Only there does it take a `proxyUrl`."""
    assert shown(caller, data(caller, caller.call("run", APP, input=wish()).answer()))
    call = caller.call("subscribe", APP, input=wish(), pollInterval=100, onQueueUpdate=reports("update"))
    assert shown(caller, data(caller, call.answer()))
    assert call.reports("update")[-1]["status"] == "COMPLETED"


@every([V0_15_BROWSER], ways=["our proxy"], fixture="caller")
def test_a_page_of_0_15_uploads_by_our_proxy(caller: Client) -> None:
    """fal's own lets nobody upload by rest.alpha.fal.ai: config.ts `DEFAULT_ALLOWED_URL_PATTERNS`."""
    image = file(png(), "a b.png", "image/png")
    output = data(caller, caller.call("run", "fal-ai/lcm-sd15-i2i", input=wish(image_url=image)).answer())
    assert shown(caller, output)


# ---- stream ----


@everywhere(passed_on=True)
def test_stream_shows_previews_and_ends_with_the_output(caller: Client) -> None:
    call = caller.call("stream", APP, input=wish(num_inference_steps=4))
    done = call.answer()
    assert shown(caller, done)
    pieces = call.reports("piece")
    assert len(pieces) >= (1 if caller.version is V0_15 else 2)  # 0.15 may lose what is buffered at the end
    assert all(piece["images"][0]["url"] for piece in pieces)
    assert pieces[-1] == done or caller.version is V0_15


@everywhere(but=dict.fromkeys(PROXIES, "a token stream goes directly to fal.run"))
def test_stream_with_a_token_instead_of_a_key(caller: Client) -> None:
    call = caller.call("stream", APP, input=wish(), connectionMode="client")
    assert shown(caller, call.answer())
    assert caller.wait("token")["status"] == 200


@everywhere(but={"fal's proxy": NO_STATUS})
def test_a_stream_that_cannot_begin_is_a_plain_error(caller: Client) -> None:
    error = caller.call("stream", APP, input=wish(num_inference_steps=99)).failure()
    assert (error["kind"], error["status"]) == ("ValidationError", 422)


@everywhere()
def test_a_stream_of_words_is_a_stream_of_events(caller: Client) -> None:
    """What fal's own test suite streams, served for such tests only."""
    call = caller.call("stream", "fal-ai/any-llm", input={"model": "x", "prompt": "one two three"})
    assert call.answer()["partial"] is False
    assert all(piece["partial"] for piece in call.reports("piece")[:-1])


# ---- storage ----


def sha(size: int) -> str:
    """Of what `pattern(size)` in control.js makes."""
    i = np.arange(size, dtype=np.int64)
    return hashlib.sha256(((i * 31) ^ (i >> 8)).astype(np.uint8).tobytes()).hexdigest()


@everywhere()
@pytest.mark.parametrize("name", ["a b.png", "größe.bin", "100%.txt"])
def test_an_upload_is_there_byte_for_byte_with_its_type(caller: Client, name: str) -> None:
    url = caller.call("storage.upload", file(3000, name, "image/png")).answer()
    assert " " not in url
    got = caller.call("get", url).answer()
    assert (got["status"], got["type"]) == (200, "image/png")
    assert got["sha256"] == sha(3000)


@everywhere()
def test_a_blob_without_a_name_and_an_empty_file_are_taken(caller: Client) -> None:
    for given, length in (({"$blob": "hello"}, 5), (file(0, "empty", "text/plain"), 0)):
        url = caller.call("storage.upload", given).answer()
        assert len(caller.call("get", url).answer()["bytes"] or b"") == length


@everywhere([V1_10, BROWSER])
def test_an_upload_may_ask_for_an_end(caller: Client) -> None:
    given = file(10, "x.bin", "application/octet-stream")
    url = caller.call("storage.upload", given, lifecycle={"expiresIn": "1h"}).answer()
    assert caller.call("get", url).answer()["status"] == 200


@everywhere()
def test_an_uploaded_picture_can_be_drawn_over(caller: Client) -> None:
    url = caller.call("storage.upload", file(png(), "x.png", "image/png")).answer()
    output = data(caller, caller.call("run", "fal-ai/lcm-sd15-i2i", input=wish(image_url=url)).answer())
    assert (output["images"][0]["width"], output["images"][0]["height"]) == (64, 64)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "caller",
    [  # half a gigabyte as it is: versions and ways once each; fal's Express proxy lets no such upload begin
        *every([V0_15], ways=["names"]).args[1],
        *every([V1_10], ways=["override", PASSED_ON]).args[1],
        *every([BROWSER], ways=["names", "our proxy"]).args[1],
    ],
    indirect=True,
)
def test_a_file_of_95_mib_goes_in_parts(caller: Client) -> None:
    url = caller.call("storage.upload", file(LARGE, "large.bin", "application/octet-stream")).answer(240)
    got = caller.call("get", url).answer(60)
    assert (got["size"], got["sha256"]) == (LARGE, sha(LARGE))


# ---- a server that is slow, or full ----


@pytest.fixture(scope="module")
def slow_server() -> Iterator[Server]:
    """Draws a step in 0.3 s; takes one run at a time, and one request from the queue."""
    slow = "fake:base_ms=300,row_ms=0,vae_ms=1,places=1"
    with serve(model=slow, keys=[KEY], proxy_key=KEY, max_runs=1, queue_at_once=1) as server:
        yield server


@placed()
def test_a_server_that_is_full_for_a_moment_is_asked_again(
    place: tuple[Version, str], slow_server: Server, start: Start
) -> None:
    """By 1.6 and later, half a second later and then more; before, the caller had to."""
    client = start(*place, server=slow_server)
    old = start(V0_15, "override", server=slow_server)
    first = client.call("run", APP, input=wish(num_inference_steps=3))
    client.settle(after_ms=200)
    before = slow_server.metric("realtime_http_requests_total", status="429")
    error = old.call("run", APP, input=wish(num_inference_steps=1)).failure()
    assert (error["kind"], error["status"]) == ("ApiError", 429)
    second = client.call("run", APP, input=wish(num_inference_steps=1))
    assert shown(client, data(client, second.answer()))
    assert shown(client, data(client, first.answer()))
    assert slow_server.metric("realtime_http_requests_total", status="429") >= before + 2


@pytest.fixture(scope="module")
def loading_server() -> Iterator[Server]:
    """Will not be done with loading while these tests run."""
    with serve(ready=False, model="fake:load_s=600", keys=[KEY], proxy_key=KEY) as server:
        yield server


@placed()
def test_what_did_not_begin_in_the_time_given_is_504_and_not_asked_again(
    place: tuple[Version, str], loading_server: Server, start: Start
) -> None:
    client = start(*place, server=loading_server)
    before = loading_server.metric("realtime_http_requests_total", status="504")
    error = client.call("run", APP, input=wish(), startTimeout=1.5).failure()
    assert (error["kind"], error["status"]) == ("ApiError", 504)
    assert error["body"]["error_type"] == "request_timeout"
    assert loading_server.metric("realtime_http_requests_total", status="504") == before + 1


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """Takes next to nothing and gives a run half a second."""
    limits = {"max_frame_bytes": 2000, "key_stored_bytes": 1, "run_s": 0.5}
    with serve(model="fake:base_ms=100,row_ms=0", keys=[KEY], proxy_key=KEY, **limits) as server:
        yield server


@placed(V0_15)
@pytest.mark.parametrize(
    ("more", "status", "error_type"),
    [
        ({"prompt": "x" * 3000}, 413, "request_too_large"),
        ({"num_inference_steps": 12}, 504, "generation_timeout"),
        ({"num_inference_steps": 1}, 507, "insufficient_storage"),
    ],
)
def test_what_a_repetition_would_not_heal_is_said_once_with_its_code_and_word(
    place: tuple[Version, str],
    strict_server: Server,
    start: Start,
    more: dict[str, Any],
    status: int,
    error_type: str,
) -> None:
    client = start(*place, server=strict_server)
    before = strict_server.metric("realtime_http_requests_total", status=str(status))
    error = client.call("run", APP, input=wish(**more)).failure()
    assert (error["kind"], error["status"]) == ("ApiError", status)
    assert error["body"]["error_type"] == error_type
    assert error["body"]["detail"]
    assert strict_server.metric("realtime_http_requests_total", status=str(status)) == before + 1


@pytest.mark.parametrize(
    ("method", "places"),
    [
        pytest.param("run", [(V0_15, "override")], marks=pytest.mark.node),
        # The newest asks for a run four times, and by then the server is gone; for a stream it asks once.
        pytest.param("stream", [(BROWSER, "override"), (BROWSER, "our proxy")], marks=pytest.mark.browser),
    ],
    ids=["0.15", "pages"],
)
def test_a_server_that_goes_down_answers_its_runs_and_is_503_for_others(
    method: str, places: list[tuple[Version, str]], start: Start
) -> None:
    with serve(model="fake:base_ms=300,row_ms=0", keys=[KEY], proxy_key=KEY) as server:
        clients = [start(*place, server=server) for place in places]
        first = clients[0].call("run", APP, input=wish(num_inference_steps=12, sync_mode=True))
        clients[0].settle(after_ms=500)
        server.process.terminate()
        clients[0].settle(after_ms=300)
        for client in clients:
            error = client.call(method, APP, input=wish()).failure()
            assert (error["status"], error["body"]["error_type"]) == (503, "runner_scheduling_failure")
        assert shown(clients[0], data(clients[0], first.answer()))


@placed(V0_15)
def test_a_request_that_waits_or_runs_can_be_cancelled(
    place: tuple[Version, str], slow_server: Server, start: Start
) -> None:
    client = start(*place, server=slow_server)
    given = wish(num_inference_steps=12)
    ids = [client.call("queue.submit", APP, input=given).answer()["request_id"] for _ in range(2)]
    waiting = client.call("queue.status", APP, requestId=ids[1]).answer()
    assert (waiting["status"], waiting["queue_position"]) in [("IN_QUEUE", 0), ("IN_QUEUE", 1)]
    for request_id in reversed(ids):
        client.call("queue.cancel", APP, requestId=request_id).answer()
    for request_id in ids:
        status = completed(client, APP, request_id)
        assert status["error"]
        assert client.call("queue.result", APP, requestId=request_id).failure()["status"] >= 400


@pytest.mark.node
def test_a_subscription_that_takes_too_long_cancels_its_request(slow_server: Server, start: Start) -> None:
    """By polling: in streaming mode 1.10 throws from a timer, where no caller can catch it."""
    client = start(V1_10, "override", server=slow_server)
    given = wish(num_inference_steps=12)
    call = client.call("subscribe", APP, input=given, timeout=800, onEnqueue=reports("enqueued"))
    call.failure()
    assert completed(client, APP, call.report("enqueued"))["error"]


@pytest.mark.node
@pytest.mark.parametrize("method", ["run", "stream"])
def test_a_user_who_leaves_gives_the_engine_back(method: str, slow_server: Server, start: Start) -> None:
    client = start(V1_10, "override", server=slow_server)
    leaves = {"abortSignal" if method == "run" else "signal": {"$abort_after": 500}}
    call = client.call(method, APP, input=wish(num_inference_steps=12), **leaves)
    if method == "run":  # an aborted stream of 1.10 says nothing any more
        call.failure(seconds=3)
    client.settle(after_ms=700)
    client.call("run", APP, input=wish(num_inference_steps=1)).answer()  # the only run this server takes
    until = time.monotonic() + 10  # the engine tells its figures every two seconds
    while slow_server.metric("realtime_engine_requests", state="running"):
        assert time.monotonic() < until
        time.sleep(0.05)
