"""What a key may use: counted with a clock that is a variable, and refused as fal's clients expect."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from realtime.errors import TooMuch
from realtime.keys import KeyFile
from realtime.limits import Limits, Meter, Quota
from realtime.service import Caller
from realtime.settings import Settings
from tests.servers import serve
from tests.storage import Clock, Desk

ME, YOU = Caller("me"), Caller("you")


def limits(clock: Clock, own: dict[str, dict[str, float]] | None = None, **usual: float) -> Limits:
    given = own or {}
    return Limits(Settings(**usual), lambda key_id: given.get(key_id, {}), clock)


def taken(meter: Meter, now: float, tries: int) -> int:
    """How many of `tries` at one moment are let through."""
    count = 0
    for _ in range(tries):
        try:
            meter.take(now)
        except TooMuch:
            continue
        count += 1
    return count


# ---- the meter ----


def test_a_second_has_its_frames_at_once_and_no_more():
    meter = Meter(5, 1.0, "frames per second")
    assert taken(meter, 1000.0, 20) == 5
    assert taken(meter, 1000.19, 20) == 0
    assert taken(meter, 1000.21, 20) == 1
    assert taken(meter, 1010.0, 20) == 5


def test_less_than_one_a_second_is_one_at_a_time():
    meter = Meter(0.5, 1.0, "frames per second")
    assert [taken(meter, 1000.0 + second, 3) for second in (0, 1, 2, 3, 4)] == [1, 0, 1, 0, 1]


def test_nothing_is_counted_without_a_limit():
    assert taken(Meter(0, 1.0, "frames per second"), 1000.0, 10_000) == 10_000


@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), max_size=40),
)
def test_in_no_stretch_of_time_more_is_taken_than_the_rate_and_one_second_of_it(
    rate: float, bursts: list[tuple[float, int]]
):
    meter, now, history = Meter(rate, 1.0, "frames"), 5000.0, []
    for wait, tries in bursts:
        now += wait
        history.append((now, taken(meter, now, tries)))
    for first in range(len(history)):
        for last in range(first, len(history)):
            count = sum(amount for _, amount in history[first : last + 1])
            assert count <= (history[last][0] - history[first][0]) * rate + max(rate, 1.0) + 1e-6


@given(st.floats(1, 100))
def test_who_keeps_to_the_rate_is_never_refused(rate: float):
    meter = Meter(rate, 1.0, "frames")
    assert sum(taken(meter, 5000.0 + n / rate * 1.0000001, 1) for n in range(300)) == 300


def test_a_debt_is_paid_off_before_anything_is_taken():
    meter = Meter(60, 60.0, "bytes per minute")
    meter.take(1000.0)
    meter.owe(1000.0, 120)
    assert taken(meter, 1060.0, 1) == 0
    assert taken(meter, 1063.0, 1) == 1


# ---- who has which ----


def test_a_keys_own_limits_stand_beside_those_of_all():
    ours = limits(Clock(), {"me": {"sockets": 3, "stored_bytes": 0}}, key_sockets=1, key_queued=7)
    assert ours.quota("you") == Quota(1, 0, 7, 10 * 1024**3, 0)
    assert ours.quota("me") == Quota(3, 0, 7, 0, 0)
    assert ours.queue_depth(ME) == 7


def test_one_key_never_uses_up_anothers():
    clock = Clock()
    ours = limits(clock, key_frames_s=1, key_sockets=1, key_upload_bytes_min=10)
    ours.frame(ME)
    ours.enter("me")
    ours.upload(ME)
    ours.uploaded("me", 100)
    for refused in (lambda: ours.frame(ME), lambda: ours.enter("me"), lambda: ours.upload(ME)):
        with pytest.raises(TooMuch):
            refused()
    ours.frame(YOU)
    ours.enter("you")
    ours.upload(YOU)


def test_a_closed_socket_makes_room():
    ours = limits(Clock(), key_sockets=2)
    ours.enter("me")
    ours.enter("me")
    with pytest.raises(TooMuch, match="2 sockets"):
        ours.enter("me")
    ours.leave("me")
    ours.enter("me")


def test_sockets_and_runs_of_a_key_share_its_frames():
    clock = Clock()
    ours = limits(clock, key_frames_s=2)
    ours.meter("me").take(clock.now)
    ours.frame(ME)
    with pytest.raises(TooMuch):
        ours.meter("me").take(clock.now)


def test_changed_limits_hold_at_once_for_meters_in_use():
    clock, own = Clock(), {"me": {"frames_s": 1.0}}
    ours = limits(clock, own)
    meter = ours.meter("me")
    assert taken(meter, clock.now, 5) == 1
    own["me"] = {"frames_s": 3.0}
    ours.changed()
    assert taken(meter, clock.now + 1, 5) == 3
    del own["me"]
    ours.changed()
    assert taken(meter, clock.now + 1, 5) == 5


def test_a_refusal_asks_fals_clients_to_come_again():
    ours = limits(Clock(), key_frames_s=1)
    ours.frame(ME)
    with pytest.raises(TooMuch) as refused:
        ours.frame(ME)
    assert refused.value.status == 429
    assert refused.value.headers["x-fal-needs-retry"] == "1"


# ---- uploads and what is stored ----


INITIATE = "/storage/upload/initiate"


async def test_uploads_wait_for_the_minute_they_have_used_up(tmp_path: Path):
    desk = Desk(tmp_path, key_upload_bytes_min=1000)
    await desk.upload(b"x" * 3000)  # the first may be longer: it is not cut in the middle
    for path in (INITIATE, "/storage/upload/initiate-multipart", "/files/upload/multipart", "/files/upload"):
        refused = await desk.ask("POST", path, json={})
        assert (refused.status, refused.headers["x-fal-needs-retry"]) == (429, "1")
    assert (await desk.ask("POST", INITIATE, json={}, key="you:secret")).status == 200
    desk.clock.now += 121
    assert (await desk.ask("POST", INITIATE, json={})).status == 200
    desk.close()


async def test_a_part_is_never_refused_for_the_rate_because_fal_client_would_not_send_it_again(
    tmp_path: Path,
):
    desk = Desk(tmp_path, key_upload_bytes_min=100)
    begun = await desk.ask("POST", "/storage/upload/initiate-multipart", json={})
    path, query = begun.json["upload_url"].split("?")
    for number in range(1, 6):
        assert (await desk.ask("PUT", f"{path}/{number}?{query}", b"x" * 1000, key="")).status == 200
    assert (await desk.ask("POST", INITIATE, json={})).status == 429
    desk.close()


async def test_a_full_quota_is_507_which_no_client_repeats_in_vain(tmp_path: Path):
    desk = Desk(tmp_path, key_stored_bytes=1000)
    short = '{"expiration_duration_seconds": 60}'
    await desk.upload(b"x" * 900, x_fal_object_lifecycle=short)
    begun = await desk.ask("POST", INITIATE, json={})
    sent = await desk.ask("PUT", begun.json["upload_url"], b"x" * 101, key="")
    assert sent.status == 507
    assert "1000 bytes" in sent.json["detail"]
    assert desk.bytes_on_disk() == 900
    assert (await desk.ask("PUT", begun.json["upload_url"], b"x" * 100, key="")).status == 200
    await desk.upload(b"x" * 900, key="you:secret")
    desk.clock.now += 60
    await desk.storage.sweep()
    assert (await desk.ask("GET", await desk.upload(b"x" * 900), key="")).status == 200
    desk.close()


async def test_unfinished_parts_count_too(tmp_path: Path):
    desk = Desk(tmp_path, key_stored_bytes=1000)
    begun = await desk.ask("POST", "/storage/upload/initiate-multipart", json={})
    path, query = begun.json["upload_url"].split("?")
    sent = [(await desk.ask("PUT", f"{path}/{n}?{query}", b"x" * 400, key="")).status for n in (1, 2, 3)]
    assert sent == [200, 200, 507]
    assert desk.bytes_on_disk() == 800
    desk.close()


# ---- over the wire ----


@pytest.mark.net
@pytest.mark.proc
def test_frames_over_the_rate_are_error_frames_and_the_session_lives():
    with (
        serve(key_frames_s=3) as server,
        connect(server.ws + "/fal-ai/lcm/realtime?max_buffering=20") as socket,
    ):
        for number in range(8):
            socket.send(json.dumps({"prompt": "x", "request_id": f"r{number}"}))
        answers = [json.loads(socket.recv(timeout=10)) for _ in range(8)]
        refused = [answer for answer in answers if answer.get("type") == "x-fal-error"]
        assert len(refused) == 5
        assert {answer["error"] for answer in refused} == {"TOO_MANY_REQUESTS"}
        assert {answer["request_id"] for answer in refused} == {"r3", "r4", "r5", "r6", "r7"}
        assert "3 frames per second" in refused[0]["reason"]
        assert sum("images" in answer for answer in answers) == 3

        def drawn() -> bool:
            socket.send(json.dumps({"prompt": "again"}))
            return "images" in json.loads(socket.recv(timeout=10))

        assert eventually(drawn)


@pytest.mark.net
@pytest.mark.proc
def test_sockets_over_the_limit_are_told_in_a_frame_and_one_that_closes_makes_room():
    with serve() as server:
        made = KeyFile(server.state_dir)
        key, other = made.create(sockets=1), made.create()
        url = server.ws + "/fal-ai/lcm/realtime"
        ask = {"allowed_apps": ["lcm"]}
        assert eventually(lambda: server.ask("POST", "/tokens/", ask, {"authorization": "Key x:y"})[0] == 401)
        with connect(url, additional_headers={"authorization": f"Key {key}"}):
            with connect(url, additional_headers={"authorization": f"Key {key}"}) as second:
                assert json.loads(second.recv(timeout=5))["error"] == "TOO_MANY_REQUESTS"
                with pytest.raises(ConnectionClosed):
                    second.recv(timeout=5)
                assert second.close_code == 1013
            with connect(url, additional_headers={"authorization": f"Key {other}"}) as others:
                others.send(json.dumps({"prompt": "x"}))
                assert "images" in json.loads(others.recv(timeout=5))

        def room() -> bool:
            with connect(url, additional_headers={"authorization": f"Key {key}"}) as third:
                third.send(json.dumps({"prompt": "x"}))
                return "images" in json.loads(third.recv(timeout=5))

        assert eventually(room)


@pytest.mark.net
@pytest.mark.proc
def test_runs_over_the_rate_are_429():
    with serve(key_frames_s=0.2) as server:
        ask = {"prompt": "x", "sync_mode": True}
        assert server.ask("POST", "/fal-ai/lcm", ask)[0] == 200
        status, headers, body = server.ask("POST", "/fal-ai/lcm", ask)
        assert (status, headers["x-fal-needs-retry"]) == (429, "1")
        assert "0.2 frames" in json.loads(body)["detail"]


def eventually(true: Callable[[], bool], tries: int = 60) -> bool:
    for _ in range(tries):
        if true():
            return True
        time.sleep(0.05)
    return False
