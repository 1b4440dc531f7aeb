"""Peers that flood, stall, vanish or dribble: memory flat, nobody else delayed, nothing left behind."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import msgpack
import psutil
import pytest

from tests.realtime.inside import serving, turns
from tests.realtime.talk import LCM, ask, eventually, masked, opened, raw, send
from tests.realtime.test_wire import EXPENSIVE
from tests.servers import Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

MiB = 1024 * 1024
FRAME = 16 * MiB  # the largest message, as settings have it


def rss(server: Server) -> int:
    return psutil.Process(server.pid).memory_info().rss


class Peak:
    """The highest memory of the gateway while the block runs, over what it had before."""

    def __init__(self, server: Server) -> None:
        self._process = psutil.Process(server.pid)
        self._stop = threading.Event()
        self.growth = 0

    def __enter__(self) -> "Peak":
        self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.growth = max(self.growth, self._process.memory_info().rss - self._before)


def push(peer: socket.socket, data: bytes, total: int) -> None:
    """`data` over and over until `total` bytes are taken, reading and forgetting whatever comes back."""
    peer.settimeout(15)
    sent = 0
    reader = threading.Thread(target=_drain, args=(peer,), daemon=True)
    reader.start()
    while sent < total:
        peer.sendall(data)
        sent += len(data)
    peer.shutdown(socket.SHUT_WR)
    reader.join(15)


def _drain(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while peer.recv(262144):
            pass


FLOODS = {
    "pictures": masked(2, msgpack.packb({"prompt": "a", "image_bytes": b"\xff\xd8" * 32768})),
    "frames": masked(2, msgpack.packb({"prompt": "a" * 1000})) * 64,
    "text": masked(1, b'{"prompt":"' + b"a" * 60_000 + b'"}'),
    "large and bad": masked(2, b"\xc1" * 200_000),
}


@pytest.mark.parametrize(
    ("name", "size"), [("pictures", 300), ("large and bad", 300), ("text", 60), ("frames", 20)]
)
@pytest.mark.timeout(60)
def test_a_flood_costs_less_than_10_MB(server: Server, name: str, size: int):
    with raw(server) as peer:  # what one such message needs is not what grows
        push(peer, FLOODS[name], 5 * MiB)
    with raw(server) as peer, Peak(server) as peak:
        push(peer, FLOODS[name], size * MiB)
    assert peak.growth < 10_000_000, f"{peak.growth / 1e6:.1f} MB"


MANY = int(os.environ.get("FLOOD_MESSAGES", "20000"))  # `make flood` sends a million
MESSAGES = {
    "not msgpack": masked(2, b"\xc1"),
    "not JSON": masked(1, b"{"),
    "no request": masked(2, b"\x80"),
    "empty text": masked(1, b""),
    "pings": masked(9, b"?"),
    "fragments": masked(0, b"", fin=False),
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.timeout(60 + MANY // 1000)
def test_tiny_messages_without_end_leave_memory_flat(server: Server, name: str):
    with raw(server) as peer:
        start = masked(2, b"", fin=False) if name == "fragments" else b""
        peer.sendall(start)
        push(peer, MESSAGES[name] * 1000, 5000 * len(MESSAGES[name]))
    with raw(server) as peer, Peak(server) as peak:
        peer.sendall(start)
        push(peer, MESSAGES[name] * 1000, MANY * len(MESSAGES[name]))
    assert peak.growth < 4_000_000, f"{peak.growth / 1e6:.1f} MB"


def test_bad_messages_are_each_answered(server: Server):
    with raw(server) as peer:
        heard = bytearray()

        def listen() -> None:
            with contextlib.suppress(OSError):
                while piece := peer.recv(262144):
                    heard.extend(piece)

        reader = threading.Thread(target=listen)
        reader.start()
        peer.sendall(masked(2, b"\xc1") * 3000)
        until = time.monotonic() + 10
        while heard.count(b"x-fal-error") < 3000 and time.monotonic() < until:
            time.sleep(0.02)
        peer.shutdown(socket.SHUT_RDWR)
        reader.join()
    assert heard.count(b"x-fal-error") == 3000


@pytest.mark.parametrize("name", ["not msgpack", "pings", "frames"])
@pytest.mark.timeout(60)
def test_a_peer_that_never_reads_is_not_read_either_and_then_cut(name: str):
    data = FLOODS["frames"] if name == "frames" else MESSAGES[name] * 1000
    with serve(send_timeout_s=1.0, ping_s=1.0) as server, raw(server, buffer=4096) as peer:
        with Peak(server) as peak:
            peer.settimeout(0.5)
            start = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - start < 12:
                    with contextlib.suppress(TimeoutError):
                        peer.send(data)
        assert peak.growth < 10_000_000, f"{peak.growth / 1e6:.1f} MB"
        asyncio.run(eventually(lambda: server.metric("realtime_sockets") == 0))


@pytest.mark.timeout(60)
async def test_a_slow_reader_gets_the_newest_pictures_and_costs_no_memory():
    with serve(max_batch=1) as server:
        wish = {"prompt": "a", "image_size": {"width": 1024, "height": 1024}, "format": "png"}
        async with opened(server, max_buffering=2) as ws:
            with Peak(server) as peak:
                for number in range(300):
                    await send(ws, wish | {"seed": number, "request_id": str(number)})
                    await asyncio.sleep(0.01)
            answered = []
            while not answered or answered[-1] != 299:
                answered.append(int(msgpack.unpackb(await ws.recv())["request_id"]))
        assert answered == sorted(set(answered))
        assert peak.growth < 20_000_000


LIMIT_S = 0.05


async def longest_turns(state_dir: Path, work: dict[str, bytes]) -> dict[str, float]:
    """By name, the processor seconds of the longest turn of the loop while those bytes come in.

    The best of a few tries: a neighbour on the same core makes processor seconds longer too.
    """
    found: dict[str, float] = {}
    async with serving(state_dir) as server:
        for name, data in work.items():
            for _ in range(8):
                with await asyncio.to_thread(raw, server) as peer, turns() as spent:
                    await asyncio.to_thread(push, peer, data, len(data))
                found[name] = min(max(spent), found.get(name, 1.0))
                if found[name] < LIMIT_S:
                    break
    return found


def too_long(turns: dict[str, float]) -> dict[str, float]:
    return {name: seconds for name, seconds in turns.items() if seconds >= LIMIT_S}


@pytest.mark.timeout(60)
async def test_the_largest_hostile_frames_never_hold_the_loop_for_50_ms(tmp_path: Path):
    frames = {name: make() for name, make in EXPENSIVE.items()}
    work = {
        name: masked(1, frame.encode()[:FRAME]) if isinstance(frame, str) else masked(2, frame)
        for name, frame in frames.items()
    }
    assert too_long(await longest_turns(tmp_path, work)) == {}


async def test_a_storm_of_tiny_messages_never_holds_the_loop_for_50_ms(tmp_path: Path):
    start = masked(2, b"", fin=False)
    work = {name: start * (name == "fragments") + data * 3000 for name, data in MESSAGES.items()}
    assert too_long(await longest_turns(tmp_path, work)) == {}


async def test_a_turn_that_takes_long_is_seen(tmp_path: Path):
    async with serving(tmp_path):
        with turns() as spent:
            asyncio.get_running_loop().call_soon(sum, range(10_000_000))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert max(spent) > LIMIT_S


def half_close(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


WAYS = {"fin": socket.socket.close, "reset": reset, "half-close": half_close}
MOMENTS = {
    "after the handshake": b"",
    "inside a frame header": b"\x82",
    "inside a frame": masked(2, b"x" * 1000)[:500],
    "between fragments": masked(2, b"x", fin=False),
    "while drawn": masked(2, msgpack.packb({"prompt": "!slow 0.3"})),
    "with a full mailbox": masked(2, msgpack.packb({"prompt": "!slow 0.3"})) * 20,
    "after a bad message": masked(2, b"\xc1"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_client_that_dies_leaves_nothing_behind(server: Server, moment: str, way: str):
    peers = [raw(server) for _ in range(5)]
    for peer in peers:
        peer.sendall(MOMENTS[moment])
    await asyncio.sleep(0.05)
    for peer in peers:
        WAYS[way](peer)
    await eventually(lambda: server.metric("realtime_sockets") == 0)
    async with opened(server) as ws:
        assert "images" in await ask(ws, {"prompt": "a"})
    for peer in peers:
        peer.close()


async def test_the_frames_of_a_client_that_left_are_not_drawn():
    with serve(model="fake:base_ms=100", heartbeat_s=0.2) as server:
        peer = raw(server, LCM + "?max_buffering=60")
        peer.sendall(masked(2, msgpack.packb({"prompt": "a", "num_inference_steps": 12})) * 20)
        await eventually(lambda: server.metric("realtime_messages_total") == 20)
        peer.close()
        await eventually(lambda: server.metric("realtime_frames_total", outcome="abandoned") >= 18)
        await eventually(lambda: server.metric("realtime_engine_ended_total", outcome="cancelled") >= 18, 3)
        before = server.metric("realtime_engine_steps_total")
        await asyncio.sleep(1)
        assert server.metric("realtime_engine_steps_total") <= before + 1, "nothing is left to draw"


@pytest.mark.timeout(60)
async def test_rounds_of_connects_leave_memory_files_and_tasks_where_they_were(server: Server):
    process = psutil.Process(server.pid)

    async def connect_round() -> None:
        async with contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(opened(server)) for _ in range(50)]
            await asyncio.gather(*(ask(ws, {"prompt": "a"}) for ws in sockets[:10]))
        await eventually(lambda: server.metric("realtime_sockets") == 0)

    for _ in range(4):
        await connect_round()
    before, files = process.memory_info().rss, process.num_fds()
    for _ in range(6):
        await connect_round()
    assert process.memory_info().rss - before < 2_000_000
    assert process.num_fds() <= files + 2


def test_half_a_request_is_cut():
    with serve(handshake_s=0.5) as server:
        peers = [socket.create_connection((server.host, server.port)) for _ in range(50)]
        for number, peer in enumerate(peers):
            peer.settimeout(5)
            peer.sendall(f"GET {LCM} HTTP/1.1\r\nHost: x\r\n".encode()[: number * 2])
        assert server.get("/livez")[0] == 200
        start = time.monotonic()
        for peer in peers:
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv(1) == b""
            peer.close()
        assert time.monotonic() - start < 3


async def test_a_handshake_and_a_frame_that_dribble_in_byte_by_byte_are_served(server: Server):
    def dribble() -> bytes:
        with socket.create_connection((server.host, server.port)) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.settimeout(10)
            request = (
                f"GET {LCM} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
            for byte in request:
                peer.sendall(bytes([byte]))
            while b"\r\n\r\n" not in peer.recv(4096):
                pass
            for byte in masked(2, msgpack.packb({"prompt": "a", "request_id": "slow"})):
                peer.sendall(bytes([byte]))
            heard = b""
            while b"slow" not in heard:
                heard += peer.recv(65536)
            return heard

    assert b"images" in await asyncio.to_thread(dribble)


async def test_a_busy_engine_costs_no_pong_and_no_socket():
    with serve(ping_s=0.3) as server:
        async with opened(server, max_buffering=60) as ws:
            for number in range(10):
                await send(ws, {"prompt": "!hang 2" if number == 0 else "a", "request_id": str(number)})
            for number in range(10):
                assert msgpack.unpackb(await ws.recv())["request_id"] == str(number)


def test_a_peer_that_answers_no_ping_is_closed_without_a_traceback():
    with serve(ping_s=0.2) as server, raw(server) as peer:
        with contextlib.suppress(OSError):
            while True:
                peer.sendall(masked(2, msgpack.packb({"prompt": "a"})))
                if not peer.recv(65536):
                    break
        assert server.terminate() == 0
        assert not [line for line in server.log if "Traceback" in line or '"error"' in line]


async def test_an_idle_socket_costs_less_than_40_KiB():
    with serve() as server:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(opened(server))
            before = rss(server)
            for _ in range(300):
                await stack.enter_async_context(opened(server))
            assert (rss(server) - before) / 300 < 40 * 1024
