"""SDXL in a process of its own: it prepares while others measure, and measures when it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.conditions import ROOT
from bench.gpu.lab import Lab, Machine, broken
from bench.gpu.pictures import one_image
from bench.gpu.plan import Book, Part
from bench.ways import SEARCHED


class Second:
    """`python -m bench gpu --second FILE`: prepares at once, measures when told, and ends."""

    def __init__(self, machine: Machine, book: Book) -> None:
        self.machine, self.book = machine, book
        self.file = book.file.with_name(book.file.stem + "-sdxl.json")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "bench.gpu",
            "second",
            *self.machine.arguments(),
            "--out",
            str(self.file),
        ]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        log = self.file.with_suffix(".log").open("wb")
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | self.machine.environment(),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )

    def measured(self) -> Any:
        """What it measured, told to begin now."""
        if self.process is None or self.process.stdin is None:
            raise RuntimeError("it was not started")
        try:
            self.process.stdin.write(b"go\n")
            self.process.stdin.close()
            self.process.wait()
        except BrokenPipeError:
            pass
        finally:
            self.stop()
            parts = Book.open(self.file, self.book.conditions).parts
            found = {name: told for name, told in parts.items() if name.startswith("sdxl")}
            self.book.parts |= {name: told for name, told in found.items() if told.get("ok")}
        wrong = {name: told["error"] for name, told in found.items() if not told.get("ok")}
        if not any(told.get("ok") for told in found.values()):
            said = self.file.with_suffix(".log").read_text(errors="replace")[-400:]
            raise RuntimeError(f"the second process came to nothing: {wrong or said}")
        return {"failed": wrong} if wrong else {}

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def second_parts(lab: Lab, go: Callable[[], None]) -> list[Part]:
    def prepare() -> dict[str, Any]:
        """Everything that takes time and needs no quiet."""
        began = time.monotonic()
        way = "inductor+graph" if lab.cuda else "eager"
        failed = ""
        try:
            lab.subject.ways.run(way, lab.subject.shape(1), build=False)
            lab.subject.ways.run("eager", lab.subject.shape(1))
        except Exception as error:
            if broken(error):
                raise
            failed = f"{type(error).__name__}: {str(error)[:200]}"
        _ = lab.engine
        ready = time.monotonic() - began
        go()
        return {"prepared_s": ready, "failed": failed}

    plan = [Part("sdxl prepared", 600, prepare)]
    if lab.cuda:
        plan.append(Part("sdxl compiled 1", 30, lambda: lab.best(1, False)))
        plan.append(Part("sdxl eager+graph", 30, lambda: lab.steps("eager+graph", (1,))))
        search = Part("sdxl searched 1", 45, lambda: lab.steps(SEARCHED, (1,), False), ("sd15 searched 1",))
        plan.append(search)
    plan.append(Part("sdxl one image", 15, lambda: one_image(lab)))
    if lab.cuda:
        plan.append(Part("sdxl compiled 4", 30, lambda: lab.best(4, False)))
    plan.append(Part("sdxl eager", 15, lambda: lab.steps("eager", (1,))))
    return plan
