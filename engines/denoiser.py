"""Rows of pictures being denoised, and the one UNet call that advances many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engines import sampler
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
        self.unet = unet
        # diffusers looks through all parameters for these, 0.7 ms each time
        self._device: torch.device = unet.device
        self._dtype: torch.dtype = unet.dtype
        config = scheduler.config
        self.original_steps: int = config.original_inference_steps
        self.table = sampler.tables(scheduler.alphas_cumprod, config.timestep_scaling)
        self._prediction: str = config.prediction_type
        self._clip: float | None = config.clip_sample_range if config.clip_sample else None
        self._embedding_size: int | None = unet.config.time_cond_proj_dim

    def guides(self, guidance: float) -> bool:
        """Whether this scale needs an unconditional call beside the conditional one."""
        return self._embedding_size is None and guidance > 1.0

    def guidance(self, scale: float) -> Tensor:
        """What a row carries of its scale, on the device: the UNet's embedding of it, else [1, 1, 1]."""
        if self._embedding_size is None:
            return torch.full((1, 1, 1), scale, device=self._device)
        return sampler.guidance_embedding(scale, self._embedding_size).to(self._device, self._dtype)

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
        latents = torch.stack([row.latents for row in places])
        coefficients = torch.stack([row.coefficients[row.position] for row in places])
        embeds_guidance = self._embedding_size is not None
        output = self.unet(
            latents.to(self._dtype),
            coefficients[:, 0],
            encoder_hidden_states=torch.stack(texts),
            timestep_cond=torch.stack([row.guidance for row in places]) if embeds_guidance else None,
            return_dict=False,
        )[0].float()
        if guided:
            other = iter(range(count, count + len(guided)))
            pairs = [at if row.negative is None else next(other) for at, row in enumerate(rows)]
            scales = torch.stack([row.guidance for row in rows])
            output = sampler.guided(output[:count], output[pairs], scales)
        advanced = sampler.step(
            latents[:count],
            output[:count],
            coefficients[:count],
            torch.stack([row.noise[row.position] for row in rows]),
            torch.stack([row.still[row.position] for row in rows]),
            torch.stack([row.mask for row in rows]),
            self._prediction,
            self._clip,
        )
        for row, latent in zip(rows, advanced.unbind(), strict=True):
            row.latents = latent
            row.position += 1
