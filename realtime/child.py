"""One engine process and our end of its link. Who starts it again is realtime/engine.py's business."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, cast

import structlog

from engines.link import Decoder, LinkError, pack
from engines.recorder import Recorder, page
from realtime.settings import Settings

WRITE_AHEAD = 1024 * 1024  # bytes in our write buffer above which `paused` is set
GRACE_S = 0.3  # for an engine whose link has ended to end by itself
REAP_S = 5.0  # for the kernel to end a killed process; a wedged driver can take longer

log = structlog.get_logger()


class Child(asyncio.Protocol):
    """`receive` gets each message; `resumed` is called when the engine reads again after `paused`."""

    def __init__(self, receive: Callable[[Any], None], resumed: Callable[[], None]) -> None:
        self.paused = False  # it does not read: send no more frames
        self._receive, self._resumed = receive, resumed
        self._decoder = Decoder()
        self._closing = False
        self._closed = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._recorder: Recorder | None = None

    async def start(self, settings: Settings) -> int:
        """The process id. Raises OSError if the system has no process or descriptor to give."""
        recorder = page()
        try:
            self._recorder = Recorder(recorder)
            ours, theirs = socket.socketpair()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *_command(settings, theirs.fileno(), recorder),
                    pass_fds=[theirs.fileno(), recorder],
                    env=environment(settings),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=2,  # our stderr, as its own stderr is
                )
                await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()  # else the end of the child would be no end of file
        finally:
            os.close(recorder)
        return self._process.pid

    async def ended(self, timeout_s: float) -> bool:
        """Wait so long for the end of the link; whether it came."""
        await asyncio.wait([self._closed], timeout=timeout_s)
        return self._closed.done()

    def send(self, message: Any) -> None:
        """Never waits. Raises LinkError for a message that cannot be packed."""
        data = pack(message)
        if self._transport is not None:
            self._transport.write(data)

    def at_risk(self) -> set[int] | None:
        """Tickets it is working on, or was when it ended; None if it cannot be said."""
        return None if self._recorder is None else self._recorder.tickets()

    def close(self) -> None:
        """End the link, and by that the engine."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    async def bury(self) -> int | None:
        """The exit code. The closed link ends the engine, else SIGKILL; None if it outlasts even that."""
        self.close()
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
        if self._process is None:
            return None
        for wait_s in (GRACE_S, REAP_S):
            try:
                async with asyncio.timeout(wait_s):
                    return await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        log.error("engine.unreaped", pid=self._process.pid)
        return None

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of asyncio's
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD)
        if self._closing:  # closed while it was being started
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._receive(message)
        except LinkError as error:
            log.error("engine.link", reason=str(error))
            self.close()

    def eof_received(self) -> None:
        self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._resumed()


def _command(settings: Settings, link: int, recorder: int) -> list[str]:
    return command(settings, fd=link, recorder=recorder)


def command(settings: Settings, **further: int) -> list[str]:
    """Of an engine process. -P: a folder called `engines` in the working directory is not ours."""
    given = {
        **further,
        "parent": os.getpid(),
        "model": settings.model,
        "device": settings.device.partition(":")[0],  # the number is in its environment
        "dtype": settings.dtype,
        "threads": settings.threads,
        "max-batch": settings.max_batch,
        "backend": settings.backend,
        "compile-mode": settings.compile_mode,
        "graphs": settings.graphs,
        "builds": settings.state_dir / "builds",
        "vae": settings.vae,
        "lora": settings.lora,
        "cache-bytes": settings.cache_bytes,
    }
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    switches = {
        "--deterministic": settings.deterministic,
        "--quick-start": settings.quick_start,
        "--search": settings.search,
    }
    return [sys.executable, "-P", "-m", "engines", *options, *(name for name, on in switches.items() if on)]


def environment(settings: Settings) -> dict[str, str]:
    """Of an engine process: ours, and on a CPU what glibc and OpenMP read only at start. What the user has
    set wins."""
    kind, _, number = settings.device.partition(":")
    if kind == "cuda" and number:  # of those we may see; to the engine it is the only one there is
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        own = dict(enumerate(seen.split(","))).get(int(number), number) if seen else number
        return {**os.environ, "CUDA_VISIBLE_DEVICES": own}
    if settings.device not in ("auto", "cpu") or settings.model.startswith("fake"):
        return dict(os.environ)
    # Freshly mapped activations cost page faults at every call: batched VAE decode 1390 -> 738 ms.
    kept = {
        "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
        "MALLOC_TOP_PAD_": str(256 << 20),
        "OMP_NUM_THREADS": str(settings.threads),
    }
    return kept | os.environ
