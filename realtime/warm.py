"""`realtime warm`: an engine process that builds ahead, and how far it is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from realtime.child import command, environment
from realtime.folder import make_private
from realtime.settings import Settings


def run(settings: Settings, sizes: Sequence[str], console: Console) -> int:
    """Build for these sizes, "512x512". Returns an exit status: 1 if something stays as it was, 2 if the
    engine could not start. Raises ValueError for what is no size."""
    for size in sizes:
        if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", size):
            raise ValueError(f"{size} is no size; write WIDTHxHEIGHT in pixels, as 512x512")
    with contextlib.suppress(OSError):  # then nothing is kept, which the engine says
        make_private(settings.state_dir)  # before the engine, which makes it for everybody to read
    words = [*command(settings), "--warm", *sizes]
    # Ctrl-C reaches the whole group; what was built until then is kept.
    with subprocess.Popen(words, env=environment(settings), stdout=subprocess.PIPE, text=True) as engine:
        told = _watch(engine, console)
    if engine.returncode not in (0, 1) or "stats" not in told:
        return 2 if engine.returncode == os.EX_CONFIG else 1
    built, found = (told["stats"].get(name) for name in ("built", "loaded"))
    if built is None:
        console.print("this back end builds nothing ahead", highlight=False)
    else:
        console.print(f"{built:.0f} built, {found:.0f} were there", highlight=False)
    for shape, reason in told["reasons"].items():
        console.print(f"not built: {shape}: {reason}", highlight=False, markup=False, soft_wrap=True)
    return int(engine.returncode)


def _watch(engine: subprocess.Popen[str], console: Console) -> dict[str, Any]:
    """Show its lines until they end; returns the last one."""
    assert engine.stdout is not None
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    told: dict[str, Any] = {}
    shown = ""
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        for line in engine.stdout:
            told = json.loads(line)
            if "stage" not in told:
                continue
            text = f"{told['stage']}: {told['text']}".rstrip(": ")
            total = told["total"] if told["stage"] == "build" else None
            bar.update(task, description=text, completed=told["done"], total=total)
            line = text if total is None else f"{text}, {told['done']:.0f} of {total:.0f}"
            if not console.is_terminal and line != shown:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
                shown = line
    return told
