"""The real nginx and HAProxy in front, as realtime/README.md says, under a path prefix and another name."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.servers import Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

README = Path(__file__).parents[2] / "realtime" / "README.md"
NGINX = """
daemon off; pid {folder}/pid; error_log stderr warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; {block} }}
}}
"""


def block(name: str) -> str:
    found = re.search(rf"```{name}\n(.*?)```", README.read_text(), re.DOTALL)
    assert found
    return found[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(name: str, server: Server, folder: Path) -> Iterator[str]:
    """The origin of the proxy, prefix included."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"no {name} on this machine: nothing was tested behind it")
    port, file = free_port(), folder / "conf"
    said = block(name).replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    if name == "nginx":
        file.write_text(NGINX.format(folder=folder, port=port, block=said))
        command = [program, "-p", str(folder), "-c", str(file), "-e", "stderr"]
    else:
        file.write_text(said.replace("bind :8080", f"bind 127.0.0.1:{port}"))
        command = [program, "-db", "-f", str(file)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < until, "it does not listen"
            assert child.poll() is None, child.stderr and child.stderr.read()
            time.sleep(0.02)
        yield f"http://localhost:{port}/draw"
    finally:
        child.terminate()
        child.communicate(timeout=10)


@pytest.fixture(params=["nginx", "haproxy"])
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with (
        serve(model="fake:base_ms=60,row_ms=0,vae_ms=1", trusted_proxies=["127.0.0.1/32"]) as server,
        running(request.param, server, tmp_path) as origin,
    ):
        yield origin


async def test_everything_works_and_every_link_leads_back_through_the_proxy(origin: str):
    async with httpx.AsyncClient(timeout=15) as client:
        made = (await client.post(f"{origin}/fal-ai/lcm", json={"prompt": "a"})).json()
        url = made["images"][0]["url"]
        assert url.startswith(f"{origin}/files/")
        assert (await client.get(url)).headers["content-type"] == "image/jpeg"

        submitted = (await client.post(f"{origin}/__h/queue.fal.run/fal-ai/lcm", json={"prompt": "a"})).json()
        assert submitted["status_url"].startswith(f"{origin}/__h/queue.fal.run/fal-ai/lcm/requests/")
        async with client.stream("GET", submitted["status_url"] + "/stream") as events:
            states = [json.loads(line[6:])["status"] async for line in events.aiter_lines() if line]
        assert states[-1] == "COMPLETED"
        assert "images" in (await client.get(submitted["response_url"])).json()

        begun = (await client.post(f"{origin}/storage/upload/initiate", json={"file_name": "a b"})).json()
        large = bytes(20 << 20)  # more than either proxy takes by default
        assert (await client.put(begun["upload_url"], content=large)).status_code == 200
        part = await client.get(begun["file_url"], headers={"range": "bytes=-5"})
        assert (part.status_code, part.headers["content-range"]) == (206, "bytes 20971515-20971519/20971520")

        assert (await client.get(f"{origin}/openapi.json")).json()["servers"] == [{"url": origin}]
        for page in ("/", "/docs", "/web/fal-here.js"):
            assert (await client.get(origin + page)).status_code == 200


async def test_a_stream_streams_through_the_proxy(origin: str):
    async with httpx.AsyncClient(timeout=15) as client:
        wish = {"prompt": "a", "num_inference_steps": 12}
        async with client.stream("POST", f"{origin}/fal-ai/lcm/stream", json=wish) as events:
            lines = (json.loads(line[6:]) async for line in events.aiter_lines() if line)
            assert (await anext(lines))["partial"] is True
            ended = 'lane="stream"' in (await client.get(f"{origin}/metrics")).text
            assert not ended, "the first preview came with the last"
            assert [line async for line in lines][-1]["partial"] is False
        assert 'lane="stream"' in (await client.get(f"{origin}/metrics")).text


async def test_a_socket_goes_through_the_proxy(origin: str):
    async with connect(origin.replace("http", "ws", 1) + "/fal-ai/lcm/realtime") as socket_:
        for seed in range(3):
            await socket_.send(json.dumps({"prompt": "a", "seed": seed}))
            async with asyncio.timeout(10):
                assert json.loads(await socket_.recv())["seed"] == seed
