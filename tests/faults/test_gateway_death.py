"""K4: the gateway is killed; no engine survives it by a second, whatever that engine is doing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

pytestmark = pytest.mark.proc

GATEWAY = """
import asyncio, os, sys, time
from engines.messages import Job
from realtime.engine import Engine
from realtime.settings import Settings

async def main():
    engine = Engine(Settings(model=sys.argv[1]))
    task = asyncio.create_task(engine.run())
    while engine.state != sys.argv[2] or not (engine.progress or engine.models):
        await asyncio.sleep(0.005)
    job = Job(sys.argv[3], 1, 64, 64, steps=12)
    for n in range(3):
        engine.submit(session=str(n), received=time.monotonic(), job=job, buffering=0,
                      deadline_s=None, weight=1.0, on_reply=lambda reply: None)
    await asyncio.sleep(0.1)
    os.write(int(sys.argv[4]), str(engine.pid).encode())
    await task

asyncio.run(main())
"""

# An import can hold the interpreter for seconds. The link's reader cannot run then; the kernel can.
DEAF = """
import os, re, subprocess, sys
child = '''
import os, re, sys
from engines.__main__ import _die_with
_die_with(int(sys.argv[1]))
os.write(int(sys.argv[2]), str(os.getpid()).encode())
re.match("(a*)*b", "a" * 40)
'''
out = int(sys.argv[1])
subprocess.run([sys.executable, "-c", child, str(os.getpid()), str(out)], pass_fds=[out])
"""


@contextmanager
def started(code: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """(a process that runs `code`, the engine whose id it writes to the descriptor in its last argument)."""
    ours, theirs = os.pipe()
    gateway = subprocess.Popen([sys.executable, "-c", code, *arguments, str(theirs)], pass_fds=[theirs])
    os.close(theirs)
    try:
        engine = psutil.Process(int(os.read(ours, 20)))
        try:
            yield gateway, engine
        finally:
            if alive(engine):
                engine.kill()
    finally:
        os.close(ours)
        gateway.kill()
        gateway.wait(5)


def alive(process: psutil.Process) -> bool:
    """An orphan that ended may be a zombie until the system's first process collects it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def survives(engine: psutil.Process, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(engine):
            return False
        time.sleep(0.005)
    return alive(engine)


@pytest.mark.parametrize(
    ("model", "state", "prompt"),
    [
        ("fake", "ready", "a fox"),
        ("fake:base_ms=100", "ready", "a fox"),
        ("fake", "ready", "!hang 30"),
        ("fake:load_s=30", "starting", "a fox"),
    ],
    ids=["idle", "drawing", "hung", "loading"],
)
def test_no_engine_survives_its_gateway_by_a_second(model, state, prompt):
    with started(GATEWAY, model, state, prompt) as (gateway, engine):
        gateway.kill()
        assert not survives(engine, 1.0)


def test_an_engine_that_holds_the_interpreter_does_not_survive_its_gateway():
    if sys.platform != "linux":
        pytest.skip("needs PR_SET_PDEATHSIG")
    with started(DEAF) as (gateway, engine):
        time.sleep(0.05)
        gateway.kill()
        assert not survives(engine, 1.0)


def test_a_survivor_is_noticed():
    """A planted fault: the detector must see an engine that stays."""
    stays = DEAF.replace("_die_with(int(sys.argv[1]))", "")
    with started(stays) as (gateway, engine):
        gateway.kill()
        assert survives(engine, 0.3)
