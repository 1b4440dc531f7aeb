"""Replies leave in order and whole, whoever sends them and however slowly they are read."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from engines.outbox import HELD, Outbox


@pytest.fixture
def link() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def started(ours: socket.socket) -> Outbox:
    outbox = Outbox(ours)

    def run() -> None:
        with pytest.raises(OSError):
            outbox.run()

    threading.Thread(target=run, daemon=True).start()
    return outbox


def read(theirs: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = theirs.recv(min(65536, size - len(data)))
        assert piece, "the link ended early"
        data += piece
    return bytes(data)


def test_a_frame_that_the_socket_takes_is_written_before_send_returns(link):
    ours, theirs = link
    Outbox(ours).send(b"frame")  # nobody is in `run`
    assert theirs.recv(100) == b"frame"


def test_frames_of_many_threads_arrive_whole_and_each_thread_s_in_order(link):
    ours, theirs = link
    outbox = started(ours)
    size, frames, senders = 3001, 60, 4

    def send(sender: int) -> None:
        for number in range(frames):
            outbox.send(bytes([sender, number]) + bytes([sender]) * (size - 2))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {sender: [] for sender in range(senders)}
    for _ in range(frames * senders):
        frame = read(theirs, size)
        assert set(frame[2:]) == {frame[0]}, "the bytes of two frames are mixed"
        seen[frame[0]].append(frame[1])
    for thread in threads:
        thread.join(10)
    assert all(numbers == list(range(frames)) for numbers in seen.values())


def test_who_sends_waits_when_much_is_unread(link):
    ours, theirs = link
    outbox = started(ours)
    sent = 0

    def flood() -> None:
        nonlocal sent
        for _ in range(2 * HELD):
            outbox.send(bytes(10_000))
            sent += 1

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while sent < HELD and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    assert HELD <= sent < HELD + 10
    read(theirs, 2 * HELD * 10_000)
    thread.join(10)
    assert sent == 2 * HELD


def test_the_end_of_the_gateway_is_an_error(link):
    ours, theirs = link
    theirs.close()
    with pytest.raises(OSError):
        Outbox(ours).send(b"frame")
