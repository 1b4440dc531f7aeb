"""What a measuring plan came to: goals with met, missed or not measured, and tables. Pure, from the book."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.compare import NOTE as PEERS_NOTE
from bench.compare import Peer
from bench.compare import table as peers_table
from bench.gpu.plan import Book
from bench.report import Bar, Plot, Result, Table, shown
from bench.roofline import NOTE, table

Get = Callable[[Book], float | None]


@dataclass(frozen=True)
class Goal:
    what: str
    unit: str
    bar: float
    goal: float
    value: Get
    floor: Get = lambda book: None
    at_least: bool = False

    def row(self, book: Book) -> list[Any]:
        value = self.value(book)
        sign = "≥" if self.at_least else "≤"
        verdict = "not measured"
        if rehearsed(book) and value is not None:
            verdict = "a rehearsal"
        elif value is not None:
            verdict = "missed"
            for name, limit in (("bar met", self.bar), ("goal met", self.goal)):
                if value >= limit if self.at_least else value <= limit:
                    verdict = name
        limits = [f"{sign} {limit:g}" for limit in (self.bar, self.goal)]
        return [self.what, self.unit, self.floor(book), *limits, value, verdict]


def rehearsed(book: Book) -> bool:
    """Small structures on a CPU: figures that say that the plan runs, and nothing else."""
    return bool(book.conditions.get("tiny"))


def _at(part: str, key: str) -> Get:
    return lambda book: (book.result(part) or {}).get(key)


def _most(*gets: Get) -> Get:
    return lambda book: max((value for get in gets if (value := get(book)) is not None), default=None)


def _to_peer(name: str) -> Get:
    def ratio(book: Book) -> float | None:
        ours, theirs = book.result("peers: ours"), book.result(f"peers: {name}")
        return ours["images_s"] / theirs["images_s"] if ours and theirs and theirs["images_s"] else None

    return ratio


GOALS = (
    Goal(
        "SD1.5 512, 4 steps, one image, request to JPEG",
        "ms",
        20,
        14,
        _at("sd15 one image", "p50_ms"),
        _at("sd15 one image", "floor_ms"),
    ),
    Goal(
        "SD1.5 512, 4 steps, best batch",
        "images/s",
        90,
        137,
        _most(_at("sd15 best batch", "images_s"), _at("sd15 best batch of 16", "images_s")),
        _at("sd15 best batch", "floor_images_s"),
        at_least=True,
    ),
    Goal(
        "SDXL 1024, 4 steps, tiny VAE, one image",
        "ms",
        105,
        70,
        _at("sdxl one image", "p50_ms"),
        _at("sdxl one image", "floor_ms"),
    ),
    Goal("to diffusers, eager, images/s, 16 sessions", "x", 3, 5, _to_peer("one by one"), at_least=True),
    Goal("to diffusers, compiled, images/s, 16 sessions", "x", 1.5, 2, _to_peer("compiled"), at_least=True),
    Goal(
        "canvas sessions at 10 fps, p95 <= 150 ms, engine",
        "sessions",
        8,
        13,
        _most(_at("canvas", "sessions"), _at("canvas of 16", "sessions")),
        at_least=True,
    ),
    Goal(
        "canvas sessions at 10 fps, p95 <= 150 ms, whole service",
        "sessions",
        8,
        13,
        _at("service", "sessions"),
        at_least=True,
    ),
    Goal(
        "first image after the start of an engine, eager",
        "s",
        30,
        15,
        _at("cold start", "to_first_picture_s"),
    ),
    Goal(
        "first image after the start of the service, warm cache", "s", 20, 10, _at("service", "first_image_s")
    ),
    Goal("a new size in traffic: longest step to a usual one", "x", 2, 1, _at("a new size", "stall_steps")),
)


def result(book: Book) -> Result:
    bars = []
    for goal in GOALS:
        value = goal.value(book)
        if value is not None and not rehearsed(book):
            bars.append(Bar(goal.what, value, goal.bar, goal.unit, goal.at_least))
    columns = ["", "unit", "floor", "bar", "goal", "measured", ""]
    tables = [Table("Goals", columns, [goal.row(book) for goal in GOALS])]
    if ceilings := book.result("ceilings"):
        tables.append(Table("Ceilings, measured", list(ceilings), [list(ceilings.values())]))
    plots = []
    for kind, side in (("sd15", 512), ("sdxl", 1024)):
        rows = [
            row
            for name, told in book.parts.items()
            if told.get("ok") and name.startswith(kind) and isinstance(told["result"], list)
            for row in told["result"]
        ]
        if rows:
            what = f"{kind}, {rows[0]['side']} px" + (" (small structure)" if rows[0]["side"] != side else "")
            tables.append(table(rows, f"A UNet call and the sampler's step: {what}", NOTE))
            plots.append(_plot(kind, rows))
    peers = [
        Peer(**{key: math.nan if told[key] is None and key != "wrong" else told[key] for key in told})
        for name in _named(book, "peers: ")
        if (told := book.result(name))
    ]
    if peers:
        tables.append(peers_table(peers, "16 sessions, closed loop, mixed steps, SD1.5's size", PEERS_NOTE))
    tables += _details(book)
    tables.append(_parts(book))
    return Result("gpu", book.conditions, bars, tables, plots, {"parts": book.parts})


def _named(book: Book, prefix: str) -> list[str]:
    return [name for name in book.parts if name.startswith(prefix)]


def _plot(kind: str, rows: list[dict[str, Any]]) -> Plot:
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["places"]):
        xs, ys = lines.setdefault(row["way"], ([], []))
        xs.append(float(row["places"]))
        ys.append(100 * row["share"])
    return Plot(f"gpu-{kind}", f"{kind}: share of the matrix ceiling", "rows in a call", "percent", lines)


def _details(book: Book) -> list[Table]:
    tables = []
    if pieces := book.result("pieces"):
        tables.append(table(pieces["rows"], "Around the steps"))
        jpeg = [[row["what"], row.get("images_s"), row.get("note", "")] for row in pieces["jpeg"]]
        tables.append(Table("JPEG", ["", "files/s", ""], jpeg))
    tried = [
        [name, *(one[key] for key in ("sessions", "images_s", "answered_share", "p50_ms", "p95_ms"))]
        for name in ("canvas", "canvas of 16", "service")
        for one in (book.result(name) or {}).get("tried", [])
    ]
    if tried:
        columns = ["", "sessions", "images/s", "answered", "p50 ms", "p95 ms"]
        tables.append(Table("Canvas sessions at 10 fps, image to image, 4 steps", columns, tried))
    if sweep := book.result("attention"):
        kernels = ("flash", "cudnn", "efficient", "math")
        rows = [
            [r["what"], r["places"], *(r.get(k) for k in kernels), r["best"], r.get("tflop_s")] for r in sweep
        ]
        tables.append(Table("Attention, ms", ["", "rows", *kernels, "best", "TFLOP/s"], rows))
    for name in (
        "sd15 one image",
        "sdxl one image",
        "sd15 best batch",
        "cold start",
        "a new size",
        "control",
        "sdxl control",
    ):
        found = book.result(name)
        if found:
            plain = [[key, value] for key, value in found.items() if not isinstance(value, list | dict)]
            tables.append(Table(name, ["", ""], plain))
    return tables


def _parts(book: Book) -> Table:
    rows = [
        [name, "done" if told.get("ok") else told.get("error", ""), told.get("seconds")]
        for name, told in book.parts.items()
    ]
    return Table("Parts of the plan", ["", "", "s"], rows)


SAID = ("ceilings", "sd15 one image", "sdxl one image", "sd15 best batch", "cold start", "a new size")


def brief(book: Book) -> list[str]:
    """The last lines of a run, for who sees nothing but these: goals, then what was not done and why."""
    lines = []
    for goal in GOALS:
        what, unit, floor, bar, best, value, verdict = goal.row(book)
        said = "-" if value is None else f"{value:.4g}"
        under = "" if floor is None else f" floor {floor:.3g}"
        lines.append(f"{what:56} {said:>8} {unit:8} bar {bar:>6} goal {best:>6}{under}  {verdict}")
    for name, told in book.parts.items():
        found = told.get("result") if told.get("ok") else None
        if name.startswith("peers: ") and found:
            wrong = "" if found["wrong"] is None else f"{found['wrong']}/{found['checked']} wrong"
            lines.append(
                f"{found['name']:48} {shown(found['images_s']):>7}/s p95 {shown(found['p95_ms']):>7} ms "
                f"alone {shown(found['alone_ms']):>6} ms {wrong} {found['note'][:60]}"
            )
        for row in found if isinstance(found, list) else []:
            if "way" in row:
                lines.append(
                    f"{row['model']:5}{row['side']:5} {row['way']:24} rows {row['places']:2} "
                    f"{row['ms']:8.2f} ms {100 * row['share']:5.1f} % of ceiling, "
                    f"{row['times_floor']:5.2f} x floor, ready in {row['built_s']:.1f} s"
                )
    for name in SAID:
        if found := book.result(name):
            plain = [f"{key} {shown(value)}" for key, value in found.items() if not isinstance(value, dict)]
            lines.append(f"{name}: {', '.join(plain)}"[:230])
    lines += [f"{name}: {told['error']}"[:150] for name, told in book.parts.items() if not told.get("ok")]
    return lines
