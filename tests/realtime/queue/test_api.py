"""queue.fal.run, byte by byte: what fal's clients send and what they read."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from realtime.queue.api import Route, app_of, route
from realtime.queue.ledger import Ledger
from tests.servers import KEY, Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

PREFIX = "/__h/queue.fal.run"
SMALL: dict[str, Any] = {"image_size": {"width": 64, "height": 64}, "seed": 1, "sync_mode": True}
SLOW = SMALL | {"prompt": "!slow 1.0"}


@dataclass
class Queue:
    """One app's queue as a client without DNS tricks reaches it."""

    server: Server
    app: str = "fal-ai/lcm"
    key: str = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Message, Any]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key:
            given["Authorization"] = f"Key {self.key}"
        status, said, data = self.server.ask(method, f"{PREFIX}/{self.app}{path}", body, given)
        return status, said, json.loads(data) if "json" in said["content-type"] else data

    def submit(self, body: Any = None, path: str = "", **headers: str) -> str:
        given = {"prompt": "a fox", **SMALL} if body is None else body
        status, _, said = self.ask("POST", path, given, **headers)
        assert status == 200, said
        return str(said["request_id"])

    def status(self, id: str, logs: str = "") -> tuple[int, dict[str, Any]]:
        status, _, said = self.ask("GET", f"/requests/{id}/status{'?logs=' * bool(logs)}{logs}")
        return status, said

    def wait(self, id: str, state: str = "COMPLETED", seconds: float = 10.0) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while (said := self.status(id, "1")[1])["status"] != state:
            assert time.monotonic() < until, said
            time.sleep(0.02)
        return said

    def events(self, id: str, logs: str = "1") -> list[dict[str, Any]]:
        status, headers, data = self.ask("GET", f"/requests/{id}/status/stream?logs={logs}")
        assert status == 200
        assert headers["content-type"].startswith("text/event-stream")
        lines = [line for line in data.decode().split("\n\n") if line and not line.startswith(":")]
        assert all(line.startswith("data: ") for line in lines)
        return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.fixture
def queue(server: Server) -> Queue:
    return Queue(server)


@pytest.fixture(scope="module")
def one_at_a_time() -> Iterator[Queue]:
    """A server that draws one queued request at a time, so that others wait."""
    with serve(queue_at_once=1, queue_max=6) as server:
        yield Queue(server)


@pytest.fixture
def busy(one_at_a_time: Queue) -> Iterator[Queue]:
    """The same while it draws one that takes a second."""
    blocker = one_at_a_time.submit(SLOW)
    one_at_a_time.wait(blocker, "IN_PROGRESS")
    yield one_at_a_time
    one_at_a_time.wait(blocker)
    until = time.monotonic() + 10
    while one_at_a_time.ask("POST", "?fal_max_queue_length=0", {})[0] != 429 and time.monotonic() < until:
        time.sleep(0.02)


# ---- paths ----


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/fal-ai/lcm/requests/x", Route("fal-ai/lcm", "x", "result")),
        ("/fal-ai/lcm/requests/x/", Route("fal-ai/lcm", "x", "result")),
        ("/fal-ai/lcm/requests/x/response", Route("fal-ai/lcm", "x", "result")),
        ("/fal-ai/lcm/requests/x/status/", Route("fal-ai/lcm", "x", "status")),
        ("/fal-ai/lcm/requests/x/status/stream", Route("fal-ai/lcm", "x", "stream")),
        ("/fal-ai/lcm/requests/x/cancel", Route("fal-ai/lcm", "x", "cancel")),
        ("/workflows/me/mine/requests/x", Route("workflows/me/mine", "x", "result")),
        ("/fal-ai/lcm", None),
        ("/requests/x", None),
        ("/fal-ai/lcm/requests", None),
        ("/fal-ai/lcm/requests/x/else", None),
        ("/fal-ai/lcm/requests/x/status/else", None),
    ],
)
def test_a_path_names_a_part_of_a_request(path: str, expected: Route | None):
    assert route(path) == expected


def test_the_sub_path_of_a_submit_is_not_in_its_urls():
    assert app_of("fal-ai/lcm/image-to-image") == "fal-ai/lcm"
    assert app_of("workflows/me/mine/deep") == "workflows/me/mine"
    assert app_of("110602490/lcm") == "110602490/lcm"


# ---- from submit to result ----


def test_a_submit_is_answered_with_its_id_place_and_urls(queue: Queue):
    status, headers, said = queue.ask("POST", "", {"prompt": "a fox", **SMALL})
    id = said["request_id"]
    url = f"{queue.server.url}{PREFIX}/fal-ai/lcm/requests/{id}"
    assert status == 200
    assert headers["x-fal-request-id"] == id
    assert said == {
        "status": "IN_QUEUE",
        "request_id": id,
        "gateway_request_id": id,
        "response_url": url,
        "status_url": f"{url}/status",
        "cancel_url": f"{url}/cancel",
        "queue_position": 0,
        "logs": None,
        "metrics": {},
    }


def test_a_request_is_followed_to_its_result_which_stays_the_same(queue: Queue):
    id = queue.submit()
    done = queue.wait(id)
    assert queue.status(id)[0] == 200
    assert done["metrics"]["inference_time"] > 0
    assert "error" not in done
    status, headers, result = queue.ask("GET", f"/requests/{id}")
    assert status == 200
    assert headers["x-fal-request-id"] == id
    assert headers["content-type"] == "application/json"
    assert result["images"][0]["url"].startswith("data:image/")
    assert result["seed"] == 1
    assert {"receive", "decode", "prepare", "queue", "encode"} <= result["timings"].keys()
    assert result["timings"]["receive"] == 0, "its body was there when it was taken up"
    for path in ("/", "/response", "/response/"):
        assert queue.ask("GET", f"/requests/{id}{path}")[2] == result


def test_the_hosts_of_fal_name_the_same_queue_and_lead_back_to_it(server: Server):
    status, _, data = server.ask(
        "POST", "/fal-ai/lcm/text-to-image", {"prompt": "a fox", **SMALL}, {"Host": "queue.fal.run"}
    )
    said = json.loads(data)
    assert status == 200
    assert said["status_url"] == f"https://queue.fal.run/fal-ai/lcm/requests/{said['request_id']}/status"
    path = urlsplit(said["status_url"]).path
    assert server.ask("GET", path, headers={"Host": "queue.fal.run"})[0] in (200, 202)
    assert server.ask("GET", path)[0] in (200, 202), "under our own name the path says it all"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?fal_max_queue_length=100", {}),
        ("", {"x-fal-queue-priority": "normal"}),
        ("?fal_webhook=http%3A%2F%2F93.184.216.34%2F", {}),
    ],
)
def test_under_our_own_name_a_client_that_speaks_of_a_queue_gets_one(
    server: Server, query: str, headers: dict[str, str]
):
    status, _, data = server.ask("POST", f"/fal-ai/lcm{query}", {"prompt": "a fox", **SMALL}, headers)
    assert (status, json.loads(data)["status"]) == (200, "IN_QUEUE")
    status, _, data = server.ask("POST", "/fal-ai/lcm", {"prompt": "a fox", **SMALL})
    assert (status, "images" in json.loads(data)) == (200, True), "else it is a run"


def test_what_an_app_refuses_is_the_result_with_its_own_status(queue: Queue):
    id = queue.submit({"num_inference_steps": 99})
    done = queue.wait(id)
    assert done["error"] == "Invalid status code: 422"
    assert done["error_type"] == "validation_error"
    status, headers, result = queue.ask("GET", f"/requests/{id}")
    assert status == 422
    assert {entry["loc"][1] for entry in result["detail"]} == {"num_inference_steps", "prompt"} or (
        result["detail"][0]["loc"] == ["body", "num_inference_steps"]
    )
    assert headers["x-fal-request-id"] == id
    assert headers["x-fal-error-type"] == "validation_error"


def test_a_result_that_is_not_there_yet_is_a_400(busy: Queue):
    id = busy.submit()
    status, headers, said = busy.ask("GET", f"/requests/{id}")
    assert (status, said["detail"]) == (400, "Request is still in progress")
    assert headers["x-fal-request-id"] == id


def test_an_unknown_request_is_a_404_everywhere(queue: Queue):
    for method, part in (("GET", ""), ("GET", "/status"), ("GET", "/status/stream"), ("PUT", "/cancel")):
        status, _, said = queue.ask(method, f"/requests/00000000-0000-4000-8000-000000000000{part}")
        assert (status, said["status"]) == (404, "NOT_FOUND")
        assert said["detail"]


def test_an_unknown_app_is_a_404_at_once(server: Server):
    status, headers, said = Queue(server, "fal-ai/nothing").ask("POST", "", {})
    assert (status, said["detail"]) == (404, 'Application "fal-ai/nothing" not found')
    assert headers["x-fal-error-type"] == "not_found"


@pytest.mark.parametrize("body", [b"", b"{}", b" "], ids=["nothing", "empty", "blank"])
def test_no_input_is_an_empty_one(server: Server, body: bytes):
    there = http.client.HTTPConnection(server.host, server.port, timeout=5)
    there.request("POST", f"{PREFIX}/fal-ai/lcm", body)
    answer = there.getresponse()
    id = json.loads(answer.read())["request_id"]
    there.close()
    assert answer.status == 200
    assert Queue(server).wait(id)["error_type"] == "validation_error", "lcm needs a prompt"


@pytest.mark.parametrize("body", [b"[]", b"no", b'"x"', b'{"a":', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused_at_once(server: Server, body: bytes):
    there = http.client.HTTPConnection(server.host, server.port, timeout=5)
    there.request("POST", f"{PREFIX}/fal-ai/lcm", body)
    answer = there.getresponse()
    assert answer.status == 422
    assert json.loads(answer.read())["detail"]
    there.close()


def test_text_that_is_no_unicode_is_refused_at_once(queue: Queue):
    status, _, said = queue.ask("POST", "", {"prompt": "half \ud800 a pair", **SMALL})
    assert status == 422
    assert "surrogate" in said["detail"][0]["msg"]


@pytest.mark.parametrize("part", ["", "/status", "/status/stream", "/cancel"])
@pytest.mark.parametrize("id", ["x", "%F0%A5%88%BD", "%00", "%0D%0Ax-evil:%201", "a" * 5000])
def test_an_id_that_is_none_is_404_whatever_it_is(queue: Queue, id: str, part: str):
    """It cannot even be said back in a header."""
    status, headers, said = queue.ask("PUT" if part == "/cancel" else "GET", f"/requests/{id}{part}")
    assert (status, said["status"], said["error_type"]) == (404, "NOT_FOUND", "not_found")
    assert len(headers["x-fal-request-id"]) == 36
    assert "x-evil" not in headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", ""), ("PUT", ""), ("DELETE", "")),
        *(("POST", "/requests/x/status"), ("POST", "/requests/x"), ("GET", "/requests/x/cancel")),
    ],
)
def test_another_method_is_a_405(queue: Queue, method: str, path: str):
    status, headers, said = queue.ask(method, path)
    assert (status, said["detail"]) == (405, "Method Not Allowed")
    assert headers["x-fal-error-type"] == "method_not_allowed"
    assert headers["allow"]


# ---- waiting ----


def test_positions_count_who_is_before_and_low_priority_waits_for_the_others(busy: Queue):
    low = busy.submit(x_fal_queue_priority="low")
    first, second = busy.submit(x_fal_queue_priority="normal"), busy.submit()
    status, said = busy.status(first)
    assert status == 202
    assert said["status"] == "IN_QUEUE"
    assert said["logs"] is None
    assert said["metrics"] == {}
    assert [busy.status(id)[1]["queue_position"] for id in (first, second, low)] == [0, 1, 2]
    busy.wait(low)
    assert busy.status(second)[0] == 200


@pytest.mark.parametrize("name", ["x_fal_request_timeout", "X_Fal_Request_Start_Timeout"])
def test_a_start_timeout_ends_a_request_that_nobody_began(busy: Queue, name: str):
    id = busy.submit(**{name: "0.2"})
    done = busy.wait(id)
    assert done["error_type"] == "request_timeout"
    status, headers, said = busy.ask("GET", f"/requests/{id}")
    assert status == 504
    assert headers["x-fal-request-timeout-type"] == "user", "or fal's clients would try it again"
    assert said["error_type"] == "request_timeout"


def test_a_start_timeout_does_not_end_what_was_begun(queue: Queue):
    id = queue.submit(SLOW, x_fal_request_timeout="0.9")
    assert "error" not in queue.wait(id)


def test_a_queue_that_is_longer_than_the_client_wishes_is_a_429(busy: Queue):
    assert busy.ask("POST", "?fal_max_queue_length=1", {"prompt": "a fox", **SMALL})[0] == 200
    status, headers, said = busy.ask("POST", "?fal_max_queue_length=1", {"prompt": "a fox", **SMALL})
    assert (status, said["error_type"]) == (429, "concurrent_requests_limit")
    assert "fal_max_queue_length" in said["detail"]
    assert headers["x-fal-needs-retry"] == "1"


def test_a_full_queue_is_a_429(busy: Queue):
    said = [busy.ask("POST", "", {"prompt": f"fox {n}", **SMALL})[0::2] for n in range(7)]
    assert [status for status, _ in said] == [200] * 6 + [429]
    assert said[-1][1]["detail"] == "6 requests wait, the most this queue takes"


@pytest.mark.parametrize(
    ("path", "headers", "field"),
    [
        ("?fal_max_queue_length=many", {}, "fal_max_queue_length"),
        ("?fal_max_queue_length=-1", {}, "fal_max_queue_length"),
        ("?fal_webhook=ftp%3A%2F%2Fexample.com", {}, "fal_webhook"),
        ("?fal_webhook=https%3A%2F%2Fuser%3Apass%40example.com", {}, "fal_webhook"),
        ("?fal_webhook=https%3A%2F%2Fexample.com%3A22", {}, "fal_webhook"),
        ("", {"x_fal_queue_priority": "urgent"}, "x-fal-queue-priority"),
        ("", {"x_fal_request_timeout": "soon"}, "x-fal-request-timeout"),
        ("", {"x_fal_request_timeout": "nan"}, "x-fal-request-timeout"),
        ("", {"x_fal_object_lifecycle_preference": "{"}, "x-fal-object-lifecycle-preference"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    queue: Queue, path: str, headers: dict[str, str], field: str
):
    status, _, said = queue.ask("POST", path, {"prompt": "a fox", **SMALL}, **headers)
    assert status in (400, 422)
    assert field in json.dumps(said)


# ---- cancel ----


def test_a_waiting_request_is_cancelled_and_again_without_harm(busy: Queue):
    id = busy.submit()
    for _ in range(2):
        status, headers, said = busy.ask("PUT", f"/requests/{id}/cancel")
        assert (status, said) == (202, {"status": "CANCELLATION_REQUESTED"})
        assert headers["x-fal-request-id"] == id
    status, said = busy.status(id)
    assert (status, said["status"], said["error_type"]) == (200, "COMPLETED", "client_cancelled")
    assert busy.ask("GET", f"/requests/{id}")[0] == 499


def test_a_request_being_drawn_is_cancelled_at_once(one_at_a_time: Queue):
    id = one_at_a_time.submit(SMALL | {"prompt": "!slow 0.4", "num_inference_steps": 12})
    one_at_a_time.wait(id, "IN_PROGRESS")
    began = time.monotonic()
    assert one_at_a_time.ask("PUT", f"/requests/{id}/cancel")[0] == 202
    assert one_at_a_time.wait(id)["error_type"] == "client_cancelled"
    assert time.monotonic() - began < 3.0
    assert one_at_a_time.wait(one_at_a_time.submit())["metrics"], "the next one is drawn"


def test_a_completed_request_cannot_be_cancelled(queue: Queue):
    id = queue.submit()
    queue.wait(id)
    status, _, said = queue.ask("PUT", f"/requests/{id}/cancel")
    assert (status, said["status"]) == (400, "ALREADY_COMPLETED")
    assert queue.ask("GET", f"/requests/{id}")[0] == 200


# ---- logs and streams ----


def test_polling_gives_the_whole_log_if_asked(queue: Queue):
    id = queue.submit()
    done = queue.wait(id)
    assert [line["source"] for line in done["logs"]] == ["USER"] * len(done["logs"])
    assert [line["message"].split()[0] for line in done["logs"]] == ["drawing", "done:"]
    for line in done["logs"]:
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
        assert line["level"] == line["labels"]["level"] == "INFO"
    assert queue.status(id, "true")[1]["logs"] == done["logs"], "as Python asks"
    for no in ("", "0", "false"):
        assert queue.status(id, no)[1]["logs"] is None


def test_a_stream_tells_every_change_and_each_line_of_the_log_once(one_at_a_time: Queue):
    blocker = one_at_a_time.submit(SLOW)
    ids = [one_at_a_time.submit() for _ in range(2)]
    events = one_at_a_time.events(ids[1])
    states = [event["status"] for event in events]
    assert states[0] == "IN_QUEUE"
    assert states[-1] == "COMPLETED"
    assert states == sorted(states, key=["IN_QUEUE", "IN_PROGRESS", "COMPLETED"].index)
    positions = [event["queue_position"] for event in events if event["status"] == "IN_QUEUE"]
    assert positions == sorted(positions, reverse=True)
    assert all(event["request_id"] == ids[1] for event in events)
    assert all(isinstance(event["logs"], list) for event in events)
    streamed = [line for event in events for line in event["logs"]]
    assert streamed == one_at_a_time.status(ids[1], "1")[1]["logs"]
    assert events[-1]["metrics"]["inference_time"] > 0
    one_at_a_time.wait(blocker)


def test_a_stream_of_a_completed_request_is_one_event(queue: Queue):
    id = queue.submit()
    queue.wait(id)
    (event,) = queue.events(id, logs="0")
    assert (event["status"], event["logs"]) == ("COMPLETED", None)


def test_a_stream_that_is_left_leaves_the_request_alone(one_at_a_time: Queue):
    id = one_at_a_time.submit(SLOW)
    with socket.create_connection((one_at_a_time.server.host, one_at_a_time.server.port)) as there:
        path = f"{PREFIX}/fal-ai/lcm/requests/{id}/status/stream"
        there.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert there.recv(100).startswith(b"HTTP/1.1 200")
    assert "error" not in one_at_a_time.wait(id)


# ---- clients that retry ----


def test_a_submit_whose_answer_nobody_took_is_the_same_when_it_comes_again(one_at_a_time: Queue):
    blocker = one_at_a_time.submit(SLOW)
    server, body = one_at_a_time.server, json.dumps({"prompt": "taken twice", **SMALL}).encode()
    head = (
        f"POST {PREFIX}/fal-ai/lcm HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection((server.host, server.port)) as there:
        there.sendall(head + body)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leave with a reset
    time.sleep(0.2)
    before = one_at_a_time.submit({"prompt": "the mark", **SMALL})
    again = one_at_a_time.submit({"prompt": "taken twice", **SMALL})
    place = {id: one_at_a_time.status(id)[1].get("queue_position") for id in (before, again)}
    # If the reset overtook the answer, as it mostly does, the second submit found the first one.
    assert place[again] < place[before] or place == {before: 0, again: 1}
    one_at_a_time.wait(blocker)
    one_at_a_time.wait(again)


def test_equal_submits_in_a_row_are_as_many_requests(queue: Queue):
    ids = [queue.submit({"prompt": "the same", **SMALL}) for _ in range(8)]
    assert len(set(ids)) == 8


def test_many_clients_at_once_each_get_their_own(queue: Queue):
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(queue.submit())) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 24
    for id in ids:
        assert "error" not in queue.wait(id)


# ---- tenants ----


def test_a_queue_needs_a_key_where_keys_are_needed(keyed_server: Server):
    assert Queue(keyed_server).ask("POST", "", {})[0] == 401
    assert Queue(keyed_server).ask("GET", "/requests/x/status")[0] == 401
    mine = Queue(keyed_server, key=KEY)
    mine.wait(mine.submit())


def test_one_tenant_never_sees_anothers_request():
    with serve(keys=["ann:1", "bob:2"]) as server:
        ann, bob = Queue(server, key="ann:1"), Queue(server, key="bob:2")
        id = ann.submit(SLOW)
        unknown = bob.ask("GET", "/requests/00000000-0000-4000-8000-000000000000/status")[2]
        for method, part in (("GET", ""), ("GET", "/status"), ("GET", "/status/stream"), ("PUT", "/cancel")):
            status, _, said = bob.ask(method, f"/requests/{id}{part}")
            assert (status, said) == (404, unknown), "as one that never was"
        assert "error" not in ann.wait(id), "nobody else can cancel it"
        other = Queue(server, "fal-ai/fast-lcm-diffusion", key="ann:1")
        assert other.status(id)[0] == 404, "nor is it found under another app"


def test_a_key_has_its_own_limit():
    with serve(keys=["ann:1", "bob:2"], key_queued=2, queue_at_once=1) as server:
        ann, bob = Queue(server, key="ann:1"), Queue(server, key="bob:2")
        ann.wait(ann.submit(SLOW), "IN_PROGRESS")
        for _ in range(2):
            ann.submit()
        status, _, said = ann.ask("POST", "", {"prompt": "a fox", **SMALL})
        assert (status, said["detail"]) == (429, "2 requests of this key wait, the most it may have")
        bob.submit()


# ---- what is kept ----


def test_pictures_are_urls_that_anybody_can_fetch_unless_asked_otherwise(queue: Queue):
    id = queue.submit({"prompt": "a fox", **SMALL, "sync_mode": False})
    queue.wait(id)
    url = queue.ask("GET", f"/requests/{id}")[2]["images"][0]["url"]
    assert url.startswith(queue.server.url)
    status, headers, data = queue.server.ask("GET", urlsplit(url).path)
    assert (status, headers["content-type"], data[:2]) == (200, "image/jpeg", b"\xff\xd8")


def test_who_asked_says_how_long_pictures_live_and_who_may_have_them(keyed_server: Server):
    queue = Queue(keyed_server, key=KEY)

    def kept(lifecycle: dict[str, Any]) -> str:
        wish = json.dumps(lifecycle)
        id = queue.submit(
            {**SMALL, "prompt": "a", "sync_mode": False}, x_fal_object_lifecycle_preference=wish
        )
        queue.wait(id)
        return urlsplit(queue.ask("GET", f"/requests/{id}")[2]["images"][0]["url"]).path

    closed = kept({"initial_acl": {"default": "forbid", "rules": []}})
    assert keyed_server.ask("GET", closed)[0] == 404
    assert keyed_server.ask("GET", closed, headers={"Authorization": f"Key {KEY}"})[0] == 200
    short, long = kept({"expiration_duration_seconds": 1}), kept({"expiration_duration_seconds": 3600})
    until = time.monotonic() + 8
    while keyed_server.ask("GET", short)[0] != 404:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert keyed_server.ask("GET", long)[0] == 200


def test_ended_requests_are_forgotten_after_their_time():
    with serve(queue_keep_s=0.8) as server:
        queue = Queue(server)
        id = queue.submit()
        queue.wait(id)
        until = time.monotonic() + 8
        while queue.status(id)[0] != 404:
            assert time.monotonic() < until
            time.sleep(0.05)


# ---- servers that come and go ----


def test_a_server_that_is_told_to_go_leaves_its_queue_to_the_next(tmp_path: Path):
    with serve(state_dir=tmp_path, queue_at_once=1) as server:
        queue = Queue(server)
        ids = [queue.submit(SLOW | {"prompt": "!slow 3"}), queue.submit(), queue.submit()]
        queue.wait(ids[0], "IN_PROGRESS")
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 6.0, "nobody waits for a picture that the next one draws again"
    with serve(state_dir=tmp_path, queue_at_once=1) as server:
        queue = Queue(server)
        for id in ids:
            assert "error" not in queue.wait(id)
    with closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as db:
        assert {losses for (losses,) in db.execute("SELECT losses FROM requests")} == {0}


def test_a_server_that_is_told_to_go_cuts_the_streams_of_what_is_not_done():
    """A stream that ends whole ends with COMPLETED: fal-js then asks for the result, once."""
    with serve(queue_at_once=1) as server:
        queue = Queue(server)
        queue.wait(queue.submit(SLOW | {"prompt": "!slow 10"}), "IN_PROGRESS")
        url = f"{server.url}{PREFIX}/fal-ai/lcm/requests/{queue.submit()}/status/stream"
        with httpx.stream("GET", url, timeout=10) as response:
            lines = response.iter_lines()
            assert '"IN_QUEUE"' in next(lines)
            server.process.terminate()
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                list(lines)
        assert server.process.wait(10) == 0
    assert not [line for line in server.log if "Traceback" in line]


def test_two_servers_share_the_queue_of_their_state_directory(tmp_path: Path):
    with serve(state_dir=tmp_path, queue_at_once=1) as one, serve(state_dir=tmp_path, queue_at_once=1) as two:
        ids = [Queue(one).submit(SMALL | {"prompt": f"!slow 0.{n + 1}"}) for n in range(6)]
        results = []
        for id in ids:
            assert "error" not in Queue(two).wait(id), "one asks where one likes"
            results.append(Queue(one).ask("GET", f"/requests/{id}"))
        assert [status for status, _, _ in results] == [200] * 6
        drawn = [server.metric("realtime_runs_total", lane="queue") for server in (one, two)]
        assert sum(drawn) == 6, "each was drawn once"
        assert min(drawn) >= 1, "and both drew"


def test_the_keys_of_webhooks_are_for_everybody(keyed_server: Server):
    for path in ("/.well-known/jwks.json", "/__h/rest.fal.ai/.well-known/jwks.json"):
        status, headers, data = keyed_server.ask("GET", path)
        assert status == 200
        assert json.loads(data)["keys"][0]["crv"] == "Ed25519"
        assert "max-age" in headers["cache-control"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(b"no database, and long enough to look at. " * 200), "is damaged"),
        (lambda file: file.mkdir(), "cannot be opened"),
    ],
    ids=["damaged", "a directory"],
)
def test_a_queue_that_cannot_be_opened_stops_the_start_in_words(
    tmp_path: Path, damage: Callable[[Path], Any], said: str
):
    damage(tmp_path / "queue.sqlite3")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RT_")}
    env |= {"RT_STATE_DIR": str(tmp_path), "RT_PORT": "0", "RT_MODEL": "fake"}
    ended = subprocess.run(
        [sys.executable, "-m", "realtime.cli", "serve"],
        env=env,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert ended.returncode == 2
    text = " ".join((ended.stdout + ended.stderr).split())
    assert said in text
    assert "queue.sqlite3" in text.replace(" ", "")
    assert "Traceback" not in text


def test_a_queue_that_another_program_holds_stops_the_start_in_words(tmp_path: Path):
    Ledger(tmp_path / "queue.sqlite3").close()
    other = sqlite3.connect(tmp_path / "queue.sqlite3", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with (
        pytest.raises(AssertionError, match=r"(?s)locked\s+by\s+another\s+program"),
        serve(state_dir=tmp_path),
    ):
        pass
    other.close()
