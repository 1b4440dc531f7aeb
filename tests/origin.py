"""A web server on loopback whose every byte the test chooses."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]  # (request target, where to write)


@dataclass
class Origin:
    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)  # heads as they came

    @property
    def hits(self) -> int:
        return len(self.requests)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@asynccontextmanager
async def origin(
    answer: Answer, *, keep_alive: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Origin]:
    """Serves until the block ends. Without keep_alive a connection is closed after its first answer."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        here.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                here.requests.append(head)
                await answer(head.split(b" ")[1].decode(), writer)
                await writer.drain()
                if not keep_alive:
                    break
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    here = Origin(server.sockets[0].getsockname()[1])
    try:
        yield here
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def response(
    body: bytes = b"", status: str = "200 OK", headers: tuple[str, ...] = (), length: int | None = None
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def always(data: bytes) -> Answer:
    async def answer(target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer
