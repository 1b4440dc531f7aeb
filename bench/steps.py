"""A step of the embedded model as a CPU serves it, beside what could be in its place, by the rows of a call.

Compiled code, and a program to which keys and values of the text are known; all in alternation in one
process, `python -m bench.steps`, which `bench.cpu` starts and asks.
"""

from __future__ import annotations

import copy
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from bench.report import Bar, Table
from bench.ways import store

Tick = Callable[[str, float], None]
Ask = Callable[[str], Any]  # writes to the process and reads its next line
COMPILERS = ("g++", "clang++", "c++")
TIMES = 12  # steps of each kind in a turn


class Known(nn.Module):
    """Keys or values of the text, computed once for each number of rows and never again."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.found = layer, dict[int, Tensor]()

    def forward(self, text: Tensor) -> Tensor:
        if len(text) not in self.found:
            self.found[len(text)] = self.layer(text)
        return self.found[len(text)]


def knowing(program: Any) -> Any:
    """A copy of a program for one text: more than any cache of keys and values could save."""
    made = copy.deepcopy(program)
    for name, layer in list(made.unet.named_modules()):
        if name.endswith("attn2"):
            layer.to_k, layer.to_v = Known(layer.to_k), Known(layer.to_v)
    return made


def alternated(ways: Mapping[str, Callable[[], Any]], times: int = TIMES) -> dict[str, float]:
    """CPU seconds of this thread of one call each: medians of some, the ways in alternation."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, work in ways.items():
            began = time.thread_time()
            work()
            taken[name].append(time.thread_time() - began)
    return {name: statistics.median(of) for name, of in taken.items()}


def answers(build: bool, model: str = "embedded") -> Iterator[Any]:
    """First the numbers of rows that a CPU serves in a call; then, for each, whether compiled code is served
    there and why not: {"compiled": None if nobody could know, "why"}. Then without an end {rows: {way: CPU
    seconds of a step}}. build: compile, a minute or more each, what was not before."""
    from engines.backends import make
    from engines.backends.code import Code
    from engines.backends.program import Shape
    from engines.lcm import Lcm
    from engines.messages import Job

    engine = Lcm(model, "cpu", "float32", threads=1, backend="eager")
    engine.read(lambda *progress: None)
    side, program = engine.models[0].native, engine.denoiser.program
    job = Job("a red circle", 0, side, side, count=engine.buckets[-1])
    rows = engine.rows(job, None)
    compiled = make("inductor", program, store=store())
    ways = {"eager": engine.denoiser.backend, "known": make("eager", knowing(program))}
    yield engine.buckets
    served = {count: dict(ways) for count in engine.buckets}
    for count in engine.buckets:
        shape = Shape(count, *rows[0].latents.shape, *rows[0].embedding.text.shape, program.features)
        if any(map(shutil.which, COMPILERS)):
            compiled.warm(shape, build)
            why = compiled.reasons().get(str(shape), "" if build else "nobody compiled it ahead")
        else:
            build, why = False, "there is no C++ compiler here"
        if isinstance(compiled.program(shape), Code):
            served[count]["compiled"] = compiled
            yield {"compiled": True, "why": ""}
        else:
            yield {"compiled": False if str(shape) in compiled.reasons() else None, "why": why}

    def step(count: int, backend: Any) -> None:
        engine.denoiser.backend = backend
        for row in rows[:count]:
            row.position = 0
        engine.step(rows[:count], count)

    def measured(count: int) -> dict[str, float]:
        return alternated({way: lambda b=b: step(count, b) for way, b in served[count].items()})

    while True:
        yield {count: measured(count) for count in engine.buckets}


def figures(ask: Ask, turns: int, tick: Tick) -> tuple[Table, list[Bar], dict[str, Any]]:
    """The table, its bars and what they come from, of a process that answers `ask`."""
    tick("load: compiled and eager", 0.0)
    counts = ask("")
    verdicts = []
    for at, count in enumerate(counts):
        tick(f"compile a step of {count} rows, a minute or more", at / (len(counts) + 1))
        verdicts.append(ask(""))
    taken = []
    for _ in range(turns):
        tick("compiled and eager", len(counts) / (len(counts) + 1))
        taken.append(ask("measure\n"))
    rows, bars = [], []
    for count, verdict in zip(counts, verdicts, strict=True):
        turns_ = [turn[str(count)] for turn in taken]

        def milliseconds(way: str, of: Any = turns_) -> float | None:
            return 1e3 * statistics.median(turn[way] for turn in of) if way in of[0] else None

        def gain(way: str, of: Any = turns_) -> float | None:
            return statistics.median(turn["eager"] / turn[way] for turn in of) if way in of[0] else None

        found = [value for way in ("compiled", "known") for value in (milliseconds(way), gain(way))]
        rows.append([count, milliseconds("eager"), *found, verdict["why"]])
        # Where the back end has found its code slower it serves eager, which is as quick as eager.
        ratio = gain("compiled") if verdict["compiled"] else None if verdict["compiled"] is None else 1.0
        if ratio is not None:
            bars.append(
                Bar(
                    f"a step of {count} rows, eager to the compiled back end, CPU time", ratio, 1.0, "x", True
                )
            )
    table = Table(
        "A step of the embedded model on one thread, CPU ms",
        ["rows", "eager", "compiled", "eager to it", "text's keys and values known", "eager to it", ""],
        rows,
        f"Median of {turns} turns, the ways in alternation; ratios are medians of ratios within a turn. The "
        "compiled back end serves eager where it has found its code slower, and says so in the last column. "
        "Known keys and values are constants: an upper bound of what keeping them could gain.",
    )
    return table, bars, {"rows": counts, "verdicts": verdicts, "turns": taken}


def main() -> None:
    """The first answers, and one more for every line that comes. With "ahead" nothing is compiled."""
    told = answers(build="ahead" not in sys.argv)
    counts = next(told)
    say(counts)
    for _ in counts:
        say(next(told))
    for _ in sys.stdin:
        say(next(told))


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
