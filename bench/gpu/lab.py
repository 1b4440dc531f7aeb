"""What the parts of a plan share: a machine, a model on it, its engine, the book they write into."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.conditions import ROOT, conditions, gpu
from bench.gpu.plan import Book

FOLDER = ROOT / "build" / "gpu"


@dataclass(frozen=True)
class Machine:
    device: str
    tiny: bool
    folder: Path = FOLDER  # of what is built

    @property
    def dtype(self) -> str:
        return "float16" if self.device == "cuda" else "float32"

    def arguments(self) -> list[str]:
        return ["--device", self.device, *(["--tiny"] if self.tiny else []), "--folder", str(self.folder)]

    def environment(self) -> dict[str, str]:
        """Every process finds this project, installed or not, and what another one has compiled."""
        return {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
            "TRITON_CACHE_DIR": str(self.folder / "triton"),
            "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
            "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
        }

    def conditions(self) -> dict[str, Any]:
        """Of a book of this machine."""
        return conditions() | gpu() | {"device": self.device, "tiny": self.tiny}

    def prebuilt(self, job: str) -> str:
        """What a job of `prebuild` said in the end; "" if there was none, or it came to nothing."""
        file = self.folder / "prebuild.json"
        told = json.loads(file.read_text()).get(job, {}) if file.is_file() else {}
        return str(told["said"]) if told.get("ok") else ""

    def subject(self, kind: str) -> Any:
        import torch

        from bench.subject import Subject, embedded

        dtype = getattr(torch, self.dtype)
        if kind == "embedded":
            return embedded(torch.device(self.device), dtype)
        return Subject(
            kind, torch.device(self.device), dtype, tiny=self.tiny, store=self.folder / "state" / "builds"
        )


class Lab:
    """What the parts of one process share: a model, its engine, and the book they write into."""

    def __init__(self, machine: Machine, kind: str, book: Book) -> None:
        self.machine, self.kind, self.book = machine, kind, book
        self.seconds = 0.4 if machine.tiny else 4.0  # of a closed loop
        self.cuda = machine.device == "cuda"

    @cached_property
    def subject(self) -> Any:
        return self.machine.subject(self.kind)

    @cached_property
    def engine(self) -> Any:
        from bench.inside import pipeline

        return pipeline(self.subject, max_batch=16)

    @cached_property
    def ceilings(self) -> Any:
        """Of the book, if they are there: a second process compares with the same."""
        from bench.ceilings import Ceilings, measure

        told = self.book.result("ceilings")
        if told is None:
            return measure(self.subject.device, self.subject.dtype, self.machine.tiny)
        return Ceilings(
            told["device"],
            told["matrix_tflop_s"] * 1e12,
            told["copy_gb_s"] * 1e9,
            told["to_host_gb_s"] * 1e9,
            told["launch_us"] * 1e-6,
        )

    def steps(self, way: str, rows: Sequence[int], build: bool = True) -> list[dict[str, Any]]:
        from bench.roofline import step

        most_s = 0.3 if self.machine.tiny else 1.0
        return [step(self.subject, way, count, self.ceilings, most_s, build) for count in rows]

    def best(self, rows: int, build: bool) -> list[dict[str, Any]]:
        """Compiled and captured by the engine's back end; where that fails and `build`, by hand. Without
        `build` only what was compiled before."""
        from bench.ways import BY_HAND

        ways = ["inductor+graph" if self.cuda else "inductor"]
        by_hand = "by hand" in self.machine.prebuilt(f"{self.kind} {rows}")
        if self.cuda and (build or by_hand):
            ways.append(BY_HAND)
        if self.cuda and by_hand:
            ways.remove("inductor+graph")  # it was tried ahead, and found wrong
        failed = ""
        for way in ways:
            try:
                return [
                    row | ({"fell_back": failed} if failed else {}) for row in self.steps(way, (rows,), build)
                ]
            except Exception as error:
                if broken(error):
                    raise
                failed = f"{way}: {type(error).__name__}: {str(error)[:300]}"
        raise RuntimeError(failed)

    @property
    def ready(self) -> dict[int, str]:
        """By the rows of a call the fastest way that was measured: what the book says. Of what was searched
        for in another process nothing is left, and no part has the time to do it again."""
        from bench.ways import SEARCHED

        found: dict[int, tuple[float, str]] = {}
        for told in self.book.parts.values():
            rows = told.get("result")
            for row in rows if told.get("ok") and isinstance(rows, list) else []:
                if row.get("model") == self.kind and "way" in row:
                    took, way, places = row["ms"], row["way"], row["places"]
                    if way != SEARCHED or self.subject.ways.ready(way, self.subject.shape(places)):
                        found[places] = min(found.get(places, (took, way)), (took, way))
        return {rows: way for rows, (_, way) in sorted(found.items())}

    def served(self, most: int = 16) -> Any:
        """The engine on the fastest way for each size of call that is ready, at most `most` rows in one."""
        from bench.inside import Mixed

        backends = {}
        for rows, way in self.ready.items():
            if rows <= most:
                self.subject.ways.run(way, self.subject.shape(rows), build=False)  # if this process has not
                backends[rows] = self.subject.ways.backend(way)
        eager = self.subject.ways.backend("eager")
        self.engine.denoiser.backend = Mixed(backends, eager)
        self.engine.buckets = tuple(backends) or (1,)
        return self.engine


def broken(error: BaseException) -> bool:
    """After this the process's CUDA context answers nothing but errors."""
    said = str(error)
    return "CUDA error" in said or "device-side assert" in said or "CUBLAS_STATUS_EXECUTION" in said


def floor_ms(lab: Lab, steps: int = 4) -> float:
    """Of one image: its steps and its tiny decode."""
    ceilings, itemsize = lab.ceilings, lab.subject.dtype.itemsize
    parts_ = [(lab.subject.work("unet"), steps), (lab.subject.work("tiny-decode"), 1)]
    return 1e3 * sum(n * work.seconds(1, ceilings.flop_s, ceilings.bytes_s, itemsize) for work, n in parts_)
