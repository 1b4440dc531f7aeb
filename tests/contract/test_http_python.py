"""run, queue, stream and storage as users of fal-client for Python call them, sync and async."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.contract.clients import ASYNC, PYTHON, SYNC, Client, Start, Version, every, reports
from tests.contract.frames import INPUT, data_uri, encoded
from tests.contract.test_http import shown, wish
from tests.contract.ways import WAYS
from tests.servers import serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

APP = "fal-ai/lcm"
ALL = [*WAYS, "run host"]  # the last has no way to storage: fal-client's hosts for it cannot be set


# ---- run ----


@every(PYTHON, ways=ALL, fixture="caller")
def test_run_answers_with_the_picture_at_a_url_or_in_the_answer(caller: Client) -> None:
    kept = caller.call("run", APP, arguments=wish()).answer()
    assert kept["images"][0]["url"].startswith("http")
    assert shown(caller, kept)
    inline = caller.call("run", APP, arguments=wish(sync_mode=True)).answer()
    assert inline["images"][0]["url"].startswith("data:image/jpeg;base64,")
    assert shown(caller, inline)


@every(PYTHON, ways=ALL, fixture="caller")
def test_run_takes_a_path_the_old_kind_of_id_and_hints(caller: Client) -> None:
    given = wish(image_url=INPUT, num_inference_steps=2, sync_mode=True)
    app = "fal-ai/fast-lcm-diffusion"
    assert shown(caller, caller.call("run", app, arguments=given, path="/image-to-image").answer())
    assert shown(caller, caller.call("run", "110602490-lcm", arguments=given, hint="lora:a").answer())
    assert shown(caller, caller.call("run", APP, arguments=given, start_timeout=30, timeout=20).answer())


@every(PYTHON, ways=ALL, fixture="caller")
def test_a_bad_field_is_an_http_error_that_names_it(caller: Client) -> None:
    error = caller.call("run", APP, arguments=wish(num_inference_steps=99)).failure()
    assert (error["kind"], error["status"]) == ("FalClientHTTPError", 422)
    assert error["body"]["detail"][0]["loc"] == ["body", "num_inference_steps"]


@every(PYTHON, ways=ALL, fixture="caller")
def test_an_app_nobody_serves_is_404(caller: Client) -> None:
    error = caller.call("run", "fal-ai/no-such-app", arguments=wish()).failure()
    assert (error["kind"], error["status"]) == ("FalClientHTTPError", 404)
    assert "no-such-app" in error["message"]


@pytest.mark.parametrize("version", PYTHON, ids=str)
def test_a_wrong_key_is_401_and_not_retried(version: Version, start: Start) -> None:
    error = start(version, "override", key="kid:wrong").call("run", APP, arguments=wish()).failure(seconds=3)
    assert (error["kind"], error["status"]) == ("FalClientHTTPError", 401)


# ---- the names fal-client turns to ----


@every(PYTHON, ways=["backup"], fixture="caller")
def test_where_the_names_of_fal_are_lost_their_substitutes_run_and_queue(caller: Client) -> None:
    assert shown(caller, caller.call("run", APP, arguments=wish(sync_mode=True)).answer())
    submit = caller.call("submit", APP, arguments=wish(sync_mode=True))
    assert submit.answer()["request_id"]
    assert shown(caller, caller.call(f"{submit.name}.get").answer())


# ---- queue ----


@every(PYTHON, ways=ALL, fixture="caller")
def test_subscribe_sees_the_request_through(caller: Client) -> None:
    call = caller.call(
        "subscribe",
        APP,
        arguments=wish(sync_mode=True),
        with_logs=True,
        on_enqueue=reports("enqueued"),
        on_queue_update=reports("update"),
    )
    assert shown(caller, call.answer())
    updates = call.reports("update")
    assert {update["kind"] for update in updates} <= {"Queued", "InProgress", "Completed"}
    assert updates[-1]["kind"] == "Completed"
    assert updates[-1]["logs"][0]["message"]
    assert updates[-1]["metrics"]["inference_time"] > 0
    assert len(call.reports("enqueued")) == 1


@every(PYTHON, ways=ALL, fixture="caller")
def test_submit_gives_a_handle_that_follows_its_request(caller: Client) -> None:
    submit = caller.call("submit", APP, arguments=wish(sync_mode=True), priority="low")
    handle = submit.answer()
    events = caller.call(f"{submit.name}.iter_events", with_logs=True)
    events.answer()
    kinds = [event["kind"] for event in events.reports("piece")]
    assert kinds[-1] == "Completed"
    assert kinds == sorted(kinds, key=["Queued", "InProgress", "Completed"].index)
    result = caller.call(f"{submit.name}.get").answer()
    assert shown(caller, result)
    assert caller.call("result", APP, handle["request_id"]).answer() == result
    assert caller.call(f"{submit.name}.status").answer()["logs"] is None
    status = caller.call("status", APP, handle["request_id"], with_logs=True).answer()
    assert (status["kind"], bool(status["logs"])) == ("Completed", True)
    again = caller.call("get_handle", APP, handle["request_id"]).answer()
    assert again == handle


@every(PYTHON, ways=ALL, fixture="caller")
def test_a_sub_path_is_submitted_and_its_result_found(caller: Client) -> None:
    given = wish(image_url=INPUT, num_inference_steps=2, sync_mode=True)
    submit = caller.call("submit", "fal-ai/fast-lcm-diffusion", arguments=given, path="/image-to-image")
    submit.answer()
    assert shown(caller, caller.call(f"{submit.name}.get").answer())


@every(PYTHON, ways=ALL, fixture="caller")
def test_a_failure_in_the_queue_is_raised_by_its_result(caller: Client) -> None:
    bad = wish(image_url=data_uri(b"not a picture"))
    submit = caller.call("submit", APP, arguments=bad)
    submit.answer()
    error = caller.call(f"{submit.name}.get").failure()
    assert (error["kind"], error["status"]) == ("FalClientHTTPError", 422)
    status = caller.call(f"{submit.name}.status").answer()
    assert (status["kind"], bool(status["error"]), bool(status["error_type"])) == ("Completed", True, True)


@every(PYTHON, fixture="caller")
def test_cancelling_what_is_done_is_an_error_and_what_nobody_made_is_404(caller: Client) -> None:
    submit = caller.call("submit", APP, arguments=wish())
    handle = submit.answer()
    caller.call(f"{submit.name}.get").answer()
    assert caller.call(f"{submit.name}.cancel").failure()["status"] == 400
    other = handle["request_id"][:-4] + "0000"
    assert caller.call("cancel", APP, other).failure()["status"] == 404
    assert caller.call("status", APP, other).failure()["status"] == 404


@pytest.mark.parametrize("version", PYTHON, ids=str)
def test_a_client_timeout_cancels_what_still_waits(version: Version, start: Start) -> None:
    with serve(model="fake:base_ms=200,row_ms=0,places=1", test_apps=True) as server:
        client = start(version, "override", server=server)
        first = client.call("submit", APP, arguments=wish(num_inference_steps=12))
        first.answer()
        call = client.call("subscribe", APP, arguments=wish(num_inference_steps=12), client_timeout=1.5)
        assert call.failure()["kind"] == "FalClientTimeoutError"
        client.call(f"{first.name}.cancel").answer()


# ---- stream ----


@every(PYTHON, ways=ALL, fixture="caller")
def test_stream_shows_previews_and_ends_with_the_output(caller: Client) -> None:
    call = caller.call("stream", APP, arguments=wish(num_inference_steps=4, sync_mode=True))
    call.answer()
    pieces = call.reports("piece")
    assert len(pieces) >= 2
    assert all(piece["images"][0]["url"].startswith("data:image/") for piece in pieces)
    assert shown(caller, pieces[-1])


@every(PYTHON, ways=ALL, fixture="caller")
def test_a_stream_of_words_is_a_stream_of_events(caller: Client) -> None:
    call = caller.call("stream", "fal-ai/any-llm", arguments={"model": "x", "prompt": "one two three"})
    call.answer()
    assert [piece["partial"] for piece in call.reports("piece")][-1] is False


# ---- storage ----


@every(PYTHON, fixture="caller")
def test_uploads_are_there_byte_for_byte(caller: Client, tmp_path: Path) -> None:
    content = os.urandom(3000)
    (tmp_path / "a größe.bin").write_bytes(content)
    for call, type in (
        (caller.call("upload", content, content_type="image/png"), "image/png"),
        (caller.call("upload", content, "text/plain", file_name="ünï code.txt"), "text/plain"),
        (caller.call("upload_file", str(tmp_path / "a größe.bin")), "application/octet-stream"),
    ):
        got = caller.call("get", call.answer()).answer()
        assert (got["status"], got["type"].partition(";")[0], got["bytes"]) == (200, type, content)


@every(PYTHON, fixture="caller")
def test_an_upload_can_be_drawn_over(caller: Client) -> None:
    image = encoded(Image.new("RGB", (96, 64), "blue"))
    url = caller.call("upload", image, content_type="image/png").answer()
    output = caller.call("run", "fal-ai/lcm-sd15-i2i", arguments=wish(image_url=url)).answer()
    assert (output["images"][0]["width"], output["images"][0]["height"]) == (96, 64)
    got = caller.call("get", output["images"][0]["url"]).answer()
    assert Image.open(io.BytesIO(got["bytes"])).size == (96, 64)


@every(PYTHON, fixture="caller")
def test_the_older_upload_repository_works_as_well(caller: Client) -> None:
    """What fal-client turns to when the CDN does not answer."""
    url = caller.call("upload", b"hello", "text/plain", repository="fal").answer()
    assert caller.call("get", url).answer()["bytes"] == b"hello"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("version", "way"), [(SYNC, "names"), (ASYNC, "override")], ids=str)
def test_a_file_above_100_mib_goes_in_parts(version: Version, way: str, start: Start, tmp_path: Path) -> None:
    client = start(version, way)
    content = bytes(range(256)) * (101 * 4096) + b"the end"
    (tmp_path / "large.bin").write_bytes(content)
    url = client.call("upload_file", str(tmp_path / "large.bin")).answer(seconds=240)
    got = client.call("get", url).answer(seconds=60)
    assert (got["size"], got["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
