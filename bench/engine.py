"""The engine against diffusers' own pipelines, one by one, in one process: images per CPU-second.

CPU time of this thread with one intra-op thread, not the clock on the wall: other work on the machine slows
both alike. The two sides take turns, and the first turn checks that they draw the same pictures.
"""

from __future__ import annotations

import io
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw

from bench.conditions import ROOT, after, conditions
from bench.model import random_model
from bench.report import Bar, Plot, Result, Table
from engines.cost import Cost
from engines.mailbox import Request
from engines.messages import Job
from engines.schedule import Schedule

PROMPTS = (
    "a red circle on a blue background",
    "green hills under a night sky",
    "a yellow star, black background",
    "a white square",
    "two purple triangles at the sea",
)
Tick = Callable[[str, float], None]


def requests(seed: int, side: int, count: int = 32) -> list[Job]:
    """Mixed traffic: 1-8 steps, four guidance scales, five prompts, every other one with a picture."""
    rng = random.Random(seed)
    jobs = []
    for index in range(count):
        drawn = index % 2 == 1
        jobs.append(
            Job(
                prompt=f"{rng.choice(PROMPTS)} {seed}",  # new in each turn: no warm cache
                seed=rng.randrange(2**31),
                width=side,
                height=side,
                steps=1 + index % 8,
                guidance=rng.choice((1.0, 2.0, 4.0, 7.5)),
                strength=rng.choice((0.4, 0.6, 0.8, 0.95)) if drawn else 1.0,
                image=_drawing(rng, side) if drawn else None,
                safety=False,
            )
        )
    rng.shuffle(jobs)
    return jobs


def figures(quick: bool, tick: Tick) -> Result:
    """`python -m bench engine`."""
    import torch

    given = conditions()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    from engines import device as devices
    from engines.embedded import WEIGHTS
    from engines.lcm import Lcm

    trained = (WEIGHTS / "model_index.json").is_file()
    folder = WEIGHTS if trained else random_model(ROOT / "build" / "random-model")
    engine = Lcm(model=str(folder), device="cpu", dtype="float32", threads=1, max_batch=16)
    engine.load(lambda stage, done, total, text: None)
    oracle = Oracle(folder)
    side, turns = engine.models[0].native, 2 if quick else 5
    counted = Calls(engine.denoiser.unet), Calls(oracle.unet)

    modes: dict[str, Callable[[list[Job]], list[Image.Image]]] = {
        "diffusers, one by one": oracle.draw,
        **{f"iteration batch {n}": lambda jobs, n=n: draw(engine, jobs, n) for n in (1, 4, 8, 16)},
    }
    per_s: dict[str, list[float]] = {name: [] for name in modes}
    called: dict[str, int] = {}
    worst = 0
    for turn in range(turns):
        jobs, pictures = requests(turn, side), {}
        for at, (name, mode) in enumerate(modes.items()):
            tick(name, (turn + at / len(modes)) / turns)
            before, start = sum(calls.count for calls in counted), time.thread_time()
            pictures[name] = mode(jobs)
            per_s[name].append(len(jobs) / (time.thread_time() - start))
            called[name] = sum(calls.count for calls in counted) - before
        expected = pictures["diffusers, one by one"]
        worst = max(worst, *(difference(expected, found) for found in pictures.values()))
    base = per_s["diffusers, one by one"]
    ratios = {
        name: statistics.median(mine / theirs for mine, theirs in zip(taken, base, strict=True))
        for name, taken in per_s.items()
    }
    for calls in counted:
        calls.detach()
    tick("step-call overhead", 1.0)
    outside = {size: overhead_ms(engine, size) for size in (1, 4, 16)}
    name = "the embedded model" if trained else "random weights (10.9 M UNet), 128 px"
    against = "images per CPU-second to diffusers one by one"
    named = dict.fromkeys((8, 16), "") | {devices.slots(engine.at): "as served, "}
    bars = [
        Bar(f"{against}, {said}batch {n}", ratios[f"iteration batch {n}"], 1.4, "x", True)
        for n, said in sorted(named.items())
    ]
    bars.append(Bar("a step call outside the UNet, 4 rows, CPU", outside[4], 0.15, "ms"))
    return Result(
        "engine",
        after(given),
        bars,
        [
            Table(
                f"32 mixed requests: {name}, fp32, one thread",
                ["", "images per CPU-s", "to diffusers", "UNet calls"],
                [[n, statistics.median(per_s[n]), ratios[n], called[n]] for n in modes],
                "Request to JPEG, pictures decoded and prompts encoded on both sides; 1-8 steps, four "
                "guidance scales, half with an input picture. "
                f"Median of {turns} turns, the modes in alternation. The engine keeps "
                "embeddings of a prompt it has seen in the same turn, diffusers' pipeline does not. "
                f"Greatest difference between any two pictures: {worst} of 255 levels.",
            ),
            Table(
                "A step call outside the UNet (stub UNet), CPU ms",
                ["rows", "per call", "per row"],
                [[size, ms, ms / size] for size, ms in outside.items()],
            ),
        ],
        [
            Plot(
                "engine",
                f"Iteration batching, CPU, {name}",
                "batch",
                "images per CPU-second, to diffusers one by one",
                {
                    "iteration batching": (
                        [1, 4, 8, 16],
                        [ratios[f"iteration batch {n}"] for n in (1, 4, 8, 16)],
                    ),
                    "the bar": ([1, 16], [1.4, 1.4]),
                },
            )
        ],
        {
            "per_cpu_s": per_s,
            "ratios": ratios,
            "unet_calls": called,
            "overhead_ms": outside,
            "difference": worst,
        },
    )


def draw(engine: Any, jobs: list[Job], batch: int) -> list[Image.Image]:
    """All jobs, each a session of its own, through the scheduler the service uses: at most `batch` slots."""
    schedule = Schedule(Cost(), [bucket for bucket in engine.buckets if bucket <= batch])
    for ticket, job in enumerate(jobs):
        lane, steps, slots = engine.lane(job)
        schedule.submit(Request(ticket, str(ticket), 0.0, lane, steps, slots))
    rows: dict[int, Any] = {}
    files: dict[int, bytes] = {}
    while True:
        for ticket in schedule.admit(time.monotonic()).begin:
            (rows[ticket],) = engine.rows(jobs[ticket], engine.decode_inputs(jobs[ticket]))
        call = schedule.call()
        if call is None:
            return [Image.open(io.BytesIO(files[ticket])) for ticket in range(len(jobs))]
        start = time.monotonic()
        engine.step([rows[ticket] for ticket, _ in call.rows], call.bucket)
        finished = [ticket for ticket, _ in schedule.stepped(call)]
        schedule.took(call, time.monotonic() - start)
        for ticket, pixels in zip(finished, engine.decode([rows[t] for t in finished]), strict=True):
            files[ticket], _ = engine.encode(rows.pop(ticket), pixels, jobs[ticket])


class Oracle:
    """diffusers' LatentConsistencyModel pipelines as their documentation uses them, memory format as ours."""

    def __init__(self, folder: Path) -> None:
        import torch
        from diffusers import LatentConsistencyModelImg2ImgPipeline, LatentConsistencyModelPipeline

        self.text = LatentConsistencyModelPipeline.from_pretrained(folder, local_files_only=True)
        self.text.set_progress_bar_config(disable=True)
        self.image = LatentConsistencyModelImg2ImgPipeline(
            **self.text.components, requires_safety_checker=False
        )
        self.image.set_progress_bar_config(disable=True)
        self.unet = self.text.unet
        self.unet.to(memory_format=torch.channels_last)
        self.text.vae.to(memory_format=torch.channels_last)

    def draw(self, jobs: list[Job]) -> list[Image.Image]:
        return [Image.open(io.BytesIO(self._one(job))) for job in jobs]

    def _one(self, job: Job) -> bytes:
        import torch

        common: dict[str, Any] = {
            "prompt": job.prompt,
            "num_inference_steps": job.steps,
            "guidance_scale": job.guidance,
            "generator": torch.Generator().manual_seed(job.seed),
        }
        if job.image is None:
            drawn = self.text(width=job.width, height=job.height, **common).images[0]
        else:
            picture = Image.open(io.BytesIO(job.image)).convert("RGB")
            drawn = self.image(image=picture, strength=job.strength, **common).images[0]
        file = io.BytesIO()
        drawn.save(file, "JPEG", quality=85, subsampling="4:2:0")  # as engines/pixels.py
        return file.getvalue()


class Calls:
    """Counts the calls of a UNet while it is attached."""

    def __init__(self, unet: Any) -> None:
        self.count = 0
        self._hook = unet.register_forward_pre_hook(self._called)

    def _called(self, module: Any, arguments: Any) -> None:
        self.count += 1

    def detach(self) -> None:
        self._hook.remove()


def overhead_ms(engine: Any, size: int, calls: int = 400) -> float:
    """CPU ms of one `step` of `size` rows when the UNet costs nothing: median of five blocks."""
    side = engine.models[0].native
    job = Job(prompt="a red circle", seed=1, width=side, height=side, steps=12, count=8)
    rows = [row for _ in range(-(-size // 8)) for row in engine.rows(job, None)][:size]
    unet, answer = engine.denoiser.unet, None

    def stub(latents: Any, *arguments: Any, **given: Any) -> tuple[Any]:
        nonlocal answer
        answer = latents if answer is None else answer
        return (answer,)

    unet.forward = stub
    try:
        blocks = []
        for _ in range(5):
            start = time.thread_time()
            for at in range(calls):
                if at % 12 == 0:
                    for row in rows:
                        row.position = 0
                engine.step(rows, size)
            blocks.append((time.thread_time() - start) / calls * 1e3)
    finally:
        del unet.forward  # the class's own is back
    return statistics.median(blocks)


def difference(expected: list[Image.Image], found: list[Image.Image]) -> int:
    """The greatest difference of any pixel of any pair, in levels of 255."""
    extremes = [
        ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
        for one, other in zip(expected, found, strict=True)
    ]
    return max(high for bands in extremes for _, high in bands)


def _drawing(rng: random.Random, side: int) -> bytes:
    image = Image.new("RGB", (side, side), tuple(rng.randbytes(3)))
    at = rng.randrange(side // 2)
    ImageDraw.Draw(image).ellipse((at, at, at + side // 3, at + side // 3), fill=tuple(rng.randbytes(3)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
