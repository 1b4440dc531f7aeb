"""The whole exam of what needs no server: both papers by steps, and captions that leave things open."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from bench.exam.editing import Freedom, freedom
from bench.exam.jury import Jury
from bench.exam.papers import SETS, paper, quotas
from bench.exam.sitting import Answered, Draw, painting, sit

SEED = 7
SCALES = (1.0, 4.0)


def examine(
    draw: Draw,
    captions: int = 300,
    counts: Sequence[int] = (1, 4),
    seed: int = SEED,
    workers: int = 0,
    through: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, Answered], Freedom]:
    """Each paper of about `captions` at every number of steps of `counts`; open captions at each of SCALES.

    `draw` is what is examined (see sitting.Draw); pipeline.drawing makes one of a folder. through: its codec
    (judge.codec), to be judged too. Judges are processes: the caller's main module must be safe to import.
    """
    with Jury(workers) as jury:
        paint = painting(draw)
        taken = {
            name: sit(jury, paper(quotas(captions), held, seed), paint, counts, seed, through, name)
            for name, held in SETS.items()
        }
        return taken, freedom(jury, paint, max(6, captions // 5), 3, SCALES, seed)
