"""The connection core: framing, errors, idle, refusal. Time is a number."""

import json

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtime.errors import Draining, InvalidInput, Unauthorized, UnknownApp
from realtime.protocol import Close, Connection, Request


def open_connection(idle_s: float = 300.0) -> Connection:
    return Connection(now=0.0, idle_s=idle_s)


def outputs(connection: Connection) -> list[bytes | str | Close]:
    found = []
    while (output := connection.data_to_send()) is not None:
        found.append(output)
    return found


def text(output: bytes | str | Close | None) -> dict:
    assert isinstance(output, str)
    return json.loads(output)


def test_a_binary_request_is_answered_in_msgpack():
    connection = open_connection()
    request = connection.receive(msgpack.packb({"prompt": "a", "request_id": "r"}), 1.0)
    connection.answer({"seed": 1}, binary=request.binary)
    (sent,) = outputs(connection)
    assert msgpack.unpackb(sent) == {"seed": 1}


def test_a_text_request_is_answered_in_json():
    connection = open_connection()
    request = connection.receive('{"prompt":"a"}', 1.0)
    connection.answer({"seed": 1}, binary=request.binary)
    (sent,) = outputs(connection)
    assert text(sent) == {"seed": 1}


@pytest.mark.parametrize("identity", ["", "r-1", "💡", "x" * 10_000])
def test_a_request_id_is_kept_verbatim(identity):
    assert open_connection().receive(msgpack.packb({"request_id": identity}), 1.0).request_id == identity


@pytest.mark.parametrize("payload", [{}, {"request_id": None}])
def test_a_missing_request_id_is_empty(payload):
    assert open_connection().receive(msgpack.packb(payload), 1.0).request_id == ""


def test_a_numeric_request_id_is_a_string():
    assert open_connection().receive(b"\x81\xaarequest_id\x07", 1.0).request_id == "7"


def test_a_bad_message_is_one_text_error_and_the_connection_lives():
    connection = open_connection()
    assert connection.receive(b"\xc1", 1.0) is None
    (error,) = outputs(connection)
    assert text(error)["type"] == "x-fal-error"
    assert text(error)["error"] == "BAD_REQUEST"
    assert not connection.closed
    assert connection.receive(msgpack.packb({"prompt": "a"}), 2.0) is not None


def test_an_error_of_a_msgpack_request_is_text_and_carries_its_id_and_detail():
    connection = open_connection()
    request = connection.receive(msgpack.packb({"request_id": "r"}), 1.0)
    connection.fail(InvalidInput.at("prompt", "Field required", "missing"), request.request_id)
    (error,) = outputs(connection)
    frame = text(error)
    assert frame["request_id"] == "r"
    assert frame["detail"][0]["loc"] == ["body", "prompt"]


def test_an_empty_text_frame_means_nothing():
    connection = open_connection()
    assert connection.receive("", 1.0) is None
    assert outputs(connection) == []


def test_an_empty_binary_frame_is_a_bad_message():
    connection = open_connection()
    assert connection.receive(b"", 1.0) is None
    assert len(outputs(connection)) == 1


def test_unauthorized_is_the_exact_object_and_then_a_close():
    connection = open_connection()
    connection.refuse(Unauthorized("expired"))
    said, closed = outputs(connection)
    assert text(said) == {"status": "error", "error": "Unauthorized"}
    assert closed == Close(1000)


def test_what_a_refused_connection_sent_is_dropped():
    connection = open_connection()
    connection.refuse(Unauthorized("expired"))
    outputs(connection)
    assert connection.receive(msgpack.packb({"prompt": "a"}), 1.0) is None
    assert connection.receive(b"\xc1", 1.0) is None
    assert outputs(connection) == []


def test_an_unknown_app_is_said_and_closed_normally():
    connection = open_connection()
    connection.refuse(UnknownApp('Application "a/b" not found'))
    said, closed = outputs(connection)
    assert text(said)["error"] == "NOT_FOUND"
    assert closed == Close(1000)


def test_draining_closes_1012():
    connection = open_connection()
    connection.refuse(Draining("down"))
    assert outputs(connection)[-1] == Close(1012)


def test_nothing_is_sent_after_a_close():
    connection = open_connection()
    connection.receive(msgpack.packb({}), 1.0)
    connection.close(1000)
    connection.answer({}, binary=True)
    connection.fail(InvalidInput("late"))
    connection.close(1012)
    assert outputs(connection) == [Close(1000)]


def test_an_idle_connection_is_closed_normally_and_without_a_timeout_frame():
    connection = open_connection(idle_s=30.0)
    connection.tick(29.9)
    assert not connection.closed
    connection.tick(30.0)
    assert outputs(connection) == [Close(1000)]


def test_a_message_restarts_the_idle_time():
    connection = open_connection(idle_s=30.0)
    connection.receive(msgpack.packb({}), 20.0)
    assert connection.wake_at() == 50.0
    connection.tick(30.0)
    assert not connection.closed


def test_even_a_bad_message_is_a_sign_of_life():
    connection = open_connection(idle_s=30.0)
    connection.receive(b"\xc1", 20.0)
    assert connection.wake_at() == 50.0


def test_a_connection_with_frames_being_drawn_is_not_idle():
    connection = open_connection(idle_s=30.0)
    connection.tick(30.0, busy=True)
    assert not connection.closed
    assert connection.wake_at() == 60.0


def test_a_gone_peer_is_sent_nothing():
    connection = open_connection()
    connection.fail(InvalidInput("x"))
    connection.drop()
    assert outputs(connection) == []


class ConnectionMachine(RuleBasedStateMachine):
    """Any order of frames, answers, errors, ticks and closes: a close is the last thing, once."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = Connection(now=0.0, idle_s=10.0)
        self.now = 0.0
        self.requests: list[Request] = []
        self.sent: list[bytes | str | Close] = []

    @rule(frame=st.sampled_from([b"\x80", b"\xc1", b"", "", "{}", "x", '{"request_id":"r"}']))
    def frame(self, frame: bytes | str) -> None:
        unsent = self.connection.unsent
        request = self.connection.receive(frame, self.now)
        if self.connection.closed:
            assert request is None
            assert self.connection.unsent == unsent
        elif request is not None:
            self.requests.append(request)
        else:
            assert self.connection.unsent == unsent + (frame != "")

    @precondition(lambda self: self.requests)
    @rule()
    def answer(self) -> None:
        self.connection.answer({"seed": 1}, binary=self.requests.pop().binary)

    @precondition(lambda self: self.requests)
    @rule()
    def fail(self) -> None:
        self.connection.fail(InvalidInput("x"), self.requests.pop().request_id)

    @rule(seconds=st.floats(0, 12), busy=st.booleans())
    def tick(self, seconds: float, busy: bool) -> None:
        self.now += seconds
        was_closed = self.connection.closed
        self.connection.tick(self.now, busy=busy)
        if not was_closed:
            assert self.connection.closed or self.connection.wake_at() > self.now

    @rule(code=st.sampled_from([1000, 1012]))
    def close(self, code: int) -> None:
        self.connection.close(code)

    @rule()
    def fetch(self) -> None:
        self.sent += outputs(self.connection)

    @invariant()
    def a_close_is_last_and_once(self) -> None:
        closes = [isinstance(output, Close) for output in self.sent]
        assert not any(closes[:-1])
        if any(closes):
            assert self.connection.unsent == 0


TestConnectionMachine = ConnectionMachine.TestCase
TestConnectionMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
