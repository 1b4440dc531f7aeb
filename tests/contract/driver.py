"""python driver.py sync|async: fal-client driven by JSON lines, commands on stdin, events on stdout.

How it finds the server is in the environment, read before fal-client is imported:
FAL_NAMES_PORT  fal's host names resolve to this local port in this process (with SSL_CERT_FILE for the CA)
FAL_NAMES_LOST  those of them, separated by blanks, that cannot be resolved
FAL_HERE        a plain HTTP origin; web/fal_here.py leads fal-client there
FAL_RUN_HOST, FAL_QUEUE_RUN_HOST    fal-client's own variables (TLS only, no tokens, no storage)
The names are those of control.js; see there for the events.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import names

names.map_to(int(os.environ.get("FAL_NAMES_PORT", "0")))
import fal_client  # noqa: E402
import fal_client.client  # noqa: E402
import httpx  # noqa: E402

if here := os.environ.get("FAL_HERE"):
    sys.path.append(str(Path(__file__).parents[2] / "web"))
    from fal_here import fal_here

    fal_here(here)


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    return {key: from_json(item) for key, item in value.items()}


def to_json(value: Any) -> Any:
    """Statuses get their class as `kind`; of handles only what names their request."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **to_json({k: v for k, v in fields.items() if k != "client"})}
    return value


def emit(event: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
    sys.stdout.flush()


def facts(error: Exception) -> dict[str, Any]:
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    body = to_json(getattr(error, "payload", None))
    if body is None and response is not None and response.headers.get("content-type") == "application/json":
        body = response.json()
    return {"kind": type(error).__name__, "message": str(error), "status": status, "body": body}


async def get(url: str) -> dict[str, Any]:
    """As a program would fetch a picture. Of a large one only what it hashes to."""
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(url)
    return {
        "status": answer.status_code,
        "type": answer.headers.get("content-type"),
        "size": len(answer.content),
        "sha256": hashlib.sha256(answer.content).hexdigest(),
        "bytes": answer.content if len(answer.content) < 1_000_000 else None,
    }


def options_of(options: dict[str, Any]) -> dict[str, Any]:
    """What `realtime()` takes, from what control.js takes."""
    taken = {"use_jwt": options.get("use_jwt", True)}
    if "maxBuffering" in options:
        taken["max_buffering"] = options["maxBuffering"]
    if options.get("text"):
        taken["encode_message"] = json.dumps
    return taken


async def wait_for(call: Callable[..., Any], *given: Any) -> Any:
    """The synchronous client in a thread, the asynchronous one on the loop: otherwise they are alike."""
    value = await asyncio.to_thread(call, *given) if not inspect.iscoroutinefunction(call) else call(*given)
    return await value if inspect.isawaitable(value) else value


class Driver:
    """Reads each connection in the background, as a program that draws while it sends would."""

    def __init__(self, client: fal_client.SyncClient | fal_client.AsyncClient) -> None:
        self.client = client
        self.fetch_token = type(client)._get_realtime_token
        self.contexts: dict[str, Any] = {}
        self.connections: dict[str, Any] = {}
        self.handles: dict[str, Any] = {}
        self.readers: set[asyncio.Task[None]] = set()

    async def connect(self, live: str, app: str, options: dict[str, Any]) -> None:
        context: Any = self.client.realtime(app, **options_of(options))
        enter = getattr(context, "__aenter__", None) or context.__enter__
        try:
            connection = await wait_for(enter)
        except Exception as error:  # whatever the client raises is what its user sees
            return emit("error", live=live, **facts(error))
        self.contexts[live], self.connections[live] = context, connection
        emit("open", live=live)
        self.readers.add(asyncio.create_task(self.read(live, connection)))

    async def read(self, live: str, connection: Any) -> None:
        while True:
            try:
                result = await wait_for(connection.recv)
            except fal_client.client.RealtimeError as error:
                emit("error", live=live, **facts(error))
                if error.error == "CONNECTION_CLOSED":
                    break
                continue
            if result is None:
                break
            emit("result", live=live, result=to_json(result))
        emit("closed", live=live, code=connection._ws.close_code, reason=connection._ws.close_reason)

    async def send(self, live: str, input: Any) -> None:
        await wait_for(self.connections[live].send, from_json(input))

    async def burst(self, live: str, inputs: list[Any], every_ms: float) -> None:
        for input in inputs:
            await self.send(live, input)
            await asyncio.sleep(every_ms / 1000)

    async def close(self, live: str) -> None:
        context = self.contexts.pop(live)
        await wait_for(getattr(context, "__aexit__", None) or context.__exit__, None, None, None)

    async def forge(self, token: str | None) -> None:
        """Connections made from now on carry this token, as if `/tokens/` had answered it; None: its own."""

        async def forged(*_: Any, **__: Any) -> str | None:
            return token

        kind: Any = type(self.client)
        if token is None:
            kind._get_realtime_token = self.fetch_token
        else:
            kind._get_realtime_token = forged if kind is fal_client.AsyncClient else lambda *_, **__: token

    def call(self, call: str, method: str, args: list[Any], options: dict[str, Any]) -> None:
        """Any method of the client by name, or of the handle a call got: "call1.status"."""
        task = asyncio.create_task(self.come_back(call, method, from_json(args), from_json(options)))
        self.readers.add(task)
        task.add_done_callback(self.readers.discard)

    async def come_back(self, call: str, method: str, args: list[Any], options: dict[str, Any]) -> None:
        def report(kind: str) -> Callable[[Any], None]:
            return lambda value: emit(kind, call=call, value=to_json(value))

        for name, value in options.items():
            if isinstance(value, dict) and "$reports" in value:
                options[name] = report(value["$reports"])
        owner, _, name = method.rpartition(".")
        try:
            found = get if method == "get" else getattr(self.handles[owner] if owner else self.client, name)
            value = await wait_for(partial(found, *args, **options))
            if inspect.isasyncgen(value):
                value = [report("piece")(piece) async for piece in value] and None
            elif inspect.isgenerator(value):
                value = await asyncio.to_thread(lambda: [report("piece")(piece) for piece in value] and None)
            if hasattr(value, "request_id"):
                self.handles[call] = value
            emit("answer", call=call, value=to_json(value))
        except Exception as error:  # whatever the client raises is what its user sees
            emit("failure", call=call, **facts(error))

    async def ping(self, after_ms: float) -> None:
        await asyncio.sleep(after_ms / 1000)
        emit("pong")


async def main(kind: str) -> None:
    key = os.environ["FAL_KEY"]
    driver = Driver(fal_client.SyncClient(key=key) if kind == "sync" else fal_client.AsyncClient(key=key))
    emit("started")
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        coming = getattr(driver, command.pop("do"))(**command)
        if coming is not None:
            await coming
    os._exit(0)  # not through the threads that still wait in recv()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
