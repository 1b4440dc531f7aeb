"""fal's own clients behind one remote control: the tests say what to do, a process with the client does it.

Events, as driver.py and control.js report them (all JSON; bytes as {"$bytes": base64}):
    result {live, result} · error {live, kind, message, status, body}      what the client's user sees
    open {url} · out {text, bytes} · in {text} · closed {code, reason}     what its WebSocket sees
    token {status, body}                                                   a request to /tokens/ was answered
    answer {call, value} · failure {call, kind, message, status, body}     a method of the client came back
    piece {call, value} · <any> {call, value}                          of a stream; what a callback was given
    crash {message}                                                        an exception nobody caught
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import msgpack
import pytest

from tests.contract.ways import KEY, WAYS, Way
from tests.servers import Server

HERE = Path(__file__).parent
LEGACY = "110602490-lcm-sd15-i2i"
PATIENCE_S = 10.0  # for one event: two cores run servers, clients and a browser at once

Event = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """One published client. What it can do was read in its source."""

    name: str  # alias in package.json, or "sync" / "async" for fal-client
    app: str = "fal-ai/lcm"  # an id it can reach; before 0.8 an id is the first label of a host name
    text: bool = False  # frames of plain objects are JSON text; msgpack since 0.10
    adds_request_id: bool = False
    runtime: str = "node"  # node | chromium | python

    def __str__(self) -> str:
        return f"{self.name} in Chromium" if self.runtime == "chromium" else self.name


V0_6 = Version("serverless-0.6.1", app=LEGACY, text=True, adds_request_id=True)
V0_7 = Version("serverless-0.7.4", app=LEGACY, text=True, adds_request_id=True)
V0_8 = Version("serverless-0.8.5", text=True, adds_request_id=True)
V0_9 = Version("serverless-0.9.3", text=True, adds_request_id=True)
V0_15 = Version("serverless-0.15.0", adds_request_id=True)
V1_0 = Version("client-1.0.2")
V1_8 = Version("client-1.8.1")
V1_10 = Version("client-1.10.1")
BROWSER = Version("client-1.10.1", runtime="chromium")
V0_15_BROWSER = replace(V0_15, runtime="chromium")
SYNC = Version("sync", runtime="python")
ASYNC = Version("async", runtime="python")
JAVASCRIPT = [V0_6, V0_7, V0_8, V0_9, V0_15, V1_0, V1_8, V1_10, BROWSER]
PYTHON = [SYNC, ASYNC]
EVERYONE = [*JAVASCRIPT, *PYTHON]
SLASHLESS = dict.fromkeys([V0_6, V0_7], "ids with a slash make an impossible host name")


def every(
    versions: Iterable[Version],
    but: Mapping[Version, str] | None = None,
    ways: Iterable[str] = WAYS,
    fixture: str = "client",
) -> pytest.MarkDecorator:
    """Runs a test with the fixture of each version over each way. `but` says why not with some."""
    marks = {
        "node": [pytest.mark.node],
        "chromium": [pytest.mark.node, pytest.mark.browser],
        "python": [],
    }
    return pytest.mark.parametrize(
        fixture,
        [
            pytest.param((version, way), id=f"{version} by {way}", marks=marks[version.runtime])
            for version in versions
            for way in ways
            if version not in (but or {})
        ],
        indirect=True,
    )


class Driver(Protocol):
    """Where a client lives."""

    said: list[str]  # what it printed besides events

    def send(self, command: Event) -> None: ...
    def stop(self) -> None: ...


LiveIn = Callable[[Callable[[Event], None]], Driver]  # makes the driver that reports to this client


class Process:
    """A Node or Python process of its own."""

    def __init__(self, version: Version, way: Way, key: str, report: Callable[[Event], None]) -> None:
        command = [sys.executable, str(HERE / "driver.py"), version.name]
        if version.runtime == "node":
            if shutil.which("node") is None:
                pytest.skip("no Node.js on this machine: fal's JavaScript clients were not tested")
            assert (HERE / "node_modules").is_dir(), "run `npm ci` in tests/contract, or `make test`"
            flags = ["--experimental-websocket", "--require", str(HERE / "names.cjs")]
            command = ["node", *flags, str(HERE / "driver.cjs"), version.name, *filter(None, [way.origin])]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("FAL_", "NODE_"))}
        env |= {"FAL_KEY": key, "FAL_NAMES_PORT": str(way.names_port), "FAL_HERE": way.origin, **way.env}
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(
            command, env=env, cwd=HERE, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        self.said: list[str] = []  # stderr: what to show when something is amiss
        takers = {
            self.child.stdout: lambda line: report(json.loads(line)),
            self.child.stderr: self.said.append,
        }
        self.threads = [threading.Thread(target=self.read, args=pair, daemon=True) for pair in takers.items()]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def read(stream: IO[str] | None, take: Callable[[str], object]) -> None:
        assert stream is not None
        with stream:
            for line in stream:
                take(line)

    def send(self, command: Event) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(command) + "\n")
        self.child.stdin.flush()

    def stop(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        for thread in self.threads:
            thread.join()


class Client:
    """One client, its events in the order they happened."""

    def __init__(
        self,
        version: Version,
        live_in: LiveIn,
        key: str = KEY,
        proxy: str = "",
    ) -> None:
        self.version = version
        self.events: list[Event] = []
        self.taken: set[int] = set()  # indexes of events somebody waited for
        self.news = threading.Condition()
        self.connected = 0
        self.called = 0
        self.driver = live_in(self.report)
        try:
            self.wait("started")
        except BaseException:  # a test's time ran out, for one: nobody else knows of this driver yet
            self.driver.stop()
            raise
        options: dict[str, Any] = {"credentials": key} if key else {}
        if proxy:  # in Node a proxy is for those who insist
            options["proxyUrl"] = proxy if version.runtime == "chromium" else {"url": proxy, "when": "always"}
        if version.runtime != "python":
            self.do("config", options=options)

    def report(self, event: Event) -> None:
        with self.news:
            self.events.append(from_json(event))
            self.news.notify_all()

    def do(self, command: str, **rest: Any) -> None:
        self.driver.send({"do": command, **to_json(rest)})

    def connect(self, app: str | None = None, **options: Any) -> Live:
        """Options are those of `fal.realtime.connect`; no throttle unless the test asks for it."""
        self.connected += 1
        live = Live(self, f"live{self.connected}")
        self.do(
            "connect", live=live.name, app=app or self.version.app, options={"throttleInterval": 0, **options}
        )
        return live

    def call(self, method: str, /, *args: Any, **options: Any) -> Call:
        """Call a method of the client: "run", "queue.submit". Options are its last argument, in Python its
        keywords. "get" is a plain GET of a URL from where the client lives."""
        self.called += 1
        call = Call(self, f"call{self.called}")
        if self.version.runtime == "python":
            self.do("call", call=call.name, method=method, args=args, options=options)
        else:
            self.do("call", call=call.name, method=method, args=[*args, options] if options else args)
        return call

    def wait(self, *kinds: str, seconds: float = PATIENCE_S, **match: Any) -> Event:
        """The first event of these kinds nobody waited for yet."""
        end = time.monotonic() + seconds
        with self.news:
            while True:
                for i, event in enumerate(self.events):
                    assert event["event"] != "crash", event["message"]
                    if i not in self.taken and is_one(event, kinds, match):
                        self.taken.add(i)
                        return event
                left = end - time.monotonic()
                assert left > 0, f"no {' or '.join(kinds)} in {seconds} s; {self.story()}"
                self.news.wait(left)

    def seen(self, kind: str, **match: Any) -> list[Event]:
        """All events of a kind until now, waited for or not; nobody can wait for them afterwards."""
        with self.news:
            found = {i: event for i, event in enumerate(self.events) if is_one(event, (kind,), match)}
            self.taken |= found.keys()
            return list(found.values())

    def settle(self, after_ms: float = 0) -> None:
        """Returns when the client has reported everything that has reached it, and its timers have run."""
        self.do("ping", after_ms=after_ms)
        self.wait("pong")

    def sent(self) -> list[dict[str, Any]]:
        """The messages that went over the wire until now."""
        frames = self.seen("out")
        return [json.loads(e["bytes"]) if e["text"] else msgpack.unpackb(e["bytes"]) for e in frames]

    def story(self) -> str:
        shown = [{k: str(v)[:200] for k, v in event.items()} for event in self.events[-20:]]
        return f"events: {shown}, stderr: {self.driver.said[-5:]}"

    def stop(self) -> None:
        self.driver.stop()
        for crash in self.seen("crash"):
            raise AssertionError(crash["message"])


def is_one(event: Event, kinds: Iterable[str], match: Mapping[str, Any]) -> bool:
    return event["event"] in kinds and all(event.get(key) == value for key, value in match.items())


class Start(Protocol):
    """Starts a further client against the shared server of that way; it is stopped with the test.

    Without a key of its own it has ours, or by a proxy none.
    """

    def __call__(self, version: Version, way: str, key: str = "", server: Server | None = None) -> Client: ...


class Live:
    """One `fal.realtime.connect(...)` of a client."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name

    def send(self, **fields: Any) -> None:
        self.client.do("send", live=self.name, input=fields)

    def send_raw(self, payload: Any) -> None:
        """Something that is no object."""
        self.client.do("send", live=self.name, input=payload)

    def burst(self, inputs: Iterable[Any], every_ms: float = 0) -> None:
        self.client.do("burst", live=self.name, inputs=list(inputs), every_ms=every_ms)

    def result(self, seconds: float = PATIENCE_S) -> dict[str, Any]:
        event = self.client.wait("result", "error", live=self.name, seconds=seconds)
        assert event["event"] == "result", f"an error came instead: {event}"
        result = event["result"]
        assert isinstance(result, dict), result
        return result

    def error(self) -> Event:
        """{kind, message, status, body} as the client's onError (JS) or exception (Python) has it."""
        event = self.client.wait("result", "error", live=self.name)
        assert event["event"] == "error", f"a result came instead: {str(event)[:400]}"
        return event

    def errors(self) -> list[Event]:
        self.client.settle()
        return self.client.seen("error", live=self.name)

    def results(self) -> list[dict[str, Any]]:
        return [event["result"] for event in self.client.seen("result", live=self.name)]

    def close(self) -> None:
        self.client.do("close", live=self.name)


class Call:
    """One method of a client that was called and may not have come back yet."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name

    def answer(self, seconds: float = PATIENCE_S) -> Any:
        event = self.client.wait("answer", "failure", call=self.name, seconds=seconds)
        assert event["event"] == "answer", f"it failed: {event}"
        return event["value"]

    def failure(self, seconds: float = PATIENCE_S) -> Event:
        """{kind, message, status, body, request_id} of what the client threw."""
        event = self.client.wait("answer", "failure", call=self.name, seconds=seconds)
        assert event["event"] == "failure", f"it did not fail: {str(event)[:400]}"
        return event

    def report(self, kind: str, seconds: float = PATIENCE_S) -> Any:
        """The next value given to a callback of that kind; "piece" for those of a stream."""
        return self.client.wait(kind, call=self.name, seconds=seconds)["value"]

    def reports(self, kind: str) -> list[Any]:
        """All until now."""
        return [event["value"] for event in self.client.seen(kind, call=self.name)]


def reports(kind: str) -> Event:
    """A callback argument that reports what it is given."""
    return {"$reports": kind}


def to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    return {key: from_json(item) for key, item in value.items()}
