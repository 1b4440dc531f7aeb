"""What a person sees while the server starts: where it is, what is loading, when it is ready."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from engines.messages import Model, Progress
from realtime.fleet import Engines


class Screen:
    """On a terminal a bar; on a pipe one line per fact, for logs and tests."""

    def __init__(self, console: Console, *, url: str, model: str) -> None:
        self._console = console
        self._url, self._model = url, model
        self._started = time.monotonic()
        self._state = self._stage = ""
        self._drew = False  # an engine was ready before
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Requests are taken; the engine may still load for a while."""
        self._say(f"realtime is at {self._url}/")
        if self._console.is_terminal:
            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(f"starting the engine: {self._model}", total=None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()

    def update(self, engine: Engines) -> None:
        """Called whenever the engine's state or progress changed."""
        if engine.state != self._state:
            self._state = engine.state
            if engine.state == "ready":
                self._ready(engine.models[0])
            elif engine.state == "restarting":
                self._end_bar()
                self._say(
                    "the engine died; restarting it"
                    if self._drew
                    else "the engine did not start; trying again"
                )
        if engine.progress is not None:
            self._load(engine.progress)

    def _ready(self, model: Model) -> None:
        self._end_bar()
        self._drew = True
        seconds = time.monotonic() - self._started
        self._say(f"ready: {model.name} ({model.kind}, {model.device}, {model.dtype}) after {seconds:.1f} s")

    def _load(self, progress: Progress) -> None:
        line = f"{progress.stage}: {progress.text}".rstrip(": ")
        if self._bar is not None and self._task is not None:
            total = progress.total or None
            self._bar.update(self._task, description=line, completed=progress.done, total=total)
        elif progress.stage != self._stage:
            self._stage = progress.stage
            self._say(line)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._console.file.flush()
