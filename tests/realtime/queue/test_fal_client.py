"""The real fal-client 1.0.3, sync and async, at a real server's queue."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fal_client
import httpx
import pytest
from fal_client import client as fal

from tests.realtime.talk import eventually
from tests.servers import KEY, Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

APP = "fal-ai/lcm"
SMALL = {"prompt": "a fox", "image_size": {"width": 64, "height": 64}, "seed": 3, "sync_mode": True}
SLOW = SMALL | {"prompt": "!slow 1.2"}
FAST = 0.02  # interval of polling

Client = fal_client.SyncClient | fal_client.AsyncClient
Play = Callable[[Client, Callable[[Any], Awaitable[Any]]], Awaitable[Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(keys=[KEY], webhook_private=True, queue_at_once=1) as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def play(server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """play(scene): `scene(client, now)` with either client; `await now(call)` is what a call gives."""
    monkeypatch.setattr(fal, "QUEUE_URL_FORMAT", f"{server.url}/__h/queue.fal.run/")

    async def now(given: Any) -> Any:
        return await given if inspect.isawaitable(given) else given

    async def acted(scene: Play) -> None:
        if request.param == "sync":
            with httpx.Client() as http:
                client = fal_client.SyncClient(key=KEY)
                http.headers.update({"Authorization": f"Key {KEY}"})
                client.__dict__["_client"] = http
                await scene(client, now)
        else:
            asynchronous = fal_client.AsyncClient(key=KEY)
            try:
                await scene(asynchronous, now)
            finally:
                await (await asynchronous._client).aclose()

    return lambda scene: asyncio.run(acted(scene))


def test_submit_follow_and_get(play):
    async def scene(client: Any, now: Any) -> None:
        handle = await now(client.submit(APP, SMALL, path="/text-to-image"))
        events = handle.iter_events(with_logs=True, interval=FAST)
        seen = [event async for event in events] if inspect.isasyncgen(events) else list(events)
        assert isinstance(seen[-1], fal_client.Completed)
        assert {type(event) for event in seen} <= {
            *(fal_client.Queued, fal_client.InProgress, fal_client.Completed)
        }
        assert seen[-1].error is None
        assert seen[-1].metrics["inference_time"] > 0
        assert seen[-1].logs
        assert seen[-1].logs[0]["message"].startswith("drawing a picture of 64x64")
        assert (await now(handle.status())).logs is None
        result = await now(handle.get())
        assert result["seed"] == 3
        assert await now(client.result(APP, handle.request_id)) == result
        again = await now(client.get_handle(APP, handle.request_id))
        assert (again.status_url, again.response_url) == (handle.status_url, handle.response_url)

    play(scene)


def test_subscribe_reports_its_place_and_its_progress(play):
    async def scene(client: Any, now: Any) -> None:
        first = await now(client.submit(APP, SLOW))
        queued: list[str] = []
        seen: list[Any] = []
        result = await now(
            client.subscribe(
                *(APP, SMALL | {"seed": 4}),
                on_enqueue=queued.append,
                on_queue_update=seen.append,
                with_logs=True,
                interval=FAST,
                priority="low",
            )
        )
        assert result["seed"] == 4
        assert len(queued) == 1
        assert [event.position for event in seen if isinstance(event, fal_client.Queued)]
        assert isinstance(seen[-1], fal_client.Completed)
        assert isinstance(await now(first.status()), fal_client.Completed)

    play(scene)


def test_what_the_app_refuses_is_an_error_with_its_details(play):
    async def scene(client: Any, now: Any) -> None:
        handle = await now(client.submit(APP, {"prompt": "a fox", "num_inference_steps": 99}))
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            await now(handle.get(interval=FAST))
        assert caught.value.status_code == 422
        assert caught.value.error_type == "validation_error"
        assert caught.value.response_headers["x-fal-request-id"] == handle.request_id
        status = await now(handle.status())
        assert (status.error, status.error_type) == ("Invalid status code: 422", "validation_error")

    play(scene)


def test_cancel_waiting_running_and_too_late(play):
    async def scene(client: Any, now: Any) -> None:
        running = await now(client.submit(APP, SLOW | {"num_inference_steps": 12}))
        waiting = await now(client.submit(APP, SMALL))
        for _ in range(200):
            if isinstance(await now(running.status()), fal_client.InProgress):
                break
            await asyncio.sleep(FAST)
        await now(waiting.cancel())
        await now(client.cancel(APP, running.request_id))
        for handle in (waiting, running):
            with pytest.raises(fal_client.FalClientHTTPError) as caught:
                await now(handle.get(interval=FAST))
            assert (caught.value.status_code, caught.value.error_type) == (499, "client_cancelled")
        done = await now(client.submit(APP, SMALL))
        await now(done.get(interval=FAST))
        with pytest.raises(fal_client.FalClientHTTPError, match="already completed"):
            await now(done.cancel())

    play(scene)


def test_a_start_timeout_is_not_tried_again(play):
    async def scene(client: Any, now: Any) -> None:
        blocker = await now(client.submit(APP, SLOW | {"prompt": "!slow 2.0"}))
        late = await now(client.submit(APP, SMALL, start_timeout=1.05))
        began = time.monotonic()
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            await now(late.get(interval=FAST))
        assert (caught.value.status_code, caught.value.error_type) == (504, "request_timeout")
        assert time.monotonic() - began < 5.0
        await now(blocker.get(interval=FAST))

    play(scene)


def test_a_client_timeout_cancels(play):
    async def scene(client: Any, now: Any) -> None:
        blocker = await now(client.submit(APP, SLOW))
        ids: list[str] = []
        with pytest.raises(fal_client.FalClientTimeoutError):
            await now(
                client.subscribe(APP, SMALL, client_timeout=1.02, start_timeout=60, on_enqueue=ids.append)
            )
        await now(blocker.get(interval=FAST))
        status = await now(client.status(APP, ids[0]))
        assert isinstance(status, fal_client.Completed)

    with pytest.warns(UserWarning, match="start_timeout"):
        play(scene)


def test_an_unknown_request_and_a_wrong_key(play):
    async def scene(client: Any, now: Any) -> None:
        for call in (client.status, client.result, client.cancel):
            with pytest.raises(fal_client.FalClientHTTPError, match="Request not found") as caught:
                await now(call(APP, "00000000-0000-4000-8000-000000000000"))
            assert caught.value.status_code == 404

    play(scene)


@pytest.fixture
def hook() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A webhook's URL, and what was sent to it."""
    calls: list[tuple[dict[str, str], bytes]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            calls.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *given: object) -> None:
            """Nothing on the console."""

    there = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=there.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{there.server_port}/hook?a=1", calls
    there.shutdown()
    thread.join()
    there.server_close()


def test_a_webhook_is_told_the_result(play, hook, server: Server):
    url, calls = hook

    async def scene(client: Any, now: Any) -> None:
        handle = await now(client.submit(APP, SMALL, webhook_url=url))
        result = await now(handle.get(interval=FAST))
        await eventually(lambda: bool(calls))
        ((headers, body),) = calls
        said = json.loads(body)
        assert (said["request_id"], said["status"], said["payload"]) == (handle.request_id, "OK", result)
        assert headers["x-fal-webhook-request-id"] == handle.request_id
        assert headers["x-fal-webhook-user-id"] == KEY.partition(":")[0]
        assert server.get("/.well-known/jwks.json")[0] == 200

    play(scene)
