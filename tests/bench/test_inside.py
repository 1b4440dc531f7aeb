"""The step loop in this process: everybody is answered with their own picture, and its end is no secret."""

import io

import pytest
from PIL import Image

from bench.figures import Frame
from bench.inside import closed, opened, running
from engines.fake import Fake, colour_of
from engines.messages import Job

pytestmark = pytest.mark.timeout(60)  # imports of torch and diffusers, on a busy machine


def fake(**given: float) -> Fake:
    made = Fake(base_ms=1, row_ms=0.1, vae_ms=0.1, **given)
    made.load(lambda *_: None)
    return made


def job(session: int, number: int) -> Job:
    return Job(f"session {session}", number, 64, 64, steps=1 + number % 3, format="png")


def test_every_session_gets_its_own_pictures_in_turn():
    frames = closed(fake(), job, 3, 0.3, 0.0)
    assert all(frame.answered for frame in frames)
    assert {frame.session for frame in frames} == {0, 1, 2}
    for session in range(3):
        mine = [frame for frame in frames if frame.session == session]
        assert [frame.number for frame in mine] == list(range(len(mine)))
        for frame in mine:
            found = Image.open(io.BytesIO(frame.data)).convert("RGB").getpixel((5, 5))
            assert found == colour_of(f"session {session}", frame.number)


def test_open_frames_are_answered_or_superseded_and_keep_their_due_times():
    frames = [Frame(session, number, number / 50) for session in range(2) for number in range(10)]
    taken = opened(fake(), job, frames, 0.5)
    assert len(taken) == 20
    assert all(frame.sent >= frame.due for frame in taken)
    last = [frame for frame in taken if frame.number == 9]
    assert all(frame.answered for frame in last)  # the newest frame of a session is never given up


def test_what_ends_the_loop_is_raised_and_ends_nothing_else():
    def broken(session: int, number: int) -> Job:
        return Job("!raise", number, 64, 64)

    with pytest.raises(RuntimeError, match="the step loop ended"):
        closed(fake(), broken, 1, 0.3, 0.0)


def test_a_loop_at_rest_ends_with_its_measurement():
    with running(fake()) as loop:
        pass
    assert not loop._thread.is_alive()
