"""A process is gone when it has ended, whoever has its pid now."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from realtime.queue.owner import gone, own

NAME = [sys.executable, "-c", "from realtime.queue.owner import own; print(own(), flush=True); input()"]


@pytest.mark.proc
def test_a_process_is_gone_once_it_has_ended():
    with subprocess.Popen(NAME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        assert name != own()
        assert not gone(name)
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert gone(name), "a zombie runs nothing"
        other.wait()
        assert gone(name)


def test_this_process_is_not_gone():
    assert not gone(own())


def test_the_same_pid_of_another_time_boot_or_no_name_at_all():
    boot, namespace, pid, started = own().split("/")
    assert gone(f"another-boot/{namespace}/{pid}/{started}")
    assert gone(f"{boot}/{namespace}/{pid}/{int(started or 1) - 1}") is bool(started)
    assert not gone(f"{boot}/another/{pid}/1"), "of another container: only its lease tells"
    assert gone("")
    assert gone("a/b/c/d")
