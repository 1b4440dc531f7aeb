"""The lab's device that only takes time: it is never at two calls at once, and everything else is real."""

from __future__ import annotations

import time

import pytest

from bench import host
from engines.pixels import finished, written


def test_a_call_begins_when_the_one_before_it_ends():
    device = host.Device()
    before = time.monotonic()
    for places in (1, 8):
        device.call(places)
    took = (2 * host.CALL_MS + 9 * host.ROW_MS) / 1e3
    assert before + took <= device.free <= time.monotonic() + took
    assert device.worked(device.free) == pytest.approx(took)
    assert device.worked(device.free - 0.001) == pytest.approx(took - 0.001), "what is to come is no work yet"
    assert device.worked(device.free + 9.0) == pytest.approx(took)


def test_its_calls_take_what_an_h200_took():
    took = [host.CALL_MS + rows * host.ROW_MS for rows in (1, 8)]
    assert took == pytest.approx([4.42, 18.66], abs=0.01)


def test_pictures_are_written_as_photographs_are():
    pixels = host.picture(512)
    file = written(finished(pixels, (512, 512), None), "jpeg")
    assert 0.08 < len(file) / 512**2 < 0.35
    assert file[:2] == b"\xff\xd8"


@pytest.mark.parametrize("kind", [host.Paced, host.Waiting])
def test_everybody_is_answered_and_the_device_works_some_of_its_time(kind: type[host.Paced]):
    drawn = host.loop("two sessions", 2, (2,), 0.4, kind)
    assert drawn.images_s > 0
    assert drawn.works is not None
    assert 0 < drawn.works < 1.001
    least = 2 * (host.CALL_MS + host.ROW_MS) + host.DECODE_MS + host.PICTURE_MS
    assert drawn.p50_ms > least


def test_a_canvas_is_drawn_on_in_the_open():
    drawn = host.canvas(1, 0.4)
    assert 0 < drawn.answered <= 1.0
    assert drawn.p50_ms > 4 * (host.CALL_MS + host.ROW_MS)
