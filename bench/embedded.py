"""The exam of the embedded model through a running server: does each picture show what its caption says?

Every share is of seeded captions, ordinary ones and ones whose combination of attributes training never
shows, with its 95 % interval, beside the judge's own accuracy on pictures that are right by construction:
the renderer's, as they are and after the model's codec. No judge can find more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.conditions import after, conditions
from bench.exam import editing, sheets
from bench.exam.bars import BARS, SPREAD_POINTS, WORSE_PERCENT, percent, shown, steps, worst_gap, worst_look
from bench.exam.examination import SCALES, SEED
from bench.exam.judge import codec, pooled
from bench.exam.jury import Jury
from bench.exam.order import Order, Paint
from bench.exam.painter import matmul_gflops, painted, request_ms
from bench.exam.papers import QUOTAS, SETS, paper, quotas
from bench.exam.pipeline import native_size
from bench.exam.sitting import Answered, drawn, sit
from bench.report import Bar, Plot, Result, Table
from bench.server import Server, ours

STEPS = (1, 2, 4, 8)
Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class Counts:
    """How much is asked."""

    captions: int
    steps: tuple[int, ...]
    drawings: int
    strengths: tuple[float, ...]
    holes: int
    open: int
    again: int  # captions drawn with other seeds
    requests: int  # timed, of each number of steps


FULL = Counts(sum(QUOTAS.values()), STEPS, 20, editing.STRENGTHS, 60, 60, 40, 40)
QUICK = Counts(30, (1, 4), 3, (0.2, 0.6, 1.0), 4, 6, 8, 5)


def figures(
    model: str,
    pictures: str,
    side: int,
    out: Path,
    counts: Counts,
    tick: Tick,
) -> Result:
    """`python -m bench embedded`. pictures: "server", or "renders" and "codec" to judge the judge alone.

    side: pixels of the pictures, 0 for the model's own size. Sheets are written to `out`. ValueError for
    other `pictures`, or for a codec where the model has no folder.
    """
    given = conditions()
    torch.set_num_threads(1)
    folder = _folder(model)
    side = side or (native_size(folder) if folder else 128)
    through = codec(folder) if folder else None
    papers = {name: paper(quotas(counts.captions), held, SEED) for name, held in SETS.items()}
    with Jury() as jury:
        if pictures != "server":
            taken = {}
            for name, questions in papers.items():
                tick(f"{pictures}, {name}", 0.0)
                right = drawn(questions, side, SEED + 3)
                paint = _standing_in(right, through, pictures)
                taken[name] = sit(jury, questions, paint, (4,), SEED, through, name)
            return _result(given, model, side, counts, taken)
        with ours(model, target_s=3600) as server:
            paint = _asking(server, side, tick)
            taken = {
                name: sit(jury, questions, paint, counts.steps, SEED, through, name, every=4)
                for name, questions in papers.items()
            }
            swept = editing.sweep(jury, paint, side, counts.drawings, counts.strengths, SEED)
            filled = editing.filling(jury, paint, side, counts.holes, SEED)
            free = editing.freedom(jury, paint, counts.open, 3, SCALES, SEED)
            seeds = editing.seeds(paint, taken["ordinary"].questions, counts.again, 3)
            tick("speed", 0.0)
            machine = [matmul_gflops()]
            took = {n: request_ms(server, side, n, counts.requests) for n in counts.steps}
            machine.append(matmul_gflops())
    sheets.save(_sheets(taken, swept, counts.strengths, filled), out)
    extra = _Extra(counts.strengths, swept, filled, free, seeds, took, machine)
    return _result(given, model, side, counts, taken, extra)


@dataclass(frozen=True)
class _Extra:
    strengths: Sequence[float]
    swept: editing.Sweep
    filled: editing.Filling
    free: editing.Freedom
    seeds: float
    took_ms: dict[int, tuple[float, float]]  # clock and CPU, see request_ms
    gflops: list[float]


def _folder(model: str) -> Path | None:
    from engines.embedded import WEIGHTS

    folder = WEIGHTS if model == "embedded" else Path(model)
    return folder if (folder / "vae").is_dir() else None


def _asking(server: Server, side: int, tick: Tick) -> Paint:
    def paint(orders: Sequence[Order], what: str) -> Tensor:
        return painted(server, orders, side, lambda share: tick(what, share))

    return paint


def _standing_in(right: Tensor, through: Callable[[Tensor], Tensor] | None, pictures: str) -> Paint:
    """The renderer in the place of the model."""
    if pictures == "renders":
        return lambda orders, what: right
    if pictures != "codec" or through is None:
        raise ValueError(f"pictures come from server, renders or codec (of a folder), not from {pictures!r}")
    return lambda orders, what: through(right)


def _result(
    given: dict[str, Any],
    model: str,
    side: int,
    counts: Counts,
    taken: dict[str, Answered],
    extra: _Extra | None = None,
) -> Result:
    bars, tables = [], []
    raw: dict[str, Any] = {}
    for name, answered in taken.items():
        for what, (names, limits) in BARS.items():
            counted = pooled(answered.marks[4], names)
            bars.append(Bar(f"{what}, {name}", percent(counted), limits[name], "%", True))
        if len(answered.marks) > 1:
            gap, where = worst_gap(answered.marks)
            bars.append(Bar(f"furthest under the best steps, {name}: {where}", gap, SPREAD_POINTS, "points"))
            worse, where = worst_look(answered.looks)
            bars.append(Bar(f"more steps look worse, {name}: {where}", worse, WORSE_PERCENT, "%"))
        tables.append(_table(name, answered))
        raw[name] = {
            "renders": answered.renders,
            "codec": answered.codec,
            "steps": {str(n): tallied for n, tallied in answered.marks.items()},
            "looks": {str(n): look for n, look in answered.looks.items()},
            "own_look": answered.own_look,
        }
    plots = [_plot(name, answered) for name, answered in taken.items() if len(answered.marks) > 1]
    if extra is not None:
        more = _extra(extra, side)
        bars, tables, plots = bars + more.bars, tables + more.tables, plots + more.plots
        raw |= more.raw
    raw |= {"model": model, "side": side, "captions": counts.captions, "seed": SEED}
    return Result("embedded", after(given), bars, tables, plots, raw)


def _table(name: str, answered: Answered) -> Table:
    rows: list[list[Any]] = []
    first = next(iter(answered.marks.values()))
    order = {what: names for what, (names, _) in BARS.items() if len(names) > 1}
    order |= {mark: (mark,) for mark in first}
    for what, names in order.items():
        counted = [pooled(tallied, names) for tallied in answered.marks.values()]
        through = None if answered.codec is None else percent(pooled(answered.codec, names))
        own = percent(pooled(answered.renders, names))
        rows.append([what, counted[0][1], own, through, *map(shown, counted)])
    rows.append(["looks: distance to renders", len(answered.questions), answered.own_look, None])
    rows[-1] += [round(look, 1) for look in answered.looks.values()]
    return Table(
        f"{len(answered.questions)} {name} captions: percent right (95 % interval)",
        ["", "asked", "judge, renders", "judge, codec", *map(steps, answered.marks)],
        rows,
        "Guidance 4, seeds fixed, PNG answers of the realtime socket. The judge's own accuracy is on renders "
        "of the same scenes, as they are and, of a quarter of them, through the model's codec: no figure can "
        "honestly be above it. "
        "Colours, places, sizes, shapes, counts and relations are measured on segmented pixels (shapes by "
        "their overlap with 126 templates), avatars by the nearest ideal portrait, scene words and styles by "
        "a network of 0.2 M weights that has only ever seen renders. Looks is the sliced Wasserstein "
        "distance of patches to renders of the same scenes, in thousandths; under the judge, of renders "
        "drawn again.",
    )


def _plot(name: str, answered: Answered) -> Plot:
    lines = {}
    for what, (names, _) in BARS.items():
        shares = [percent(pooled(tallied, names)) for tallied in answered.marks.values()]
        lines[what] = ([float(n) for n in answered.marks], shares)
    file = f"embedded-{name.replace(' ', '-')}"
    return Plot(file, f"Right by steps, {name} captions", "steps", "percent", lines)


def _extra(extra: _Extra, side: int) -> Result:
    swept, filled, free = extra.swept, extra.filled, extra.free
    least = {
        task: min(percent(editing.followed(tallied)) for tallied in swept.followed[task].values())
        for task in editing.TASKS
    }
    inside = {only: percent(pooled(filled.inside[only], editing.FILLED)) for only in (False, True)}
    low, high = (percent(_all(free.adherence[scale])) for scale in SCALES)
    bars = [
        Bar(
            "image to image: distance to the drawing grows with strength, worst of three prompts",
            *(min(swept.rank.values()), 0.95, "rank corr.", True),
        ),
        Bar(
            "image to image from 0.6 on: another thing than was drawn, worst strength",
            *(least["another thing"], 80.0, "%", True),
        ),
        Bar("inpainting: outside the mask and its seam", filled.outside[False], 2.0, "/ 255"),
        Bar("inpainting at strength 1: prompt followed inside", inside[False], 80.0, "%", True),
        Bar("guidance 4 over 1: adherence on open captions", high - low, 0.1, "points", True),
        Bar(
            "guidance 4: pictures of an open caption differ by seed",
            *(100 * free.variation[SCALES[-1]], 10.0, "% of captions'", True),
        ),
        Bar("pictures of one full caption differ by seed", 100 * extra.seeds, 10.0, "% of captions'", True),
        Bar(f"whole request, {side} px, 4 steps", extra.took_ms[4][0], 150.0, "ms"),
    ]
    strengths = [float(s) for s in extra.strengths]
    tables = [
        Table(
            f"Image to image: {len(swept.drawings)} rough drawings, distance to the drawing by strength",
            ["prompt", "rank corr.", "one by one", *(f"{s:g}" for s in strengths), "followed from 0.6, %"],
            [
                [task, swept.rank[task], swept.rank_single[task], *swept.distance[task], least[task]]
                for task in editing.TASKS
            ],
            "Mean absolute difference to the drawing, pixels in 0..1; rank correlation with strength, of the "
            "means and as the mean over single drawings. Followed: colours, place and shape as the prompt "
            "says, at the worst strength from 0.6 on. Another thing has the place and ground of the drawing, "
            "another picture nothing of it.",
        ),
        Table(
            f"Inpainting at strength 1: {len(filled.sources)} renders, another thing in place of one",
            ["", "outside, /255", "colour inside, %", "shape inside, %"],
            [
                [
                    "the mask alone may change" if only else "`inpaint_mask_only` false, the default",
                    filled.outside[only],
                    *(percent(filled.inside[only][mark]) for mark in editing.FILLED),
                ]
                for only in (False, True)
            ],
            f"Outside: mean absolute difference to the source, {8 * editing.SEAM_CELLS} pixels around the "
            "mask left out. At less than strength 1 what was inside shows through: on white paper little "
            "appears below 0.9.",
        ),
        Table(
            "Guidance on captions that leave most open",
            ["scale", "right", "seeds differ by, % of captions'"],
            [[scale, shown(_all(free.adherence[scale])), 100 * free.variation[scale]] for scale in SCALES],
            f"Of the same captions and seeds, {free.gained} marks became right with the higher scale and "
            f"{free.lost} wrong.",
        ),
        Table(
            f"Speed: whole requests one at a time, {side} px, one thread, a new prompt each, JPEG",
            ["", "p50 ms", "CPU ms, gateway and engine"],
            [[steps(n), *took] for n, took in extra.took_ms.items()],
            f"The same machine multiplies float32 matrices of 1024 x 1024 at {extra.gflops[0]:.0f} GFLOP/s "
            f"before and {extra.gflops[1]:.0f} after, on one thread. Other work on the machine lengthens the "
            "first column, not the second.",
        ),
    ]
    lines = {task: (strengths, swept.distance[task]) for task in editing.TASKS}
    plot = Plot("embedded-strength", "Image to image", "strength", "distance to the drawing", lines)
    raw = {
        "strengths": strengths,
        "distance": swept.distance,
        "image_to_image": {t: {str(s): m for s, m in by.items()} for t, by in swept.followed.items()},
        "outside": {str(only): value for only, value in filled.outside.items()},
        "inside": {str(only): value for only, value in filled.inside.items()},
        "adherence": {str(scale): value for scale, value in free.adherence.items()},
        "variation": {str(scale): value for scale, value in free.variation.items()},
        "guidance_gained_lost": [free.gained, free.lost],
        "seeds": extra.seeds,
        "took_ms": {str(n): value for n, value in extra.took_ms.items()},
        "matmul_gflops": extra.gflops,
    }
    return Result("", {}, bars, tables, [plot], raw)


def _all(tallied: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return pooled(tallied, list(tallied))


def _sheets(
    taken: dict[str, Answered], swept: editing.Sweep, strengths: Sequence[float], filled: editing.Filling
) -> dict[str, Any]:
    ordinary, held_out = taken["ordinary"], taken["held out"]
    things = ("thing", "pair", "group", "landscape")
    return {
        "held-out": sheets.answers(held_out.questions, held_out.pictures[4], things, 24),
        "ordinary": sheets.answers(ordinary.questions, ordinary.pictures[4], things, 24),
        "portraits": sheets.answers(ordinary.questions, ordinary.pictures[4], ("portrait",), 12),
        "styles": sheets.styles(ordinary.questions, ordinary.pictures[4]),
        "steps": sheets.steps(ordinary.questions, ordinary.pictures),
        "strengths": sheets.strengths(swept, strengths),
        "masks": sheets.masks(filled),
    }
