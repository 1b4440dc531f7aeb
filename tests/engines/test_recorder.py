from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engines.recorder import PLACES, Recorder, page


@pytest.fixture
def pair():
    fd = page()
    ours, theirs = Recorder(fd), Recorder(fd)
    os.close(fd)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_the_other_side_sees_what_is_being_worked_on(pair):
    engine, gateway = pair
    for ticket in (5, 6, 7, 6):
        engine.begin(ticket)
    engine.end(6)
    engine.end(99)
    assert gateway.tickets() == {5, 7}


def test_places_are_used_again(pair):
    engine, gateway = pair
    for ticket in range(1, 10 * PLACES):
        engine.begin(ticket)
        engine.end(ticket)
    engine.begin(2**63 - 1)
    assert gateway.tickets() == {2**63 - 1}


def test_more_than_it_holds_is_said_and_not_guessed(pair):
    engine, gateway = pair
    for ticket in range(1, PLACES + 2):
        engine.begin(ticket)
    assert gateway.tickets() is None


@pytest.mark.proc
def test_it_outlives_a_process_that_is_killed():
    fd = page()
    gateway = Recorder(fd)
    code = f"""
import os, signal
from engines.recorder import Recorder
engine = Recorder({fd})
engine.begin(41)
engine.begin(42)
engine.end(41)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], pass_fds=[fd], timeout=15).returncode == -9
    assert gateway.tickets() == {42}
    gateway.close()
    os.close(fd)
