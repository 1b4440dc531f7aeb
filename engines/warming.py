"""Building ahead what a model's back end takes minutes for, so that a server finds it done.

Says how far it is on stdout, one JSON object a line: {"stage", "done", "total", "text"} as
messages.Progress, and last {"stats": {name: figure}, "reasons": {shape: why it was not built}}.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from engines.backends.builds import at_once
from engines.lcm import Lcm
from engines.messages import Job

LOOK_S = 0.5


def run(pipeline: Lcm, sizes: Sequence[tuple[int, int]]) -> int:
    """Every bucket of every size, in pixels; without any, of the model's own. An exit status: 1 if anything
    could not be built.

    Raises Unloadable as `Lcm.load`, and ValueError for a size that the model draws in another one.
    """
    pipeline.background = at_once()
    pipeline.read(_say)
    model, denoiser = pipeline.models[0], pipeline.denoiser
    jobs = [Job("", 0, width, height, steps=1) for width, height in sizes or [(model.native,) * 2]]
    for job in jobs:
        _check(pipeline, job)
    beside = "building" in denoiser.backend.stats()  # in processes, some at a time; else here
    calls = [(job, bucket) for job in jobs for bucket in pipeline.buckets]
    for done, (job, bucket) in enumerate(calls):
        if not beside:
            _say("build", done, len(calls), f"{job.width}x{job.height}, {bucket} at once")
        denoiser.warm(pipeline.rows(job, None), bucket, build=not beside)
    while left := int(denoiser.backend.stats().get("building", 0)):
        _say("build", len(calls) - left, len(calls), "")
        time.sleep(LOOK_S)
    _say("build", len(calls), len(calls), "")
    reasons = denoiser.backend.reasons()
    print(json.dumps({"stats": denoiser.backend.stats(), "reasons": reasons}), flush=True)
    return 1 if reasons else 0


def _check(pipeline: Lcm, job: Job) -> None:
    model = pipeline.models[0]
    drawn = pipeline.rows(job, None)[0].size
    if drawn != (job.width, job.height):
        raise ValueError(
            f"{job.width}x{job.height} would be drawn at {drawn[0]}x{drawn[1]}: the sides of {model.name} "
            f"are {model.smallest} to {model.largest} pixels, in steps of {model.multiple}"
        )


def _say(stage: str, done: float, total: float, text: str) -> None:
    print(json.dumps({"stage": stage, "done": done, "total": total, "text": text}), flush=True)
