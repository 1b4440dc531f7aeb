"""The command: the plan, or what is left of it, within a budget."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.gpu.lab import Lab, Machine, broken
from bench.gpu.parts import parts
from bench.gpu.plan import Book, run, watchdog
from bench.gpu.second import Second

Say = Callable[[str], None]


def measure(machine: Machine, out: Path, budget_s: float, say: Say) -> Book:
    """The plan, or what is left of it."""
    began = time.monotonic()
    os.environ.update(machine.environment())
    book = Book.open(out, machine.conditions())
    sdxl = Second(machine, book)

    def last_words() -> None:
        sdxl.stop()
        book.save()
        show(book)
        print("the budget is over, and something did not end: this process did", flush=True)

    watchdog(budget_s + 8, last_words)
    lab = Lab(machine, "sd15", book)
    if not book.done("sdxl"):
        book.parts.pop("sdxl", None)
        sdxl.start()
    try:
        failed = run(parts(lab, sdxl), book, budget_s - (time.monotonic() - began), say, broken)
    finally:
        sdxl.stop()
    left = budget_s - (time.monotonic() - began)
    if failed and left > 30:
        say(f"{failed} broke the device's context; a new process goes on")
        sys.stdout.flush()
        command = [sys.executable, "-m", "bench.gpu", "measure", *machine.arguments()]
        os.execv(sys.executable, [*command, "--out", str(out), "--budget", str(int(left - 2))])
    return book


def show(book: Book) -> None:
    """A few dozen lines, for who sees the end of the output and nothing else."""
    from bench.gpu.findings import brief

    try:
        print("\n".join(brief(book)), flush=True)
    except (KeyError, TypeError, ValueError) as error:  # figures are in the file, whatever they look like
        print(f"{book.file} is written; {type(error).__name__}: {error}", flush=True)
