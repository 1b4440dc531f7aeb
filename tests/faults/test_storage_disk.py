"""The disk is full: uploads and kept pictures are refused clearly, live sessions do not notice, all recovers.

As in `test_queue_disk.py`, a limit on the size of files (RLIMIT_FSIZE) stands in for the disk. A real one of
4 MiB is in `tests/realtime/storage/test_objects.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from websockets.sync.client import connect

from tests.servers import Server, serve

pytestmark = [
    pytest.mark.proc,
    pytest.mark.net,
    pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit"),
]


@contextmanager
def full_disk(server: Server) -> Iterator[None]:
    import resource

    before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)


def run(server: Server, **more: object) -> httpx.Response:
    return httpx.post(f"{server.url}/fal-ai/lcm", json={"prompt": "x"} | more, timeout=10)


def initiate(server: Server) -> httpx.Response:
    return httpx.post(f"{server.url}/storage/upload/initiate", json={})


def test_a_full_disk_stops_uploads_and_nothing_else():
    with serve() as server, connect(server.ws + "/fal-ai/lcm/realtime") as live:

        def draws() -> bool:
            live.send(json.dumps({"prompt": "x", "sync_mode": True}))
            return "images" in json.loads(live.recv(timeout=10))

        old, begun = initiate(server).json(), initiate(server).json()
        assert httpx.put(old["upload_url"], content=b"old").status_code == 200
        assert draws()
        with full_disk(server):
            for answer in (
                initiate(server),
                httpx.put(begun["upload_url"], content=b"x" * 1000),
                httpx.put(begun["upload_url"], content=b"x" * 3_000_000),
                run(server),
            ):
                assert answer.status_code == 507, answer.text
                assert answer.json()["error_type"] == "insufficient_storage"
                assert "full" in answer.json()["detail"]
            assert draws()
            assert run(server, sync_mode=True).status_code == 200
            assert httpx.get(old["file_url"]).content == b"old"
            assert server.get("/readyz")[0] == 200
        assert httpx.put(begun["upload_url"], content=b"new").status_code == 200
        assert httpx.get(begun["file_url"]).content == b"new"
        made = run(server).json()
        assert httpx.get(made["images"][0]["url"]).content.startswith(b"\xff\xd8")
        assert draws()
        assert not [line for line in server.log if "Traceback" in line]
