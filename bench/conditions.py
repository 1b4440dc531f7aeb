"""Under what a figure was measured: without this a figure is an anecdote."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "diffusers",
    "websockets",
    "uvicorn",
    "starlette",
    "uvloop",
    "msgpack",
    "pydantic",
    "pillow",
)
ROOT = Path(__file__).parents[1]


def conditions() -> dict[str, Any]:
    """What can be said before the run; `after` completes it."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load_before": _load(),
    }


def gpu() -> dict[str, Any]:
    """What a CUDA device says of itself now, asked and never set; nothing without one."""
    asked = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    said = done.stdout.strip().splitlines()
    return {"gpu": said[0]} if done.returncode == 0 and said else {}


def after(before: dict[str, Any]) -> dict[str, Any]:
    """`before` with the load average at the end: above the core count only ratios mean something."""
    return before | {"load_after": _load()}


def sentence(given: dict[str, Any]) -> str:
    """The conditions as the line under a table."""
    packages = ", ".join(f"{name} {number}" for name, number in given["packages"].items())
    device = f"{given['gpu']}; " if given.get("gpu") else ""
    return (
        f"{device}{given['cores']} cores of {given['cpu']}, {given['memory_gib']} GiB, {given['system']}, "
        f"Python {given['python']}, {packages}; load average {given['load_before'][0]} before and "
        f"{given.get('load_after', ['?'])[0]} after; {given['date']}, commit {given['commit']}, "
        f"`{given['command']}`"
    )


def _commit() -> str:
    changes = "+changes" if _git("status", "--porcelain", "-uno") else ""
    return _git("rev-parse", "--short", "HEAD") + changes


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _load() -> list[float]:
    return [round(value, 2) for value in os.getloadavg()]
