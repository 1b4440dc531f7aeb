"""`python -m bench load|gateway|queue|engine|goodput|embedded --quick --json FILE`: the lab.

Alone: all but embedded, quickly. Full runs replace their tables in bench/README.md and their files in
bench/results; `--quick` ones only print. Most take less than three minutes; embedded, the exam of the
embedded model, takes longer, and so do cpu and peers, which compile what no run before them has.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

# Before torch is imported anywhere: the load generator, the gateway and the engine share these cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from bench import report

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)
console = Console()
Tick = Callable[[str, float], None]

Quick = Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes; nothing is published.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file too.")]


@app.callback(invoke_without_command=True)
def everything(context: typer.Context) -> None:
    """Without a command: all of them, quick."""
    if context.invoked_subcommand is None:
        load(quick=True)
        gateway(quick=True)
        queue(quick=True)
        engine(quick=True)
        goodput(quick=True)


@app.command()
def load(
    sessions: Annotated[int, typer.Option(min=1)] = 8,
    rate: Annotated[float, typer.Option(min=0.1, help="Frames per second and session.")] = 5.0,
    seconds: Annotated[float, typer.Option(min=1, help="Measured, after two of warm-up.")] = 20.0,
    arrivals: Annotated[str, typer.Option(help="poisson or regular")] = "poisson",
    slo: Annotated[float, typer.Option(help="Seconds from the intended send time to the last byte.")] = 0.25,
    steps: Annotated[int, typer.Option(min=1, max=12)] = 4,
    size: Annotated[int, typer.Option(help="Pixels, square.")] = 128,
    seed: int = 0,
    model: Annotated[
        str, typer.Option(help="As of `realtime serve`; a server of its own is started.")
    ] = "fake",
    port: Annotated[int, typer.Option(help="Load the server that listens here instead.")] = 0,
    quick: Quick = False,
    json: Json = None,
) -> None:
    """Open loop: N sessions at a rate, whether or not the server keeps up."""
    from bench.load import Load, figures

    wanted = Load(
        sessions=sessions,
        rate_hz=rate,
        seconds=min(seconds, 4.0) if quick else seconds,
        arrivals=arrivals,
        seed=seed,
        slo_s=slo,
        steps=(steps,),
        size=size,
    )
    _run(lambda tick: figures(wanted, model, port, tick), publish=False, json=json)


@app.command()
def gateway(quick: Quick = False, json: Json = None) -> None:
    """The gateway alone: added latency, memory, floods, fal's SDK beside it."""
    from bench.gateway import figures

    _run(lambda tick: figures(quick, tick), publish=not quick, json=json)


@app.command()
def queue(quick: Quick = False, json: Json = None) -> None:
    """The queue beside the least that could be one, and live frames while it is full."""
    from bench.queue import figures

    _run(lambda tick: figures(quick, tick), publish=not quick, json=json)


@app.command()
def engine(quick: Quick = False, json: Json = None) -> None:
    """The engine against diffusers one by one: images per CPU-second."""
    from bench.engine import figures

    _run(lambda tick: figures(quick, tick), publish=not quick, json=json)


@app.command()
def host(quick: Quick = False, json: Json = None) -> None:
    """The engine's loop beside a device that only takes time: what a GPU's host would leave unused."""
    from bench.host import figures

    _run(lambda tick: figures(quick, tick), publish=not quick, json=json)


@app.command()
def cpu(quick: Quick = False, json: Json = None) -> None:
    """The embedded model on a CPU by layout, precision and allocator: why the defaults are what they are."""
    from bench.cpu import figures

    _run(lambda tick: figures(quick, tick), publish=not quick, json=json)


@app.command()
def goodput(quick: Quick = False, json: Json = None) -> None:
    """Twice the capacity offered: pictures that arrive in time, beside FIFO."""
    from bench.goodput import figures

    _run(lambda tick: figures(quick, tick), publish=not quick, json=json)


@app.command()
def embedded(
    model: Annotated[str, typer.Option(help="As of `realtime serve`.")] = "embedded",
    pictures: Annotated[
        str, typer.Option(help="server; renders or codec judge the judge instead, with no model at all")
    ] = "server",
    size: Annotated[int, typer.Option(help="Pixels, square; 0 is the model's own.")] = 0,
    captions: Annotated[int, typer.Option(help="Of each paper; 0 is all 604.")] = 0,
    steps: Annotated[str, typer.Option(help="Numbers of steps, with commas; 4 among them.")] = "1,2,4,8",
    out: Annotated[Path, typer.Option(help="Folder for the contact sheets.")] = Path("build/exam"),
    quick: Quick = False,
    json: Json = None,
) -> None:
    """The exam: do pictures show what their captions say, ordinary ones and never trained combinations?"""
    from dataclasses import replace

    from bench.embedded import FULL, QUICK, figures

    counts = QUICK if quick else replace(FULL, steps=tuple(map(int, steps.split(","))))
    counts = replace(counts, captions=captions or counts.captions)
    publish = not quick and pictures == "server" and model == "embedded" and counts.captions >= 500
    _run(lambda tick: figures(model, pictures, size, out, counts, tick), publish=publish, json=json)


@app.command()
def roofline(
    sizes: Annotated[
        str, typer.Option(help="Pixels, square, with commas; the model's own if none is given.")
    ] = "",
    quick: Quick = False,
    json: Json = None,
) -> None:
    """Every piece of a picture beside the least it can take: by model, size, rows of a call and back end."""
    from bench.roofline import figures

    sides = [int(side) for side in sizes.split(",") if side]
    _run(lambda tick: figures(quick, tick, sides), publish=not quick, json=json)


@app.command()
def peers(quick: Quick = False, json: Json = None) -> None:
    """The engine beside diffusers, request batching and StreamDiffusion: the same weights, one process."""
    from bench.compare import figures

    _run(lambda tick: figures(quick, tick), publish=not quick, json=json)


@app.command()
def gpu(
    budget: Annotated[
        float, typer.Option(help="Seconds in all; what does not fit is left for another run.")
    ] = 270,
    out: Annotated[Path, typer.Option(help="Where results go after every part, and are found again.")] = Path(
        "build/gpu/gpu.json"
    ),
    prebuild: Annotated[
        bool, typer.Option("--prebuild", help="Only compile what the plan needs, beside other work.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Of --prebuild at once; 0: by the cores.")] = 0,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small structures: a rehearsal.")] = False,
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cuda",
    folder: Annotated[Path, typer.Option(help="Of what is compiled.")] = Path("build/gpu"),
) -> None:
    """The measuring plan of one GPU, most valuable part first; go on where it stopped by saying it again."""
    from bench.gpu.findings import result
    from bench.gpu.lab import Machine
    from bench.gpu.measure import measure, show
    from bench.gpu.prebuild import prebuild as build

    machine = Machine(device, tiny, folder.absolute())

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends with us
    if prebuild:
        told = build(machine, budget, jobs, say)
        raise typer.Exit(0 if all(one["ok"] for one in told.values()) else 1)
    book = measure(machine, out.absolute(), budget, say)
    show(book)
    report.save(result(book), out.absolute().with_name("result.json"))


@app.command("report")
def report_(
    out: Annotated[Path, typer.Option(help="The page.")] = Path("build/report.html"),
    results: Annotated[Path, typer.Option(help="Folder of results as JSON.")] = report.RESULTS,
    take: Annotated[
        Path | None, typer.Option(help="A result from elsewhere, kept in bench/results and the README first.")
    ] = None,
) -> None:
    """All results on one HTML page that needs no other file."""
    from bench.page import write

    if take is not None:
        report.publish(report.load(take))

    console.print(f"written: {write(results, out)}")


def _run(work: Callable[[Tick], report.Result], *, publish: bool, json: Path | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers under test end with us
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        task = progress.add_task("starting", total=1.0)
        result = work(lambda what, share: progress.update(task, description=what, completed=share))
    report.show(result, console)
    if json is not None:
        report.save(result, json)
    if publish:
        report.publish(result)
        console.print(f"written: bench/results/{result.name}.json, bench/README.md")


if __name__ == "__main__":
    app()
