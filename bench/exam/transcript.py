"""The tallies of an exam as JSON, and as lines for a terminal."""

from __future__ import annotations

from typing import Any

from bench.exam.bars import BARS, percent, shown, steps, worst_gap, worst_look
from bench.exam.editing import Freedom
from bench.exam.judge import pooled
from bench.exam.sitting import Answered


def document(taken: dict[str, Answered], free: Freedom) -> dict[str, Any]:
    """The tallies as JSON: (right, asked) by paper, steps and mark; and the figures of both papers."""
    papers = {
        name: {
            "captions": len(answered.questions),
            "renders": answered.renders,
            "codec": answered.codec,
            "steps": {str(n): tallied for n, tallied in answered.marks.items()},
            "looks": {str(n): look for n, look in answered.looks.items()},
            "own_look": answered.own_look,
            "percent": {
                what: {str(n): percent(pooled(t, names)) for n, t in answered.marks.items()}
                for what, (names, _) in BARS.items()
            },
            "worst_gap": worst_gap(answered.marks),
            "worst_look": worst_look(answered.looks),
        }
        for name, answered in taken.items()
    }
    scales = {
        f"{scale:g}": {"marks": free.adherence[scale], "variation": free.variation[scale]}
        for scale in free.adherence
    }
    return {"papers": papers, "guidance": scales}


def text(taken: dict[str, Answered], free: Freedom) -> str:
    """The same as lines to read on a terminal."""
    lines = []
    for name, answered in taken.items():
        columns = [steps(n) for n in answered.marks]
        lines += ["", f"{len(answered.questions)} {name} captions: percent right (95 % interval)"]
        lines += [f"{'':27}{'bar':>5}{'judge':>7}{'codec':>7}" + "".join(f"{c:>21}" for c in columns)]
        rows = {what: (names, f"{limits[name]:g}") for what, (names, limits) in BARS.items()}
        rows |= {mark: ((mark,), "") for mark in sorted(answered.renders) if mark not in rows}
        for what, (names, bar) in rows.items():
            own = percent(pooled(answered.renders, names))
            through = f"{percent(pooled(answered.codec, names)):7.1f}" if answered.codec else f"{'–':>7}"
            got = "".join(f"{shown(pooled(t, names)):>21}" for t in answered.marks.values())
            lines.append(f"{what:27}{bar:>5}{own:7.1f}{through}{got}")
        looks = "".join(f"{look:21.1f}" for look in answered.looks.values())
        lines.append(f"{'looks (0 as renders)':27}{'':>5}{answered.own_look:7.1f}{'':7}{looks}")
        gap, where = worst_gap(answered.marks)
        lines.append(f"furthest under the best number of steps: {gap:.1f} points ({where})")
        worse, where = worst_look(answered.looks)
        lines.append(f"more steps look worse by: {worse:.1f} % ({where})")
    lines.append("")
    for scale, marks in free.adherence.items():
        varied = 100 * free.variation[scale]
        right = shown(pooled(marks, list(marks)))
        lines.append(
            f"open captions, guidance {scale:g}: {right} right, seeds differ by {varied:.0f} % of captions'"
        )
    return "\n".join(lines)
