"""A JavaScript client in headless Chromium: the same control.js, in a page served from localhost."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from realtime.certs import Certificates, next_steps
from tests.browser.chrome import FLAGS, find, profile
from tests.contract.clients import HERE, PATIENCE_S, Event, Version
from tests.contract.ways import Way
from tests.servers import Server

PAGE = """<!doctype html><meta charset="utf-8"><title>contract</title><link rel="icon" href="data:,">
<script src="/bundle.js"></script>
<script src="/control.js"></script>
<script type="module">
  const emit = (event) => report(JSON.stringify(event));
  addEventListener("error", (event) => emit({ event: "crash", message: event.message }));
  addEventListener("unhandledrejection", (event) => emit({ event: "crash", message: String(event.reason) }));
  const origin = new URLSearchParams(location.search).get("origin");
  if (origin) (await import("/fal-here.js")).falHere(origin);
  globalThis.act = control(load, emit);
  emit({ event: "started" });
</script>"""


NAMES = ("fal.run", "*.fal.run", "*.fal.ai", "*.fal.media")
TRUSTED_BY_COMMAND = sys.platform == "linux" and shutil.which("certutil") is not None


def trust(home: Path, authority: Path) -> list[str]:
    """Makes a Chromium with this home trust ca.pem of the folder, as `realtime certs` tells its user to.

    Returns the flags it needs besides. Without certutil: one that lets cert.pem pass unverified.
    """
    if not TRUSTED_BY_COMMAND:
        return [f"--ignore-certificate-errors-spki-list={fingerprint(authority / 'cert.pem')}"]
    steps = next_steps(Certificates(authority, expires=datetime.now(UTC)))
    commands = re.search(r"Chromium, Linux(.*?)\n +Debian", steps, re.DOTALL)
    assert commands, steps
    subprocess.run(["sh", "-ec", commands[1]], env={**os.environ, "HOME": str(home)}, check=True, timeout=10)
    return []


def fingerprint(certificate: Path) -> str:
    """What --ignore-certificate-errors-spki-list takes: base64 of the public key's SHA-256 (RFC 7469)."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return base64.b64encode(digest).decode()


class Pages:
    """A developer's own web server on localhost, with one page that loads the client."""

    def __init__(self, version: Version) -> None:
        bundle = subprocess.run(
            ["node", "bundle.cjs", version.name], cwd=HERE, capture_output=True, check=True, timeout=20
        ).stdout
        override = HERE.parent.parent / "web" / "fal-here.js"
        files = {
            "/": ("text/html", PAGE.encode()),
            "/bundle.js": ("text/javascript", bundle),
            "/control.js": ("text/javascript", (HERE / "control.js").read_bytes()),
            "/fal-here.js": ("text/javascript", override.read_bytes()),
        }

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, body = files.get(self.path.partition("?")[0], ("text/plain", b"not found"))
                self.send_response(200 if body != b"not found" else 404)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://localhost:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Browser:
    """Chromium's DevTools protocol, just enough of it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.replies: dict[int, Event] = {}
        self.news = threading.Condition()
        self.listeners: dict[str, Callable[[Event], None]] = {}

    def read(self) -> None:
        """Until the browser hangs up."""
        with contextlib.suppress(ConnectionClosed):
            for text in self.socket:
                message = json.loads(text)
                if message.get("method") == "Runtime.bindingCalled":
                    self.listeners[message["sessionId"]](json.loads(message["params"]["payload"]))
                elif "id" in message:
                    with self.news:
                        self.replies[message["id"]] = message
                        self.news.notify_all()

    def say(self, method: str, session: str | None = None, **params: Any) -> int:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        return number

    def ask(self, method: str, session: str | None = None, **params: Any) -> Any:
        number = self.say(method, session, **params)
        with self.news:
            assert self.news.wait_for(lambda: number in self.replies, PATIENCE_S), f"no answer to {method}"
        return self.replies.pop(number)["result"]


@contextlib.contextmanager
def launch(program: str, names: Mapping[str, int], authority: Path) -> Iterator[Browser]:
    """Headless Chromium that trusts this authority and in which these names lead to local ports.

    The first that fits counts. Every other name outside loopback leads nowhere.
    """
    rules = [f"MAP {name} 127.0.0.1:{port}" for name, port in names.items()]
    rules += ["MAP * ~NOTFOUND", "EXCLUDE localhost", "EXCLUDE 127.0.0.1"]
    with profile() as folder:
        flags = [
            f"--user-data-dir={folder}",
            f"--host-resolver-rules={','.join(rules)}",
            *trust(Path(folder), authority),
        ]
        command = [program, *FLAGS, *flags, "about:blank"]
        environment = {**os.environ, "HOME": str(folder)}
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        try:
            said = (line for line in child.stderr if line.startswith("DevTools listening on "))
            # Pings in a thread would draw from `random` while Hypothesis makes examples in another test.
            with connect(next(said).split()[-1], max_size=None, ping_interval=None) as socket:
                browser = Browser(socket)
                threads = [
                    threading.Thread(target=target, daemon=True)
                    for target in (browser.read, child.stderr.read)
                ]
                for thread in threads:
                    thread.start()
                yield browser
        finally:
            child.kill()
            child.wait()
            for thread in threads:
                thread.join()
            child.stderr.close()


@contextlib.contextmanager
def browse(server: Server, authority: Path, others: Mapping[str, int] | None = None) -> Iterator[Browser]:
    """A browser in which fal's host names lead to `server`, and others to their ports.

    Skips the test where no Chromium can be found.
    """
    program = find()
    if program is None:
        pytest.skip("no Chromium on this machine: the contract was not tested in a browser")
    with launch(program, {**(others or {}), **dict.fromkeys(NAMES, server.port)}, authority) as browser:
        yield browser


class Tab:
    """A page of its own: where a `Client` lives in Chromium."""

    def __init__(self, browser: Browser, page: str, way: Way, report: Callable[[Event], None]) -> None:
        self.browser = browser
        self.said: list[str] = []
        self.target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.ask("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        browser.listeners[self.session] = report
        browser.ask("Runtime.enable", self.session)
        browser.ask("Runtime.addBinding", self.session, name="report")
        url = page + (f"?origin={way.origin}" if way.origin else "")
        browser.ask("Page.navigate", self.session, url=url)

    def send(self, command: Event) -> None:
        self.browser.say("Runtime.evaluate", self.session, expression=f"act({json.dumps(command)})")

    def stop(self) -> None:
        self.browser.ask("Target.closeTarget", targetId=self.target)
