"""All results of the lab on one HTML page: nothing is fetched, plots are inside as SVG."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

from bench.conditions import sentence
from bench.report import Bar, Plot, Result, Table, load, shown

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2733 }
h2 { border-bottom: 1px solid #cfd8e0; margin-top: 3rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
caption { text-align: left; font-weight: 600; padding: .3rem 0 }
th, td { border-bottom: 1px solid #e3e9ee; padding: .2rem .7rem; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left }
.missed { color: #b3261e; font-weight: 600 } .met { color: #14703a } .open { color: #7a6000 }
.note, .conditions { color: #5a6875; font-size: 13px; max-width: 60rem }
svg { max-width: 100%; height: auto }
@media (prefers-color-scheme: dark) { body { background: #12181f; color: #dde5ec }
  th, td { border-color: #2a3540 }
  .missed { color: #ff8a80 } .met { color: #7bd89f } .open { color: #e6cf6a } svg { background: #fff } }
"""
ORDER = (
    "gpu",
    "peers",
    "roofline",
    "engine",
    "goodput",
    "gateway",
    "queue",
    "embedded",
)  # first things first


def write(results: Path, out: Path) -> Path:
    """A page of every result in the folder."""
    found = sorted((load(file) for file in results.glob("*.json") if is_result(file)), key=place)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(found))
    return out


def is_result(file: Path) -> bool:
    document = json.loads(file.read_text())
    return isinstance(document, dict) and {"name", "conditions", "bars", "tables"} <= document.keys()


def place(result: Result) -> tuple[int, str]:
    return ORDER.index(result.name) if result.name in ORDER else len(ORDER), result.name


def page(results: list[Result]) -> str:
    inside = "".join(map(section, results)) or "<p>There are no results yet.</p>"
    links = " · ".join(f'<a href="#{html.escape(r.name)}">{html.escape(r.name)}</a>' for r in results)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>The latency lab</title>'
        f"<style>{STYLE}</style><h1>The latency lab</h1><p>{links}</p>{inside}</html>\n"
    )


def section(result: Result) -> str:
    parts = [f'<section id="{html.escape(result.name)}"><h2>{html.escape(result.name)}</h2>']
    if result.bars:
        parts.append(bars(result.bars))
    parts += [table(one) for one in result.tables]
    parts += [svg(plot) for plot in result.plots]
    parts.append(f'<p class="conditions">{html.escape(sentence(result.conditions))}</p></section>')
    return "".join(parts)


def bars(given: list[Bar]) -> str:
    rows = []
    for bar in given:
        limit = f"{'≥' if bar.at_least else '≤'} {shown(bar.limit)} {bar.unit}"
        rows.append([bar.what, f"{shown(bar.value)} {bar.unit}", limit, "met" if bar.met else "missed"])
    return table(Table("Bars", ["figure", "measured", "bar", ""], rows))


def table(given: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in given.columns)
    rows = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in given.rows)
    note = f'<p class="note">{html.escape(given.note)}</p>' if given.note else ""
    return f"<table><caption>{html.escape(given.title)}</caption><tr>{head}</tr>{rows}</table>{note}"


def cell(value: Any) -> str:
    verdicts = {"met": "met", "bar met": "met", "goal met": "met", "missed": "missed", "not measured": "open"}
    said = html.escape(shown(value))
    kind = verdicts.get(said, "")
    return f'<td class="{kind}">{said}</td>' if kind else f"<td>{said}</td>"


def svg(plot: Plot) -> str:
    """ "" where there is no matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return ""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, (xs, ys) in plot.lines.items():
        axes.plot(xs, ys, label=name, marker="o" if len(xs) < 20 else "")
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    axes.grid(alpha=0.3)
    if plot.lines:
        axes.legend()
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = file.getvalue()
    return drawn[drawn.index("<svg") :]
