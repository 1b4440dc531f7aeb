"""A result of the lab and its shapes: JSON, a table on the terminal, markdown in bench/README.md, plots."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from bench.conditions import sentence

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE / "README.md"


@dataclass(frozen=True)
class Bar:
    """A figure with the limit it was promised to keep."""

    what: str
    value: float
    limit: float
    unit: str
    at_least: bool = False  # else at most

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""  # what a reader needs in order not to be misled


@dataclass(frozen=True)
class Plot:
    """Lines by name, each a list of x and a list of y."""

    name: str  # of the PNG
    title: str
    x: str
    y: str
    lines: dict[str, tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Result:
    name: str
    conditions: dict[str, Any]
    bars: list[Bar] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """What goes into the JSON file; `load` is its inverse."""
        return dataclasses.asdict(self) | {
            "bars": [dataclasses.asdict(b) | {"met": b.met} for b in self.bars]
        }


def load(file: Path) -> Result:
    document = json.loads(file.read_text())
    return Result(
        document["name"],
        document["conditions"],
        [Bar(**{key: value for key, value in bar.items() if key != "met"}) for bar in document["bars"]],
        [Table(**table) for table in document["tables"]],
        [Plot(**plot) for plot in document["plots"]],
        document["raw"],
    )


def cdf(latencies_s: list[float], points: int = 200) -> tuple[list[float], list[float]]:
    """The share of frames at or under each latency: (milliseconds, shares), thinned to `points`."""
    ordered = sorted(latencies_s)
    if not ordered:
        return [], []
    picks = sorted({round(i * (len(ordered) - 1) / (points - 1)) for i in range(points)})
    return [ordered[i] * 1e3 for i in picks], [(i + 1) / len(ordered) for i in picks]


def show(result: Result, console: Console) -> None:
    for table in [_bars(result.bars)] * bool(result.bars) + result.tables:
        grid = Grid(
            title=table.title, caption=table.note or None, title_justify="left", caption_justify="left"
        )
        for column in table.columns:
            grid.add_column(column, justify="left" if column == table.columns[0] else "right")
        for row in table.rows:
            grid.add_row(*map(shown, row))
        console.print(grid)
    console.print(sentence(result.conditions), style="dim", highlight=False)


def save(result: Result, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result.document(), indent=1) + "\n")


def publish(result: Result) -> None:
    """Into bench/results and the README: only for full runs, whose conditions are worth keeping."""
    save(result, RESULTS / f"{result.name}.json")
    drawn = [name for plot in result.plots if (name := draw(plot, RESULTS))]
    opening, closing = f"<!-- {result.name} -->", f"<!-- /{result.name} -->"
    text = README.read_text()
    before, rest = text.split(opening, 1)
    _, behind = rest.split(closing, 1)
    README.write_text(f"{before}{opening}\n{markdown(result, drawn)}{closing}{behind}")


def markdown(result: Result, drawn: list[str] = []) -> str:  # noqa: B006 (never changed)
    lines = []
    for table in [_bars(result.bars)] * bool(result.bars) + result.tables:
        lines += [f"**{table.title}**", ""]
        lines += ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
        lines += ["| " + " | ".join(map(shown, row)) + " |" for row in table.rows]
        lines += ["", table.note, ""] if table.note else [""]
    lines += [line for name in drawn for line in (f"![{name}](results/{name})", "")]
    return "\n".join([*lines, f"<sub>{sentence(result.conditions)}</sub>", ""])


def draw(plot: Plot, folder: Path) -> str:
    """The plot as PNG in `folder`; its file name, or "" where there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ""
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, (xs, ys) in plot.lines.items():
        axes.plot(xs, ys, label=name, marker="o" if len(xs) < 20 else "")
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / f"{plot.name}.png")
    return f"{plot.name}.png"


def _bars(bars: list[Bar]) -> Table:
    rows = []
    for bar in bars:
        limit = f"{'≥' if bar.at_least else '≤'} {shown(bar.limit)} {bar.unit}"
        rows.append([bar.what, f"{shown(bar.value)} {bar.unit}", limit, "met" if bar.met else "**missed**"])
    return Table("Bars", ["figure", "measured", "bar", ""], rows)


def shown(value: Any) -> str:
    """A figure in three digits; nothing, and what is no number, as a dash."""
    if value is None or value != value:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return (
            f"{value:.3g}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"
        )
    return str(value)
