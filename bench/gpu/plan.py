"""The parts of a measuring plan: each guarded and timed out, each written down as soon as it is done.

A plan is for a device that is lent for minutes and that nobody can come back to: what fails is recorded with
its reason and the next part runs; what is in the file already is not done again; when the budget is spent,
what there is gets printed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAST_S = 3.0  # of the budget, for a part to be begun


class Late(BaseException):
    """The time of a part is over. No Exception, so that nothing on the way takes it for its own."""


@dataclass(frozen=True)
class Part:
    name: str
    most_s: float
    work: Callable[[], Any]  # returns what JSON can hold
    needs: tuple[str, ...] = ()  # parts without whose results this one has no sense


@dataclass
class Book:
    """What was measured so far, in a file that is whole after every part."""

    file: Path
    conditions: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, file: Path, conditions: dict[str, Any]) -> Book:
        """The file's parts and conditions, if it is there and was written under the like of these. What was
        measured elsewhere stays beside it, under the date of its beginning."""
        book = cls(file, conditions)
        if file.is_file():
            found = json.loads(file.read_text())
            if same(found["conditions"]) == same(conditions):
                book.parts, book.conditions = found["parts"], found["conditions"]
            else:
                when = str(found["conditions"].get("date", "before")).replace(":", "")
                file.replace(file.with_stem(f"{file.stem}-{when}"))
        return book

    def done(self, name: str) -> bool:
        return bool(self.parts.get(name, {}).get("ok"))

    def result(self, name: str) -> Any:
        """None if there is none."""
        return self.parts.get(name, {}).get("result") if self.done(name) else None

    def write(self, name: str, told: dict[str, Any]) -> None:
        self.parts[name] = _plain(told)
        self.save()

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        whole = json.dumps(_plain({"conditions": self.conditions, "parts": self.parts}), indent=1)
        beside = self.file.with_suffix(".new")
        beside.write_text(whole + "\n")
        beside.replace(self.file)


def same(conditions: dict[str, Any]) -> tuple[Any, ...]:
    """What two runs must share for their figures to stand in one table."""
    gpu = str(conditions.get("gpu") or "").partition(",")[0]  # its name; clocks and heat are behind it
    torch = conditions.get("packages", {}).get("torch")
    return conditions.get("tiny"), conditions.get("device"), gpu, torch, conditions.get("commit")


def run(
    parts: Sequence[Part],
    book: Book,
    budget_s: float,
    say: Callable[[str], None],
    broken: Callable[[BaseException], bool] = lambda error: False,
) -> str:
    """In order. broken: whether after this error the process is good for nothing. Returns the name of the
    part that broke it, else "".
    """
    end = time.monotonic() + budget_s
    for part in parts:
        if part.name in book.parts and (book.done(part.name) or book.parts[part.name].get("final")):
            continue
        left = end - time.monotonic()
        missing = [name for name in part.needs if not book.done(name)]
        if missing or left < LEAST_S:
            why = f"needs {', '.join(missing)}" if missing else "no time left"
            book.write(part.name, {"ok": False, "error": f"not begun: {why}"})
            say(f"{part.name}: not begun, {why}")
            continue
        error = _one(part, book, min(part.most_s, left), say)
        if error is not None and broken(error):
            book.parts[part.name]["final"] = True
            book.save()
            return part.name
    return ""


def _one(part: Part, book: Book, most_s: float, say: Callable[[str], None]) -> BaseException | None:
    began = time.monotonic()
    say(f"{part.name} ...")
    failed: BaseException | None = None
    told: dict[str, Any]
    try:
        with limit(most_s):
            told = {"ok": True, "result": part.work()}
    except Late as late:
        told, failed = {"ok": False, "error": f"not done in {most_s:.0f} s", "at": _where(late)}, late
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        told = {"ok": False, "error": f"{type(error).__name__}: {str(error)[:600]}", "at": _where(error)}
        failed = error
    told["seconds"] = round(time.monotonic() - began, 2)
    book.write(part.name, told)
    say(f"{part.name}: {'done' if failed is None else told['error']} ({told['seconds']} s)")
    return failed


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises Late in the main thread after that time; elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def watchdog(seconds: float, last_words: Callable[[], None]) -> None:
    """End the process then, whatever it is in: a call into a driver cannot be interrupted."""

    def end() -> None:
        time.sleep(seconds)
        try:
            last_words()
            sys.stdout.flush()
        finally:
            os._exit(0)

    threading.Thread(target=end, daemon=True, name="watchdog").start()


def _plain(value: Any) -> Any:
    """As JSON has it: nothing for nan and infinities, words for what it has no form for."""
    if isinstance(value, dict):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _where(error: BaseException) -> list[str]:
    """The innermost calls, for who reads the file later."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
