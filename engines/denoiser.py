"""Rows of pictures being denoised, and the one UNet call that advances many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engines import sampler
from engines.backends import Backend
from engines.backends.eager import Eager
from engines.backends.program import Program, Shape, gather
from engines.messages import Job
from engines.pixels import Inputs


@dataclass(eq=False, slots=True)
class LcmRow:
    """One picture. Tensors are on the model's device; float32, but embeddings are in the UNet's dtype."""

    lane: str
    steps: int
    slots: int
    job: Job
    size: tuple[int, int]  # drawn: width, height in pixels
    inputs: Inputs | None
    latents: Tensor  # [C, h, w]
    coefficients: Sequence[Tensor]  # of each step, [6]; these four as in sampler.Plan
    noise: Sequence[Tensor]  # of each step, [C, h, w]
    still: Sequence[Tensor]  # of each step, [C, h, w]
    mask: Tensor  # [1, h, w]
    embedding: Tensor  # [tokens, D]
    negative: Tensor | None  # [tokens, D], for a row with classifier-free guidance
    guidance: Tensor  # as Denoiser.guidance makes it
    timings: dict[str, float]
    clean: Tensor | None = None  # [C, h, w], what is kept where mask is 0
    position: int = 0
    unsafe: bool = False


class Denoiser:
    def __init__(self, unet: Any, scheduler: Any) -> None:
        """unet: diffusers' UNet2DConditionModel on its device. scheduler: an LCMScheduler, read only."""
        config = scheduler.config
        self.unet = unet
        clip = config.clip_sample_range if config.clip_sample else None
        self.program = Program(unet, config.prediction_type, clip)
        self.backend: Backend = Eager(self.program)
        self.original_steps: int = config.original_inference_steps
        self.table = sampler.tables(scheduler.alphas_cumprod, config.timestep_scaling)

    def guides(self, guidance: float) -> bool:
        """Whether this scale needs an unconditional call beside the conditional one."""
        return self.program.embedding is None and guidance > 1.0

    def guidance(self, scale: float) -> Tensor:
        """What a row carries of its scale, on the device: the UNet's embedding of it, else [1, 1, 1]."""
        size, device = self.program.embedding, self.program.device
        if size is None:
            return torch.full((1, 1, 1), scale, device=device)
        return sampler.guidance_embedding(scale, size).to(device, self.program.dtype)

    @torch.inference_mode()
    def advance(self, rows: Sequence[LcmRow], slots: int) -> None:
        """One UNet call, in at least `slots` places: rows, unconditional halves of guided rows, padding.

        Padding repeats the first row, which costs nothing to assemble and cannot be NaN alone. It
        influences nobody: no operation of the UNet looks across the batch.
        """
        count = len(rows)
        guided = [row for row in rows if row.negative is not None]
        padding = max(0, slots - count - len(guided))
        places = [*rows, *guided, *[rows[0]] * padding]
        texts = [row.embedding for row in rows] + [row.negative for row in guided if row.negative is not None]
        texts += [rows[0].embedding] * padding
        pairs = None
        if self.program.embedding is None:
            other = iter(range(count, count + len(guided)))
            pairs = [at if row.negative is None else next(other) for at, row in enumerate(rows)]
            pairs += range(count, len(places))
        columns = (
            [row.latents for row in places],
            [row.coefficients[row.position] for row in places],
            texts,
            [row.guidance for row in places],
            [row.noise[row.position] for row in places],
            [row.still[row.position] for row in places],
            [row.mask for row in places],
        )
        shape = self.shape(rows[0], len(places))
        advanced = self.backend.step(shape, gather(columns, pairs, self.backend.slots(shape)))
        for row, latent in zip(rows, advanced.unbind(), strict=False):  # the other places are nobody's
            row.latents = latent
            row.position += 1

    def shape(self, row: LcmRow, places: int) -> Shape:
        return Shape(places, *row.latents.shape, *row.embedding.shape, self.program.features)
