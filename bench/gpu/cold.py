"""A start, stage by stage, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from bench.conditions import ROOT
from bench.gpu.lab import Machine


def cold(machine: Machine, kind: str = "sd15") -> dict[str, Any]:
    """Seconds from the start of a process to its first picture, by stage: see `first`."""
    command = [sys.executable, "-m", "bench.gpu", "first", kind, *machine.arguments()]
    began = time.time()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | machine.environment() | {"BENCH_BEGAN": repr(began)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the process ended with {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def first(machine: Machine, kind: str = "sd15") -> dict[str, Any]:
    """In a process of its own: what a start is made of. Weights of the embedded model are read, others are
    made on the device."""
    began = float(os.environ.get("BENCH_BEGAN", time.time()))
    at: dict[str, float] = {"interpreter_s": time.time() - began}

    def stage(name: str, since: float) -> float:
        now = time.time()
        at[name] = now - since
        return now

    since = time.time()
    import diffusers  # noqa: F401  # they are a stage of the start
    import torch
    import transformers  # noqa: F401

    since = stage("import_s", since)
    torch.set_num_threads(1)
    if machine.device == "cuda":
        torch.cuda.init()
        torch.zeros(1, device="cuda")
    since = stage("device_s", since)
    from bench.inside import pipeline

    subject = machine.subject(kind)
    engine = pipeline(subject, max_batch=8)
    since = stage("weights_s", since)

    def picture() -> None:
        job = subject.job(0, 4)
        row = engine.rows(job, None)[0]
        for _ in range(job.steps):
            engine.step([row], 1)
        engine.encode(row, engine.decode([row])[0], job)

    picture()
    since = stage("first_picture_eager_s", since)
    at["to_first_picture_s"] = time.time() - began
    picture()
    since = stage("second_picture_eager_s", since)
    # Of "inductor" it is compiling or loading, and of what is captured with it the capture alone.
    ways = ["eager+graph", "inductor", "inductor+graph"] if machine.device == "cuda" else ["inductor"]
    for way in ways:
        try:
            subject.ways.run(way, subject.shape(1), build=machine.device == "cuda")
            since = stage(f"{way}_ready_s", since)
            engine.denoiser.backend = subject.ways.backend(way)
            picture()
            since = stage(f"picture_{way}_s", since)
        except Exception as error:
            at[f"{way}: {type(error).__name__}: {str(error)[:200]}"] = -1.0
    at["to_fast_picture_s"] = time.time() - began
    at["backend"] = subject.ways.backend(ways[-1]).stats()  # type: ignore[assignment]
    return at
