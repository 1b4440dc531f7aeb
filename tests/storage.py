"""A storage of its own for a test, asked without a server: the clock is a variable.

desk = Desk(tmp_path)
answer = await desk.ask("PUT", "/files/...", b"bytes")
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.requests import Request

from realtime import hosts
from realtime.errors import Failure
from realtime.keys import Keys
from realtime.limits import Limits
from realtime.service import Caller
from realtime.settings import Settings
from realtime.storage import Storage
from realtime.tokens import Tokens

KEYS = ["me:secret", "you:secret"]


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Desk:
    """`settings` are names of realtime/settings.py. Close it in the end."""

    def __init__(self, state_dir: Path, keys: Iterable[str] = KEYS, **settings: Any) -> None:
        self.clock = Clock()
        self.settings = Settings(
            state_dir=state_dir, disk_reserve=settings.pop("disk_reserve", 0), **settings
        )
        self.keys = Keys(keys)
        self.limits = Limits(self.settings, clock=self.clock)
        self.tokens = Tokens(b"s" * 32, self.keys, self.clock)
        self.storage = Storage(self.settings, self.keys, self.tokens, self.limits, self.clock)
        self.received = 0  # pieces of bodies that were read

    def close(self) -> None:
        self.storage.close()

    async def ask(
        self,
        method: str,
        url: str,
        body: bytes | Iterable[bytes] | AsyncIterator[bytes] | None = None,
        *,
        json: Any = None,
        key: str = "me:secret",
        **headers: str,
    ) -> Answer:
        """One request as the gateway would hand it over. `a_b="c"` is the header `a-b: c`."""
        sent = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        if key:
            sent.setdefault("authorization", f"Key {key}")
        if json is not None:
            body = _dumped(json)
        if isinstance(body, bytes):
            sent.setdefault("content-length", str(len(body)))
        parts = urlsplit(url)
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": unquote(parts.path),
            "query_string": parts.query.encode(),
            "headers": [(b"host", b"storage.test")]
            + [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
        }
        pieces = self._pieces(body)
        ended = False

        async def receive() -> dict[str, Any]:
            nonlocal ended
            try:
                piece = await anext(pieces)
            except ConnectionResetError:
                return {"type": "http.disconnect"}
            except StopAsyncIteration:
                if ended:
                    await asyncio.Event().wait()  # the client waits for its answer
                ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            self.received += 1
            return {"type": "http.request", "body": piece, "more_body": True}

        answer = Answer(0)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {
                    name.decode(): value.decode("latin-1") for name, value in message["headers"]
                }
            else:
                answer.body += message.get("body", b"")

        request = Request(scope, receive)
        target = hosts.target("storage.test", scope["path"])
        try:
            caller = Caller("")
            if not self.storage.public(request, target):
                caller = Caller(self.keys.check(request.headers.get("authorization")))
            response = await self.storage.respond(request, target, caller)
        except Failure as failure:
            return Answer(failure.status, failure.headers, _dumped(failure.body()))
        assert response is not None, "not storage's"
        await response(scope, receive, send)
        return answer

    async def _pieces(
        self, body: bytes | Iterable[bytes] | AsyncIterator[bytes] | None
    ) -> AsyncIterator[bytes]:
        if body is None:
            return
        if isinstance(body, bytes):
            yield body
        elif isinstance(body, AsyncIterator):
            async for piece in body:
                yield piece
        else:
            for piece in body:
                yield piece

    async def upload(
        self, data: bytes = b"data", name: str = "a.png", content_type: str = "image/png", **headers: str
    ) -> str:
        """The URL of a file sent as JavaScript sends it."""
        wish = {"file_name": name, "content_type": content_type}
        begun = await self.ask(
            "POST", "/storage/upload/initiate?storage_type=fal-cdn-v3", json=wish, **headers
        )
        assert begun.status == 200, begun.body
        sent = await self.ask("PUT", begun.json["upload_url"], data, key="", content_type=content_type)
        assert sent.status == 200, sent.body
        return str(begun.json["file_url"])

    def bytes_on_disk(self) -> int:
        return sum(
            file.stat().st_size for file in (self.settings.state_dir / "objects").rglob("*") if file.is_file()
        )


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()
