"""Whole pictures through the step loop: how soon one comes, how many a second, what a new size stalls."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare import Peer, summed
from bench.figures import Frame, percentile
from bench.gpu.lab import Lab, floor_ms
from bench.inside import Mixed, closed
from engines.backends import Backend, make
from engines.backends.program import Shape
from engines.backends.store import Store

STAGES = ("queue", "inputs", "text", "vae_encode", "vae", "encode")


def one_image(lab: Lab) -> dict[str, Any]:
    """A request on an idle engine, from the loop's inbox to its JPEG: four steps, tiny VAE, cached prompt."""
    engine = lab.served(1)
    frames = closed(engine, lambda s, n: lab.subject.job(0, 4, seed=n), 1, max(1.0, lab.seconds / 2), 0.2)
    took = [frame.latency for frame in frames if frame.answered and not frame.warm]
    return {
        "way": lab.ready.get(1, "eager"),
        "images": len(took),
        "p50_ms": percentile(took, 0.5) * 1e3,
        "p95_ms": percentile(took, 0.95) * 1e3,
        "floor_ms": floor_ms(lab),
        **stages(frames),
    }


def throughput(lab: Lab, most: int) -> dict[str, Any]:
    """Images per second in calls of at most `most` rows, with sessions that fill the largest twice, of four
    steps each."""
    engine = lab.served(most)
    sessions = 2 * max(engine.buckets)
    frames = closed(
        engine, lambda s, n: lab.subject.job(s, 4, seed=n), sessions, lab.seconds, lab.seconds / 4
    )
    peer = summed(Peer("ours"), frames, lab.seconds)
    batches = [frame.batch for frame in frames if frame.answered and not frame.warm]
    return {
        "images_s": peer.images_s,
        "p95_ms": peer.p95_ms,
        "sessions": sessions,
        "calls": {str(rows): lab.ready[rows] for rows in engine.buckets if rows in lab.ready},
        "mean_batch": statistics.mean(batches) if batches else None,
        **stages(frames),
        "floor_images_s": 1e3 / floor_ms(lab),
    }


def stages(frames: Sequence[Frame]) -> dict[str, float]:
    """Where a picture's time went, medians in ms; `rest_ms` is what no stage accounts for: threads wait for
    each other, and rows of prompts that are known are made in it."""
    told = []
    for frame in frames:
        if frame.answered and not frame.warm:
            given = frame.timings
            steps = sum(step["seconds"] for step in given["steps"])
            stage = {"steps_ms": steps} | {f"{name}_ms": given[name] for name in STAGES}
            told.append(stage | {"rest_ms": frame.latency - sum(stage.values())})
    return {name: 1e3 * statistics.median(one[name] for one in told) for name in (told or [{}])[0]}


def new_side(side: int) -> int:
    """Pixels, of a size that no visitor has asked for yet."""
    return side * 5 // 4


def new_size(lab: Lab) -> dict[str, Any]:
    """Eight sessions draw; one of them asks at every fourth picture for a size that nobody built. What it
    costs the others while it is eager, and when its build comes in, if that is soon enough: `--prebuild`
    leaves what the compiler's caches have of it, but nothing that could be taken at once."""
    engine = lab.served(8)
    other = new_side(lab.subject.side)

    def job(session: int, number: int) -> Any:
        new = session == 0 and number % 4 == 3
        return lab.subject.job(session, 4, seed=number, **({"width": other} if new else {}))

    seconds = 2.0 if lab.machine.tiny else 25.0
    with tempfile.TemporaryDirectory(prefix="bench-builds-") as empty:
        builder = make("inductor", lab.subject.program, store=Store(Path(empty)), background=1)
        engine.denoiser.backend = Elsewhere(engine.denoiser.backend, builder, lab.subject.side // 8)
        try:
            # One loop all the time: what it records may end with its thread.
            frames = closed(engine, job, 8, seconds, lab.seconds / 4)
            told, reasons = builder.stats(), builder.reasons()
        finally:
            builder.close()
    ordered = sorted((frame for frame in frames if frame.answered), key=lambda frame: frame.arrived)
    steps = [step["seconds"] for frame in ordered for step in frame.timings["steps"]]
    gaps = [after.arrived - before.arrived for before, after in itertools.pairwise(ordered)]
    usual = statistics.median(steps)
    return {
        "other_size": f"{other}x{lab.subject.side}",
        "seconds": seconds,
        "building": told["building"],
        "built": told["compiled"],  # calls of so many numbers of rows
        "failed": reasons,
        "usual_step_ms": usual * 1e3,
        "longest_step_ms": max(steps) * 1e3,
        "longest_gap_ms": max(gaps) * 1e3,
        "stall_steps": max(steps) / usual,
    }


class Elsewhere(Mixed):
    """Calls of another width than the usual go to a back end of their own."""

    def __init__(self, usual: Mixed, other: Backend, width: int) -> None:
        """width: the usual one, in latents."""
        super().__init__({}, other)
        self._usual, self._width = usual, width

    def of(self, shape: Shape) -> Backend:
        return self._usual.of(shape) if shape.width == self._width else self._other
