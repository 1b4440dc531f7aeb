"""Peers on the engine's own weights, in this process: diffusers as documented, and request batching."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from engines.cache import Cache
from engines.messages import Job
from engines.text import Text

MOST = 16  # requests in one batch


@dataclass(frozen=True)
class Asked:
    """A request in line."""

    session: int
    number: int
    since: float  # when it was sent, monotonic
    job: Job


Line = deque[Asked]
Draw = Callable[[Sequence[Job]], list[bytes]]
Take = Callable[[Line], list[Asked]]


def one(line: Line) -> list[Asked]:
    return [line.popleft()]


def equal(line: Line) -> list[Asked]:
    """The oldest, and all that can share its call of a pipeline: the same steps and guidance."""
    first = line[0].job
    group = [a for a in line if (a.job.steps, a.job.guidance) == (first.steps, first.guidance)][:MOST]
    for asked in group:
        line.remove(asked)
    return group


def everything(line: Line) -> list[Asked]:
    return [line.popleft() for _ in range(min(MOST, len(line)))]


class Diffusers:
    """`LatentConsistencyModelPipeline`. Embeddings of a prompt are kept, as the engine keeps them."""

    def __init__(self, parts: Any, compiled: bool = False) -> None:
        """parts: engines.model.Weights. The first compiled call of a shape builds."""
        from diffusers import LatentConsistencyModelPipeline, LCMScheduler

        unet, (tokenizer, encoder) = parts.unet, parts.encoders[0]
        self.pipe = LatentConsistencyModelPipeline(
            vae=parts.vae,
            text_encoder=encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=LCMScheduler.from_config(parts.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipe.set_progress_bar_config(disable=True)
        if compiled:
            from bench.ways import compiled as build

            self.pipe.unet = build(unet)
        self._text = Text(parts.encoders[:1], Cache(1 << 26), parts.blank)

    def draw(self, jobs: Sequence[Job]) -> list[bytes]:
        """One call: jobs of equal size, steps and guidance."""
        first = jobs[0]
        pictures = self.pipe(
            prompt_embeds=torch.cat([self.text(job.prompt) for job in jobs]),
            height=first.height,
            width=first.width,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance,
            generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
        ).images
        return [jpeg(picture) for picture in pictures]

    def text(self, prompt: str) -> Any:
        """[1, tokens, D], encoded as the engine encodes it and kept."""
        return self._text.embed(prompt, {}).text[None]


class Lockstep:
    """Requests batched as they come and advanced together until the longest is done, on the engine's own
    fast calls: what batching is worth without joining and leaving at every step."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def draw(self, jobs: Sequence[Job]) -> list[bytes]:
        rows = [self.engine.rows(job, None)[0] for job in jobs]
        bucket = min((b for b in self.engine.buckets if b >= len(rows)), default=len(rows))
        for _ in range(max(row.steps for row in rows)):
            self.engine.step([row for row in rows if row.position < row.steps], bucket)
        pixels = self.engine.decode(rows)
        return [
            self.engine.encode(row, drawn, job)[0] for row, drawn, job in zip(rows, pixels, jobs, strict=True)
        ]


def jpeg(picture: Image.Image) -> bytes:
    """As engines/pixels.py writes it."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85, subsampling="4:2:0")
    return file.getvalue()
