"""The comparison on planted peers: what it counts, and that it sees a picture that went to the wrong user."""

import io
import math

import pytest
from PIL import Image

from bench.compare import (
    COMPILED,
    DIFFUSERS,
    OURS,
    STREAM,
    THEIRS_COMPILED,
    Peer,
    bars,
    coloured,
    nearer_to_others,
    served,
    summed,
    table,
)
from bench.figures import Frame
from bench.peers.pipelines import Asked, equal, everything, one
from bench.subject import job
from engines.messages import Job

pytestmark = pytest.mark.timeout(60)  # imports of torch and diffusers, on a busy machine


class Planted:
    side = 64

    def job(self, number: int = 0, steps: int = 4, **given) -> Job:
        return job(self.side, number, steps, **given)


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "JPEG")
    return file.getvalue()


def line(*steps: int) -> list[Asked]:
    return [Asked(n, 0, 0.0, Planted().job(n, count)) for n, count in enumerate(steps)]


def test_groups_are_of_equal_settings_and_leave_the_others_in_line():
    from collections import deque

    waiting = deque(line(4, 2, 4, 4, 2))
    assert [asked.session for asked in equal(waiting)] == [0, 2, 3]
    assert [asked.session for asked in waiting] == [1, 4]
    assert [asked.session for asked in one(waiting)] == [1]
    assert [asked.session for asked in everything(waiting)] == [4]


def test_every_session_has_one_request_out_and_asks_again_when_it_is_answered():
    groups: list[int] = []

    def draw(jobs: list[Job]) -> list[bytes]:
        groups.append(len(jobs))
        return [b""] * len(jobs)

    frames = served(draw, everything, Planted(), sessions=5, seconds=0.05)
    assert set(groups) == {5}
    answered = [frame for frame in frames if frame.answered]
    assert len(answered) == 5 * len(groups)
    assert len(frames) - len(answered) == 5


def test_images_are_counted_while_the_clock_ran_and_no_later():
    frames = [Frame(0, n, due=n, sent=n, arrived=n + 0.5) for n in range(4)]
    peer = summed(Peer("planted"), frames, seconds=2)
    assert peer.images_s == 1.0
    assert peer.p50_ms == pytest.approx(500)


def test_a_picture_that_went_to_the_other_user_is_seen():
    expected = {"red": picture("red"), "blue": picture("blue")}
    right = [("red", picture("#d02020")), ("blue", picture("#2020d0"))]
    assert nearer_to_others(right, expected) == 0
    assert nearer_to_others([("red", picture("blue")), *right], expected) == 1


def test_a_users_colour_is_in_the_picture_they_send():
    sent = coloured(Planted(), "blue")
    red, green, blue = Image.open(io.BytesIO(sent.image)).convert("RGB").getpixel((9, 9))
    assert blue > 2 * max(red, green)
    assert sent.strength < 1


def test_a_base_that_made_nothing_in_its_time_is_no_base():
    row = table([Peer("diffusers, one by one", images_s=0.0), Peer("ours", images_s=2.0)], "t", "").rows[1]
    assert (row[0], row[1]) == ("ours", 2.0)
    assert math.isnan(row[2])


def test_a_peer_that_could_not_run_stays_in_the_table_with_its_reason():
    rows = table([Peer("diffusers, one by one", 2.0), Peer("ours", 6.0), Peer("x", note="no")], "", "").rows
    assert rows[1][2] == 3.0
    assert rows[2][-1] == "no"


def test_a_bar_says_of_which_of_ours_it_is_and_what_was_not_measured_has_none():
    peers = {
        OURS: Peer(OURS, images_s=6.0, cpu_ms=30.0, drawn_ms=9.0, drawn_cpu_ms=5.0, wrong=0),
        COMPILED: Peer(COMPILED, images_s=8.0, cpu_ms=20.0, drawn_ms=8.0, drawn_cpu_ms=4.0, wrong=1),
        DIFFUSERS: Peer(DIFFUSERS, images_s=2.0, cpu_ms=60.0),
        THEIRS_COMPILED: Peer(THEIRS_COMPILED, images_s=4.0, cpu_ms=50.0),
        STREAM: Peer(STREAM, images_s=1.0, drawn_ms=16.0, drawn_cpu_ms=20.0),
    }
    cpu = {bar.what: bar.value for bar in bars(peers, cuda=False)}
    assert cpu == {
        "ours: wrong pictures": 0,
        "ours, compiled: wrong pictures": 1,
        "ours: images per CPU-second to diffusers, one by one": 2.0,
        "ours, compiled: images per CPU-second to diffusers, compiled UNet, one by one": 2.5,
        "ours: a drawing's own picture at 4 steps, to StreamDiffusion's, CPU time": 0.25,
        "ours, compiled: a drawing's own picture at 4 steps, to StreamDiffusion's, CPU time": 0.2,
    }
    assert [bar.value for bar in bars(peers, cuda=True)] == [0, 1, 3.0, 2.0, 9 / 16, 0.5]
    missing = {OURS: peers[OURS], DIFFUSERS: peers[DIFFUSERS], STREAM: Peer(STREAM, note="not installed")}
    assert [bar.what for bar in bars(missing, cuda=False)] == [
        "ours: wrong pictures",
        "ours: images per CPU-second to diffusers, one by one",
    ]
