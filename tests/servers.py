"""A real server process for tests: `with serve(model="fake", keys=["id:secret"]) as server: ...`."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

START_S = 15.0
KEY = "test:a-secret-of-the-tests"


@dataclass
class Server:
    """A running server. `url` has no trailing slash; `ws` is the same for sockets."""

    url: str
    pid: int
    process: subprocess.Popen[str]
    state_dir: Path
    log: list[str] = field(default_factory=list)  # lines of its standard error so far

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Message, bytes]:
        """(status, headers, body) of an HTTP request; error statuses do not raise. `body` is sent as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        # The certificate is the test's own; that clients verify it is shown in tests/contract.
        anybody = ssl._create_unverified_context() if self.url.startswith("https") else None
        try:
            with urllib.request.urlopen(request, timeout=5, context=anybody) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        status, _, body = self.ask("GET", path, headers=headers)
        return status, body

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 if there is none."""
        total = 0.0
        for line in self.get("/metrics")[1].decode().splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    def wait_ready(self, seconds: float = START_S) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, "the server ended:\n" + "".join(self.log[-20:])
            if self.get("/readyz")[0] == 200:
                return
            time.sleep(0.02)
        raise AssertionError("not ready in time:\n" + "".join(self.log[-20:]))

    def terminate(self, seconds: float = 25.0) -> int:
        """SIGTERM and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def serve(*, ready: bool = True, state_dir: Path | None = None, **settings: Any) -> Iterator[Server]:
    """`realtime serve` on a free loopback port with these settings (names of realtime/settings.py).

    The fake engine unless `model` is given. ready: wait until the engine takes work.
    """
    with tempfile.TemporaryDirectory(prefix="realtime-") as scratch:
        state = state_dir or Path(scratch)
        given = {"model": "fake", "port": 0, "state_dir": str(state), **settings}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RT_")}
        for name, value in given.items():
            environment[f"RT_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
        process = subprocess.Popen(
            [sys.executable, "-m", "realtime.cli", "serve"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        said: queue.Queue[str] = queue.Queue()
        log: list[str] = []
        readers = [
            threading.Thread(target=lambda: [said.put(line) for line in process.stdout or []], daemon=True),
            threading.Thread(target=lambda: log.extend(process.stderr or []), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            server = Server(_url(process, said, log), process.pid, process, state, log)
            if ready:
                server.wait_ready()
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            for reader in readers:
                reader.join(2)
            process.stdout.close()
            process.stderr.close()


def _url(process: subprocess.Popen[str], said: queue.Queue[str], log: list[str]) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            line = said.get(timeout=0.1)
        except queue.Empty:
            if process.poll() is None:
                continue
            raise AssertionError("the server did not start:\n" + "".join(log[-30:])) from None
        if line.startswith("realtime is at "):
            return line.removeprefix("realtime is at ").strip().rstrip("/")
    raise AssertionError("the server did not say its URL")
