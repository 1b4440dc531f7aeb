"""Messages reach the loop in order, those of one boundary at a time."""

from __future__ import annotations

import math
import socket
import threading

import pytest

from engines.inbox import Inbox
from engines.link import LinkError, pack
from engines.messages import Cancel, Ping, Pong


@pytest.fixture
def link():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_comes_while_a_boundary_takes_is_for_the_next_one(link):
    inbox = Inbox(link[0])
    for number in (1, 2):
        inbox.put(number)
    for wait in (0, math.inf):
        taken = []
        for message in inbox.take(wait):
            taken.append(message)
            inbox.put(message + 10)  # an inbox that fills as fast as it is read
        assert len(taken) == 2
    assert list(inbox.take(0)) == [21, 22]
    assert list(inbox.take(0)) == []


def test_who_waits_is_woken_by_the_first_message_whatever_it_is(link):
    inbox, woken = Inbox(link[0]), threading.Event()
    taken = []

    def take() -> None:
        taken.extend(inbox.take(math.inf))
        woken.set()

    threading.Thread(target=take, daemon=True).start()
    inbox.put(None)
    assert woken.wait(10)
    assert taken == [None]


def test_the_link_is_read_to_its_end_whatever_the_split(link):
    ours, theirs = link
    sent = [Cancel([1, 2]), Ping(3), Pong(4, {})]
    for byte in b"".join(pack(message) for message in sent):
        theirs.send(bytes([byte]))
    theirs.shutdown(socket.SHUT_WR)
    inbox = Inbox(ours)
    inbox.run()
    assert list(inbox.take(math.inf)) == sent


def test_what_no_gateway_writes_is_an_error_and_comes_after_what_was_whole(link):
    ours, theirs = link
    theirs.sendall(pack(Ping(1)) + b"\xff" * 100)
    inbox = Inbox(ours)
    with pytest.raises(LinkError):
        inbox.run()
    assert list(inbox.take(math.inf)) == [Ping(1)]
