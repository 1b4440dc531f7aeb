"""What the embedded model costs a CPU by layout, precision, allocator and back end: why a CPU engine's
defaults are what they are.

Each way of running is a process of its own, because glibc reads its settings at the start. They take turns
in one run, and CPU time of the working thread is compared, so other work on the machine slows all alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import steps
from bench.conditions import ROOT, after, conditions
from bench.report import Bar, Result, Table

Tick = Callable[[str, float], None]
BATCH = 4  # a CPU engine's largest call


@dataclass(frozen=True)
class Way:
    dtype: str = "float32"
    layout: str = "channels_last"
    kept: bool = True  # the allocator keeps what it has mapped, as realtime/child.py asks it to


SERVED = "as served: float32, channels_last, memory kept"
WAYS = {
    SERVED: Way(),
    "memory given back and mapped anew": Way(kept=False),
    "contiguous": Way(layout="contiguous_format"),
    "bfloat16": Way(dtype="bfloat16"),
}
PIECES = ("step, 1 row", f"step, {BATCH} rows, each", "VAE decode", "VAE encode", "a picture in 4 steps")


def figures(quick: bool, tick: Tick) -> Result:
    """`python -m bench cpu`."""
    given = conditions()
    turns = 3 if quick else 9
    running: dict[str, subprocess.Popen[str]] = {}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    try:
        for at, (name, way) in enumerate(WAYS.items()):
            tick(f"load: {name}", at / len(WAYS) / 2)
            running[name] = _start(["bench.cpu", way.dtype, way.layout], way.kept)
            _answer(running[name])  # it is loaded and warm
        for turn in range(turns):
            for at, name in enumerate(WAYS):
                tick(name, (turn + at / len(WAYS)) / turns / 2)
                taken[name].append(_answer(running[name], "measure\n"))
    finally:
        _end(*running.values())
    beside = _start(["bench.steps", *(["ahead"] if quick else [])], kept=True)
    try:
        table, bars, raw = steps.figures(
            lambda question: _answer(beside, question), turns, lambda what, share: tick(what, 0.5 + share / 2)
        )
    finally:
        _end(beside)
    median = {
        name: {piece: statistics.median(turn[piece] for turn in of) for piece in PIECES}
        for name, of in taken.items()
    }
    ratio = {
        name: {
            piece: statistics.median(
                mine[piece] / served[piece] for mine, served in zip(of, taken[SERVED], strict=True)
            )
            for piece in PIECES
        }
        for name, of in taken.items()
    }
    rows = [
        [name, *(f"{1e3 * median[name][piece]:.1f} ms, {ratio[name][piece]:.2f}x" for piece in PIECES)]
        for name in WAYS
    ]
    whole = PIECES[-1]
    others = [name for name, way in WAYS.items() if name != SERVED and way.dtype == "float32"]
    return Result(
        "cpu",
        after(given),
        [
            *[
                Bar(f"{whole}, {name}, to what is served", ratio[name][whole], 1.0, "x", True)
                for name in others
            ],
            *bars,
        ],
        [
            Table(
                "The embedded model on one thread, CPU time",
                ["", *PIECES],
                rows,
                f"Median of {turns} turns, the ways in alternation; ratios are medians of ratios within a "
                "turn. Below 1 is quicker than what is served. bfloat16 is not the default, whatever it "
                "gains here: pictures are promised in float32 on a CPU, and CPUs without its instructions "
                "emulate it.",
            ),
            table,
        ],
        raw={"median_s": median, "ratio": ratio, "steps": raw},
    )


def _start(module: list[str], kept: bool) -> subprocess.Popen[str]:
    """python -m these words; kept: as of Way."""
    from realtime.child import environment
    from realtime.settings import Settings

    given = dict(os.environ)
    if kept:
        given = environment(Settings(device="cpu", model="embedded"))
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        env=given | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def _answer(process: subprocess.Popen[str], question: str = "") -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of the bench ended with {process.wait()}")
    return json.loads(line)


# ---- the processes ----


def _serve(dtype: str, layout: str) -> None:
    """Say {} when warm; then the seconds of each piece for every line that comes."""
    import numpy as np
    import torch

    from engines.lcm import Lcm
    from engines.messages import Job

    engine = Lcm(model="embedded", device="cpu", dtype=dtype, threads=1, max_batch=BATCH)
    engine.load(lambda *progress: None)
    for module in (engine.denoiser.unet, engine.codec.module):
        module.to(memory_format=getattr(torch, layout))
    side = engine.models[0].native
    rows: list[Any] = [
        row for seed in range(BATCH) for row in engine.rows(Job("a red circle", seed, side, side), None)
    ]
    picture = np.zeros((side, side, 3), np.uint8)

    def step(count: int) -> None:
        for row in rows[:count]:
            row.position = 0
        engine.step(rows[:count], count)

    def measure() -> dict[str, float]:
        one, many = seconds(lambda: step(1)), seconds(lambda: step(BATCH)) / BATCH
        decode = seconds(lambda: engine.decode(rows[:1]))
        encode = seconds(lambda: engine.codec.encode(picture))
        return dict(zip(PIECES, (one, many, decode, encode, 4 * one + decode), strict=True))

    measure()
    print("{}", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


def seconds(work: Callable[[], object], times: int = 12) -> float:
    """CPU seconds of this thread, the median of some."""
    taken = []
    for _ in range(times):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
