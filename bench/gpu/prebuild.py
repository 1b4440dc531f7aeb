"""Compiling ahead what the plan needs, each piece in a process, so that measuring finds it in the caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.conditions import ROOT
from bench.gpu.lab import Machine

# What the plan needs compiled, most needed first: (kind, rows of a call), diffusers' own call, and a folder
# of the model for the whole service. "max" is the compiler's other mode. "new" is for the compiler's caches
# alone: who builds that size in the plan begins with an empty store, and finds it there in time.
JOBS = (
    *(("sd15", 1), ("sd15", 8), ("diffusers", 1), ("sdxl", 1), ("sd15", 4), ("folder", 0), ("sd15", 2)),
    *(("sd15", 6), ("sd15", 3), ("sd15 new", 1), ("sd15 max", 1), ("sd15 max", 8)),
    *(("sdxl", 4), ("sd15", 16), ("sd15", 12)),
)
TINY = (("sd15", 1), ("diffusers", 1), ("folder", 0))


def prebuild(machine: Machine, budget_s: float, jobs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every job in a process of its own, `jobs` at a time (0: by the cores). Ends what is not done within
    the budget."""
    jobs = jobs or max(1, min(len(JOBS), (os.cpu_count() or 2) // 3))
    end = time.monotonic() + budget_s
    machine.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | machine.environment()
    waiting = list(TINY if machine.tiny else JOBS)
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    told: dict[str, Any] = {}

    def write() -> None:
        (machine.folder / "prebuild.json").write_text(json.dumps(told, indent=1) + "\n")

    try:
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < jobs:
                kind, rows = waiting.pop(0)
                name = f"{kind} {rows}"
                # What tries many kernels is the longest, and comes when others end.
                most = {"TORCHINDUCTOR_COMPILE_THREADS": str(threads(2 if "max" in kind else jobs))}
                command = [sys.executable, "-m", "bench.gpu", "build", kind, str(rows), *machine.arguments()]
                with log(machine, name).open("wb") as file:
                    process = subprocess.Popen(
                        command, cwd=ROOT, env=environment | most, stdout=file, stderr=file
                    )
                running[name] = process, time.monotonic()
            for name, (process, since) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    took = time.monotonic() - since
                    told[name] = {"ok": process.returncode == 0, "seconds": round(took, 1)}
                    lines = log(machine, name).read_text(errors="replace").strip().splitlines()
                    last = (lines or [""])[-1][:300]
                    told[name]["said"] = last
                    write()  # it may be ended from outside
                    say(f"{name}: {'built' if process.returncode == 0 else 'failed'} in {took:.0f} s  {last}")
            time.sleep(0.1)
    finally:
        for name, (process, _) in running.items():
            process.kill()
            process.wait()
            told[name] = {"ok": False, "said": "not done within the budget"}
            say(f"{name}: not done within the budget")
        told |= {f"{kind} {rows}": {"ok": False, "said": "not begun"} for kind, rows in waiting}
        write()
    return told


def log(machine: Machine, name: str) -> Path:
    return machine.folder / f"build-{name.replace(' ', '-')}.log"


def threads(jobs: int) -> int:
    return max(1, (os.cpu_count() or 2) // jobs)


def build(machine: Machine, kind: str, rows: int) -> dict[str, Any]:
    """One job of `prebuild`. Says what the caches gave."""
    import torch

    from bench.gpu.pictures import new_side
    from bench.ways import BY_HAND, TUNED

    torch.set_num_threads(1)
    if kind == "folder":
        from bench.weights import random_checkpoint

        folder = machine.folder / "sd15"
        random_checkpoint(folder, "sd15", torch.device(machine.device), tiny=machine.tiny, vae="tiny")
        return {"folder": str(folder)}
    if kind == "diffusers":
        from bench.peers.pipelines import Diffusers

        subject = machine.subject("sd15")
        subject.ways.backend("eager")  # sets torch as the plan has it when it compiles this
        Diffusers(subject.loaded(), compiled=True).draw([subject.job(0, 2)])
        return hits()
    kind, _, more = kind.partition(" ")
    subject = machine.subject(kind)
    way = TUNED if more == "max" else "inductor"
    shape = subject.shape(rows)
    if more == "new":
        shape = replace(shape, width=new_side(subject.side) // 8)
    try:
        subject.ways.run(way, shape)
    except RuntimeError as error:
        if more:
            raise
        # The plan will do it by hand, and finds that ready.
        subject.ways.run(BY_HAND, shape)
        return {"by hand": str(error)[:200]} | hits()
    return dict(subject.ways.backend(way).stats()) | hits()


def hits() -> dict[str, int]:
    from torch._dynamo.utils import counters

    wanted = ("fxgraph_cache_hit", "fxgraph_cache_miss", "fxgraph_cache_bypass")
    found = {name: int(counters["inductor"][name]) for name in wanted}
    return found | {name: int(value) for name, value in counters["aot_autograd"].items() if "cache" in name}
