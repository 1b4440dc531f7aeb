"""The engine process as the gateway sees it: a real process on a real link, drawing fake pictures."""

from __future__ import annotations

import io
import itertools
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from engines.fake import Fake, colour_of
from engines.intake import AHEAD
from engines.link import Decoder, pack
from engines.messages import (
    Cancel,
    Done,
    Dropped,
    Job,
    Ping,
    Pong,
    Preview,
    Progress,
    Ready,
    Refused,
    Started,
    Submit,
)
from engines.pipeline import Fault
from engines.tickets import ENDS

pytestmark = pytest.mark.proc


class Process:
    """`python -m engines` at the other end of a socketpair."""

    def __init__(self, model: str = "fake", *options: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        command = [sys.executable, "-P", "-m", "engines", "--fd", str(theirs.fileno()), "--model", model]
        self.process = subprocess.Popen(
            [*command, *options], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
        )
        theirs.close()
        self.received: list[Any] = []
        self._messages = self._read()

    def _read(self) -> Iterator[Any]:
        decoder = Decoder()
        while data := self.socket.recv(65536):
            yield from decoder.feed(data)

    def next(self) -> Any:
        """The next message; raises StopIteration at the end of the link, TimeoutError after 10 s."""
        message = next(self._messages)
        self.received.append(message)
        return message

    def until(self, kind: type, count: int = 1) -> list[Any]:
        """Read until `count` more messages of a kind have come; these."""
        found: list[Any] = []
        while len(found) < count:
            message = self.next()
            if isinstance(message, kind):
                found.append(message)
        return found

    def ready(self) -> Process:
        self.until(Ready)
        return self

    def send(self, *messages: Any) -> None:
        self.socket.sendall(b"".join(pack(message) for message in messages))

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def submit(ticket: int, prompt: str = "", session: str = "", **given: Any) -> Submit:
    names = ("buffering", "deadline_s", "weight", "watch")
    envelope = {name: given.pop(name) for name in names if name in given}
    job = Job(**({"prompt": prompt or f"p{ticket}", "seed": ticket, "width": 64, "height": 64} | given))
    return Submit(ticket, session or f"s{ticket}", time.monotonic(), job, **envelope)


def colour(data: bytes) -> tuple[int, ...]:
    return Image.open(io.BytesIO(data)).convert("RGB").getpixel((3, 3))


def png(colour: Any = (1, 2, 3), size: tuple[int, int] = (64, 64)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def engine() -> Iterator[Process]:
    with Process("fake:base_ms=1,row_ms=0.2,vae_ms=0.1") as process:
        yield process.ready()


# ---- the start ----


def test_the_fake_engine_starts_in_half_a_second_without_torch():
    with Process() as engine:
        engine.ready()
        times = psutil.Process(engine.process.pid).cpu_times()
        assert times.user + times.system < 0.5  # of a CPU: this machine may be doing other things
        maps = {entry.path for entry in psutil.Process(engine.process.pid).memory_maps()}
    assert not [path for path in maps if "/torch/" in path]


def test_progress_comes_before_ready_and_ready_says_what_was_loaded():
    with Process("fake:size=256") as engine:
        engine.ready()
    *progress, ready = engine.received
    assert [type(message) for message in progress] == [Progress] * len(progress)
    assert {message.stage for message in progress} == {"import", "load"}
    assert ready.pid == engine.process.pid
    assert (ready.models[0].name, ready.models[0].native) == ("fake", 256)
    assert set(ready.started_s) == {"import", "load"}


def test_a_model_that_cannot_be_had_is_one_line_and_no_traceback():
    with Process("fake:base_ms=quick") as engine:
        assert engine.process.wait(10) == os.EX_CONFIG
        said = engine.process.stderr.read().decode()
    assert said.startswith("engine: ")
    assert said.count("\n") == 1


# ---- answers ----


def test_everybody_gets_their_own_picture_exactly_once(engine):
    engine.send(*(submit(n, format="png", session=f"user {n % 7}", steps=1 + n % 5) for n in range(60)))
    answers = {done.ticket: done for done in engine.until(Done, 60)}
    assert sorted(answers) == list(range(60))
    for ticket, done in answers.items():
        assert colour(done.pictures[0].data) == colour_of(f"p{ticket}", ticket)
        assert (done.pictures[0].width, done.pictures[0].height) == (64, 64)
        assert done.pictures[0].content_type == "image/png"
        assert done.seed == ticket


def test_the_timings_add_up(engine):
    engine.send(submit(1, steps=6), submit(2, steps=3))
    for done in engine.until(Done, 2):
        timings = done.timings
        assert set(timings) >= {
            "queue",
            "inputs",
            "text",
            "vae_encode",
            "steps",
            "vae",
            "encode",
            "inference",
        }
        assert len(timings["steps"]) == (6 if done.ticket == 1 else 3)
        calls = sum(step["seconds"] for step in timings["steps"])
        assert all(step["seconds"] >= 0.001 and step["batch"] in (1, 2) for step in timings["steps"])
        assert timings["inference"] == pytest.approx(
            timings["text"] + timings["vae_encode"] + calls + timings["vae"]
        )
        assert 0 <= timings["queue"] < 5
        assert done.finished <= time.monotonic()


def test_a_device_that_overlaps_goes_on_while_a_picture_is_decoded():
    with Process("fake:base_ms=1,row_ms=0,vae_ms=1500,overlaps=1") as engine:
        engine.ready().send(submit(1, steps=1, watch="start"))
        engine.until(Started)
        for n in (2, 3, 4):
            engine.send(submit(n, steps=12, watch="start"))
            engine.until(Started)
        assert not [message for message in engine.received if isinstance(message, Done)]
        engine.send(Cancel([2, 3, 4]))
        engine.until(Done)


def test_many_pictures_that_are_done_at_once_keep_no_first_step_waiting():
    with Process("fake:base_ms=1,row_ms=0,vae_ms=300,overlaps=1") as engine:
        engine.ready().send(submit(9, steps=1))
        engine.until(Done)  # what a decode takes is known: one picture at a time
        engine.send(submit(1, steps=1, count=8, watch="start"))
        engine.until(Started)
        engine.send(submit(2, steps=12, watch="start"))
        engine.until(Started)
        engine.send(Ping(1))
        (pong,) = engine.until(Pong)
        assert pong.stats["full_vae"] <= 3, "one of the first, and at most two of the eight"


def test_a_device_that_overlaps_goes_on_while_rows_are_made():
    with Process("fake:base_ms=20,row_ms=0,vae_ms=0,rows_ms=700,overlaps=1") as engine:
        engine.ready().send(submit(1, steps=12, watch="start"))
        engine.until(Started)
        engine.send(submit(2, steps=1, watch="start"))
        engine.until(Done)
        assert len([message for message in engine.received if isinstance(message, Started)]) == 1
        engine.until(Started)
        (done,) = engine.until(Done)
        assert done.ticket == 2
        assert done.timings["inputs"] > 0.5, "it is told where the time went"
        assert done.timings["queue"] < 0.5


class Stuck(Fake):
    """A device that overlaps, and ends no call before it is told to; draws nothing for `!no`."""

    def __init__(self) -> None:
        super().__init__(base_ms=0, row_ms=0, vae_ms=0, overlaps=1)
        self.given, self.go = threading.Event(), threading.Event()

    def lane(self, job: Job) -> tuple[str, int, int]:
        if job.prompt == "!no":
            raise Fault("invalid", "it is not drawn")
        return super().lane(job)

    def launch(self, rows: Any, bucket: int) -> Any:
        super().launch(rows, bucket)
        self.given.set()
        return self

    def wait(self) -> float:
        assert self.go.wait(10)
        return 0.02


def test_while_a_device_works_the_loop_listens_but_calls_itself_alive_when_the_device_is():
    from bench.inside import running

    device, replies = Stuck(), queue.SimpleQueue[Any]()
    with running(device) as loop:
        loop.reply = replies.put
        loop.submit(submit(1, steps=1))
        assert device.given.wait(10)
        loop.inbox.put(Ping(1))
        loop.submit(submit(2, prompt="!no"))
        assert isinstance(replies.get(timeout=10), Refused), "nobody hears of a device that hangs otherwise"
        device.go.set()
        assert {type(replies.get(timeout=10)) for _ in range(2)} == {Done, Pong}


class Watched(Fake):
    """A device that overlaps, and how many calls it had when it was given another one."""

    def __init__(self) -> None:
        super().__init__(base_ms=20, row_ms=0, vae_ms=0, overlaps=1)
        self.ends: list[float] = []
        self.ahead: list[int] = []

    def launch(self, rows: Any, bucket: int) -> Any:
        now, call = time.monotonic(), super().launch(rows, bucket)
        self.ahead.append(sum(end > now for end in self.ends))
        self.ends.append(call.end)
        return call


def test_a_device_that_overlaps_is_given_the_next_call_before_it_has_done_the_last():
    from bench.inside import closed

    device = Watched()
    frames = closed(device, lambda session, number: Job("a", number, 64, 64, steps=4), 3, 0.5, 0.0)
    assert max(device.ahead) == 1, "the call that runs, and no other"
    steps = [frame.timings["steps"] for frame in frames if frame.answered]
    assert steps, "somebody was answered"
    assert {len(calls) for calls in steps} == {4}
    assert {call["seconds"] for calls in steps for call in calls} == {0.02}, "the device's, not the wait's"


def test_a_device_that_overlaps_refuses_what_no_rows_can_be_made_of_and_goes_on():
    with Process("fake:base_ms=1,row_ms=0,overlaps=1") as engine:
        engine.ready().send(submit(1, prompt="!fault"), submit(2))
        (refused,) = engine.until(Refused)
        assert (refused.ticket, refused.field) == (1, "prompt")
        engine.until(Done)


def test_rows_are_made_ahead_for_so_many_only_and_places_come_free_however_requests_end():
    people, frames = AHEAD + 40, 30
    with Process("fake:base_ms=1,row_ms=0,vae_ms=0,rows_ms=2,overlaps=1") as engine:
        engine.ready()
        for turn in range(3):
            first = 1000 * turn
            engine.send(*(submit(first + n, session=f"user {n}", steps=1) for n in range(people)))
            engine.send(Cancel([first + n for n in range(0, people, 2)]))
            engine.send(*(submit(first + 500 + n, session="hand", buffering=1) for n in range(frames)))
            engine.send(submit(first + 998, prompt="!fault"))
        ended, most = 0.0, 0.0
        while ended < 3 * (people + frames + 1):
            engine.send(Ping(1))
            (pong,) = engine.until(Pong)
            ended, most = sum(pong.stats[end] for end in ENDS), max(most, pong.stats["ahead"])
        assert AHEAD / 2 < most <= AHEAD
        assert pong.stats["ahead"] == 0
        engine.send(submit(9999))
        (done,) = engine.until(Done)
        assert done.ticket == 9999
        assert done.timings["inputs"] >= 0.002, "its rows were made before its turn"


def test_a_device_that_overlaps_gives_everybody_their_own_picture_too():
    with Process("fake:base_ms=1,row_ms=0.2,vae_ms=0.3,overlaps=1") as engine:
        wishes = [{"session": f"user {n % 7}", "steps": 1 + n % 5, "count": 1 + n % 3} for n in range(60)]
        engine.ready().send(*(submit(n, format="png", **wish) for n, wish in enumerate(wishes)))
        for done in engine.until(Done, 60):
            ours = [colour_of(f"p{done.ticket}", done.ticket + n) for n in range(1 + done.ticket % 3)]
            assert [colour(picture.data) for picture in done.pictures] == ours
            assert done.timings["vae"] > 0


def test_live_frames_leave_through_the_tiny_vae_and_requests_through_the_full_one(engine):
    engine.send(submit(1, buffering=2), submit(2), submit(3, vae="full", buffering=2))
    engine.until(Done, 3)
    engine.send(Ping(1))
    (pong,) = engine.until(Pong)
    assert (pong.stats["tiny_vae"], pong.stats["full_vae"]) == (1, 2)


def settling(ticket: int, format: str) -> Submit:
    return submit(ticket, "the same", "restless", seed=1, steps=1, buffering=8, format=format)


def test_a_session_that_settles_as_fast_as_it_is_answered_keeps_nobody_waiting():
    """Another file of the same picture needs no step, and so no turn; but it is not done before all turns."""
    with Process("fake:base_ms=1,row_ms=0,vae_ms=20,kept_mb=1") as engine:
        engine.ready().send(settling(1, "jpeg"))
        engine.until(Done)
        formats = itertools.cycle(("png", "webp", "jpeg"))
        engine.send(*(settling(n, next(formats)) for n in range(2, 6)), submit(1000, steps=2))
        for ticket in range(6, 60):
            (done,) = engine.until(Done)
            if done.ticket == 1000:
                break
            engine.send(settling(ticket, next(formats)))
        else:
            pytest.fail("the other session's frame was never drawn")
        engine.send(Ping(1))
        assert engine.until(Pong)[0].stats["settled"] >= 4


@pytest.mark.timeout(60)  # eight files of 9 MB are written
def test_an_answer_too_large_for_the_link_is_refused_in_words_and_everybody_lives_on(engine):
    noise = np.random.default_rng(1).integers(0, 256, (1750, 1750, 3), np.uint8)
    image, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).save(image, "PNG", compress_level=0)
    Image.new("L", (1750, 1750)).save(mask, "PNG")
    pictures = {"image": image.getvalue(), "mask": mask.getvalue(), "mask_only": True}
    size = {"width": 1750, "height": 1750, "steps": 1}
    engine.socket.settimeout(50)
    engine.send(submit(1, count=8, format="png", **pictures, **size), submit(2))
    (refused,) = engine.until(Refused)
    assert (refused.ticket, refused.code, refused.field) == (1, "invalid", "num_images")
    assert "the limit is 63 MiB" in refused.reason
    engine.send(submit(3))
    assert engine.until(Done)[-1].ticket in (2, 3)


@pytest.fixture
def keeper() -> Iterator[Process]:
    """An engine that answers an unchanged frame with the picture of the one before."""
    with Process("fake:base_ms=1,row_ms=0.2,vae_ms=0.1,kept_mb=1") as process:
        yield process.ready()


def drawn(engine: Process) -> tuple[float, float]:
    """(rows stepped, frames answered without)."""
    engine.send(Ping(1))
    (pong,) = engine.until(Pong)
    return pong.stats["rows"], pong.stats["again"]


def live(ticket: int, session: str = "a", **given: Any) -> Submit:
    return submit(ticket, session=session, buffering=2, **({"prompt": "fox", "seed": 7, "count": 2} | given))


def test_an_unchanged_frame_is_answered_with_the_picture_of_the_one_before(keeper):
    for ticket in (1, 2, 3):
        keeper.send(live(ticket))
        keeper.until(Done)
    first, *others = [message for message in keeper.received if isinstance(message, Done)]
    for done in others:
        assert [picture.data for picture in done.pictures] == [picture.data for picture in first.pictures]
        assert (done.seed, done.drawn, done.timings["cached"]) == (7, [64, 64], True)
        assert (done.timings["inference"], done.timings["steps"]) == (0, [])
        assert set(first.timings) < set(done.timings)
    assert [done.ticket for done in others] == [2, 3]
    assert drawn(keeper) == (2 * 4, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "dog"},
        {"seed": 8},
        {"count": 1},
        {"steps": 3},
        {"guidance": 2.0},
        {"image": png((1, 2, 3))},
        {"session": "b"},
        {"width": 72},
    ],
)
def test_whatever_has_changed_is_drawn(keeper, change):
    keeper.send(live(1))
    keeper.until(Done)
    keeper.send(live(2, **change))
    keeper.until(Done)
    assert drawn(keeper)[1] == 0
    keeper.send(live(3, **change))
    keeper.until(Done)
    assert drawn(keeper)[1] == 1


def test_a_session_settles_on_a_finer_picture_of_what_it_was_shown_without_a_step(keeper):
    changes = {}, {"vae": "full"}, {"vae": "full", "format": "png"}, {"safety": False}
    for ticket, change in enumerate(changes):
        keeper.send(live(ticket, **change))
        keeper.until(Done)
    dones = [message for message in keeper.received if isinstance(message, Done)]
    assert [len(done.timings["steps"]) for done in dones] == [4, 0, 0, 0]
    assert all(done.timings["vae"] > 0 and "cached" not in done.timings for done in dones)
    for seed, picture in zip((7, 8), dones[2].pictures, strict=True):
        assert picture.content_type == "image/png"
        assert colour(picture.data) == colour_of("fox", seed)
    assert drawn(keeper) == (2 * 4, 0)
    keeper.send(live(9, safety=False))
    keeper.until(Done)
    assert drawn(keeper) == (2 * 4, 1), "and that one is what it was shown"


def test_what_was_shown_before_the_last_is_drawn_anew(keeper):
    for ticket, prompt in enumerate(("fox", "dog", "fox")):
        keeper.send(live(ticket, prompt=prompt))
        keeper.until(Done)
    assert drawn(keeper)[1] == 0


def test_requests_are_always_drawn(keeper):
    for ticket in (1, 2):
        keeper.send(submit(ticket, "fox", session="a"))
        keeper.until(Done)
    assert drawn(keeper)[1] == 0


def test_what_is_shown_again_is_bounded_and_the_longest_quiet_session_goes_first():
    with Process("fake:base_ms=0,row_ms=0,vae_ms=0,kept_mb=0.02") as engine:  # some eight of these
        engine.ready()
        for ticket in range(30):
            engine.send(live(ticket, session=f"s{ticket}"))
            engine.until(Done)
        engine.send(live(100, session="s29"), live(101, session="s0"))
        answers = {done.ticket: done for done in engine.until(Done, 2)}
    assert "cached" in answers[100].timings
    assert "cached" not in answers[101].timings


def test_frames_of_many_sessions_share_calls(engine):
    engine.send(*(submit(n, steps=8) for n in range(8)))
    batches = [step["batch"] for done in engine.until(Done, 8) for step in done.timings["steps"]]
    assert max(batches) >= 7


def test_a_watched_request_is_said_to_have_started_and_no_other(engine):
    engine.send(submit(1), submit(2, watch="start"), submit(3, "!fault", watch="start"), submit(4))
    engine.until(Done, 3)
    assert [m.ticket for m in engine.received if isinstance(m, Started)] == [2]
    assert not [m for m in engine.received if isinstance(m, Preview)]


def test_previews_of_every_step_but_the_last_come_nearer_to_the_picture():
    with Process("fake:base_ms=60,row_ms=0,vae_ms=1") as engine:
        engine.ready().send(submit(1, "fox", steps=4, count=2, format="png", watch="steps"))
        (done,) = engine.until(Done)
    previews = [m for m in engine.received if isinstance(m, Preview)]
    assert sorted((p.image, p.step) for p in previews) == [(i, s) for i in (0, 1) for s in (1, 2, 3)]
    for image, picture in enumerate(done.pictures):
        final = colour(picture.data)
        shown = [colour(p.picture.data) for p in previews if p.image == image]
        off = [max(abs(a - b) for a, b in zip(seen, final, strict=True)) for seen in shown]
        assert off == sorted(off, reverse=True)
        assert off[0] > off[-1] + 10
    assert {(p.picture.width, p.picture.height, p.picture.content_type) for p in previews} == {
        (64, 64, "image/jpeg")
    }


def test_slow_previews_are_left_out_and_hold_nobody_up():
    with Process("fake:base_ms=2,row_ms=0,vae_ms=60") as engine:
        # vae_ms is slept for each picture on the loop, and for each preview beside it
        engine.ready().send(submit(1, steps=12, watch="steps"))
        (done,) = engine.until(Done)
    assert len([m for m in engine.received if isinstance(m, Preview)]) <= 2
    assert len(done.timings["steps"]) == 12
    assert done.timings["inference"] < 12 * 60e-3, "twelve previews would have taken longer"


def test_images_of_one_request_come_together_in_the_order_of_their_seeds():
    with Process("fake:base_ms=1,row_ms=0", "--max-batch", "3") as engine:
        engine.ready().send(submit(1, "fox", count=8, format="png"))
        (done,) = engine.until(Done)
    assert [colour(picture.data) for picture in done.pictures] == [colour_of("fox", 1 + n) for n in range(8)]


def test_a_picture_is_decoded_and_one_that_is_none_refused(engine):
    engine.send(submit(1, image=png(size=(32, 48)), width=72, height=40), submit(2, image=b"GIF89a"))
    engine.until(Refused)
    refused = engine.received[-1]
    assert (refused.ticket, refused.code, refused.field) == (2, "image", "image")
    (done,) = [m for m in engine.received if isinstance(m, Done)] or engine.until(Done)
    assert Image.open(io.BytesIO(done.pictures[0].data)).size == (72, 40)
    assert done.timings["inputs"] > 0


def test_a_fault_refuses_one_ticket_and_no_other(engine):
    engine.send(submit(1, steps=8), submit(2, "!fault"), submit(3, steps=8))
    (refused,) = engine.until(Refused)
    assert (refused.ticket, refused.code, refused.field) == (2, "invalid", "prompt")
    assert {done.ticket for done in engine.until(Done, 2)} == {1, 3}


def test_newest_wins_and_the_superseded_are_told(engine):
    engine.send(submit(0, "!hang 0.2"))
    engine.send(*(submit(n, session="x", buffering=2) for n in range(1, 8)))
    assert [dropped.ticket for dropped in engine.until(Dropped, 5)] == [1, 2, 3, 4, 5]
    assert {dropped.reason for dropped in engine.received if isinstance(dropped, Dropped)} == {"superseded"}
    assert {done.ticket for done in engine.until(Done, 3)} == {0, 6, 7}


def test_cancelled_tickets_are_not_answered(engine):
    engine.send(submit(0, "!hang 0.1"), *(submit(n, session=f"s{n % 3}") for n in range(1, 10)))
    engine.send(Cancel([3, 4, 5, 77]), Cancel([3]), submit(20))
    assert {done.ticket for done in engine.until(Done, 8)} == {0, 1, 2, 6, 7, 8, 9, 20}
    engine.send(Ping(1))
    (pong,) = engine.until(Pong)
    assert (pong.stats["cancelled"], pong.stats["waiting"], pong.stats["running"]) == (3, 0, 0)


def test_a_ping_is_answered_by_the_step_loop_with_its_counters(engine):
    engine.send(*(submit(n, steps=4) for n in range(4)))
    engine.until(Done, 4)
    for number in range(9, 200):  # an answer leaves before the loop hears of it
        engine.send(Ping(number))
        (pong,) = engine.until(Pong)
        assert pong.number == number
        stats = pong.stats
        if stats["done"] == 4:
            break
    assert (stats["done"], stats["rows"], stats["refused"]) == (4, 16, 0)
    assert 4 <= stats["steps"] <= 16
    assert stats["occupancy"] == pytest.approx(stats["rows"] / stats["slots"])
    assert 0 < stats["step_s"] <= stats["busy_s"]


def test_a_hung_loop_answers_no_ping(engine):
    engine.send(submit(1, "!hang 0.4"))
    time.sleep(0.1)
    engine.send(Ping(1))
    asked = time.monotonic()
    engine.until(Pong)
    assert time.monotonic() - asked > 0.15


def test_too_many_requests_are_refused_and_the_rest_drawn(engine):
    engine.send(submit(0, "!hang 0.5"))
    engine.send(*(submit(n, session="x", steps=1, width=8, height=8) for n in range(1, 4200)))
    refused = engine.until(Refused, 50)
    assert {message.code for message in refused} == {"out_of_memory"}
    engine.send(Cancel(list(range(4200))), submit(5000))
    while engine.until(Done)[0].ticket != 5000:
        pass


# ---- a gateway that misbehaves ----


@pytest.mark.parametrize("overlaps", [0, 1])
def test_a_gateway_that_does_not_read_stops_the_engine_and_loses_nothing(overlaps):
    count = 1500
    with Process(f"fake:base_ms=1,row_ms=0.2,vae_ms=0.1,overlaps={overlaps}") as engine:
        engine.ready()
        for n in range(count):
            engine.send(submit(n, session=f"s{n % 50}", steps=1, width=128, height=128, format="png"))
        memory = psutil.Process(engine.process.pid).memory_info().rss
        time.sleep(0.5)
        assert psutil.Process(engine.process.pid).memory_info().rss < memory + 20e6
        assert sorted(done.ticket for done in engine.until(Done, count)) == list(range(count))


@pytest.mark.parametrize("bytes_", [b"\xff" * 100, b"\0\0\0\1\xc1", pack(Pong(1, {}))])
def test_garbage_ends_the_process(engine, bytes_):
    engine.socket.sendall(bytes_)
    assert engine.process.wait(5) == 70
    assert b"LinkError" in engine.process.stderr.read()


def test_an_unexpected_exception_is_written_once_and_ends_the_process(engine):
    engine.send(*(submit(n, steps=12) for n in range(4)), submit(9, "!raise"))
    with pytest.raises(StopIteration):
        engine.until(Ready)
    assert engine.process.wait(5) == 70
    assert engine.process.stderr.read().count(b"Traceback") == 1


@pytest.mark.parametrize("prompt", ["an idle fox", "!hang 20"])
def test_the_end_of_the_link_ends_the_process_at_once(engine, prompt):
    engine.send(submit(1, prompt))
    time.sleep(0.1)
    engine.socket.close()
    closed = time.monotonic()
    assert engine.process.wait(5) == 0
    assert time.monotonic() - closed < 1.0


def test_the_end_of_the_link_ends_a_process_that_is_still_loading():
    with Process("fake:load_s=30") as engine:
        engine.until(Progress)
        engine.socket.close()
        assert engine.process.wait(1.0) == 0


def test_the_keys_of_a_terminal_do_not_reach_it(engine):
    """Ctrl-C and a service manager's SIGTERM go to the whole group; only the gateway ends an engine."""
    engine.process.terminate()
    engine.process.send_signal(2)
    engine.send(submit(1))
    engine.until(Done)


def test_a_process_whose_parent_is_gone_does_not_start():
    if not sys.platform.startswith("linux"):
        pytest.skip("needs PR_SET_PDEATHSIG")
    with Process("fake", "--parent", "1") as engine:
        assert engine.process.wait(5) == 0
