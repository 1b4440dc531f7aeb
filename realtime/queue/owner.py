"""Which process works on a request, and whether it still lives.

A process is named boot/namespace/pid/start, so that neither a reboot, nor a pid that was given again, nor
the first process of another container is taken for the one that is gone.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def own() -> str:
    """The name of this process."""
    return "/".join((_boot(), _namespace(), str(os.getpid()), _started(os.getpid())))


def gone(name: str) -> bool:
    """Whether the process of this name has certainly ended. One we cannot see may live: its lease ends."""
    try:
        boot, namespace, pid, started = name.split("/")
        number = int(pid)
    except ValueError:
        return True
    if boot != _boot():
        return True
    if namespace != _namespace():
        return False
    if started:
        return started != _started(number)
    try:  # no /proc here: a pid that was given again passes for alive until its lease ends
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _boot() -> str:
    return _read(PROC / "sys/kernel/random/boot_id")


def _namespace() -> str:
    try:
        return os.readlink(PROC / "self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Clock ticks from the boot to the start of this process; "" if there is none, or no telling."""
    fields = _read(PROC / str(pid) / "stat").rpartition(")")[2].split()  # the name before may hold anything
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
