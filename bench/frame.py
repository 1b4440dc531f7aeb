"""`python -m bench.frame`: processor time of one frame in the gateway, without the kernel's share.

The closed loop of `bench gateway` with `bench.noop`, less sockets: bytes go into `transport.Frames` and
come out at a transport that drops them. Thread CPU seconds of many short turns; the least of them is what
the code costs when no neighbour shares the core, and the figure to compare two versions of it by.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import msgpack
import uvicorn
from uvicorn.server import ServerState
from websockets.protocol import State

from bench.client import BINARY, masked
from bench.load import run, uncollected
from bench.noop import Noop
from realtime.apps import find
from realtime.engine import Engine
from realtime.gateway import Gateway
from realtime.service import Caller
from realtime.settings import Settings
from realtime.socket import Message, Socket
from realtime.transport import Frames

REQUEST = {
    "prompt": "a red circle",
    "seed": 1,
    "image_size": {"width": 128, "height": 128},
    "request_id": "x",
}
TURNS, FRAMES = 400, 640


class Sink:
    """As much of an asyncio transport as `Frames` asks of one."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += 1

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


async def frame_us(sockets: int, state_dir: Path) -> list[float]:
    """CPU microseconds a frame, of each turn, ascending."""
    settings = Settings(model="fake", port=0, state_dir=state_dir)
    engine = Noop(settings)
    gateway = Gateway(settings, cast(Engine, engine))
    gateway.engine_changed()
    answering = asyncio.create_task(engine.run())
    config = uvicorn.Config(cast(Any, gateway), ws_max_size=settings.max_frame_bytes, log_config=None)
    config.load()
    ends = [Frames(config=config, server_state=ServerState(), app_state={}) for _ in range(sockets)]
    gone = asyncio.Event()
    running = []
    for number, end in enumerate(ends):
        end.transport, end.handshake_initiated, end.conn.state = cast(Any, Sink()), True, State.OPEN
        app = find("fal-ai/lcm")
        assert app is not None

        async def receive() -> Message:
            await gone.wait()
            return {"type": "websocket.disconnect"}

        socket = Socket(gateway, app, end, receive, name=f"s{number}", buffering=2, caller=Caller(""))
        running.append(asyncio.create_task(socket.run()))
    await asyncio.sleep(0)
    frame = masked(BINARY, msgpack.packb(REQUEST))
    spent = []
    with uncollected():
        for _ in range(TURNS):
            start = time.thread_time()
            for _ in range(FRAMES // sockets):
                for end in ends:
                    end.data_received(frame)
                await asyncio.sleep(0)  # `Noop` answers in the loop's next turn
            spent.append((time.thread_time() - start) / (FRAMES // sockets * sockets) * 1e6)
    answered = sum(cast(Any, end.transport).written for end in ends)
    assert answered == TURNS * (FRAMES // sockets) * sockets, f"{answered} answers"
    gone.set()
    await asyncio.gather(*running)
    answering.cancel()
    return sorted(spent)


def main() -> None:
    os.environ["RT_LOG_LEVEL"] = "warning"
    print(f"{'sockets':>8} {'least':>7} {'median':>7}   CPU us a frame, {TURNS} turns of {FRAMES}")
    for sockets in (1, 8, 64):
        with tempfile.TemporaryDirectory(prefix="bench-") as state:
            spent = run(frame_us(sockets, Path(state)))
        print(f"{sockets:8} {spent[0]:7.2f} {statistics.median(spent):7.2f}")


if __name__ == "__main__":
    main()
