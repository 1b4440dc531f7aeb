"""Multistep latent consistency sampling for rows that each have their own schedule. Pure functions.

Source: Luo et al. 2023 (arXiv 2310.04378), algorithm 3 and section 4.3 (skipping steps). Every number
comes out as in `diffusers.LCMScheduler` 0.42, whose objects serve one request at a time and therefore
cannot serve a batch of rows at different steps. Everything is float32 whatever the UNet's dtype: a
bf16 sampler adds more error than the bf16 UNet (0.0115 against 0.0096 relative, median of 16 images).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ORIGINAL = 50  # steps of the distillation grid; LCMScheduler's original_inference_steps
TRAIN = 1000  # steps of the diffusion process


def timesteps(steps: int, strength: float = 1.0, original: int = ORIGINAL) -> list[int]:
    """Exactly `steps` descending timesteps, the first one the noisier the higher `strength` (0..1).

    Equals `LCMScheduler.set_timesteps(steps, original_inference_steps=original, strength=strength)`,
    which raises where `strength < steps / original`; here strength is raised to that bound instead.
    Raises ValueError for steps outside 1..original.
    """
    if not 1 <= steps <= original:
        raise ValueError(f"{steps} steps asked, the model has 1..{original}")
    kept = max(int(original * strength), steps)
    skip = TRAIN // original
    return [(kept - math.floor(i * (kept / steps))) * skip - 1 for i in range(steps)]


@dataclass(frozen=True)
class Tables:
    """By timestep, float32 [1000] on the CPU. x_t = alpha x_0 + sigma z; f(x, t) = skip x + out x_0."""

    alpha: Tensor
    sigma: Tensor
    skip: Tensor
    out: Tensor


def tables(alphas_cumprod: Tensor, scaling: float = 10.0, sigma_data: float = 0.5) -> Tables:
    """alphas_cumprod: float32 [1000]. scaling: LCMScheduler's timestep_scaling. Appendix D of the paper."""
    scaled = torch.arange(len(alphas_cumprod)) * scaling
    return Tables(
        alpha=alphas_cumprod.sqrt(),
        sigma=(1 - alphas_cumprod).sqrt(),
        skip=sigma_data**2 / (scaled**2 + sigma_data**2),
        out=scaled / (scaled**2 + sigma_data**2) ** 0.5,
    )


def noised(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The forward process to the timestep of alpha and sigma; noise has unit variance."""
    return alpha * clean + sigma * noise


@dataclass(frozen=True)
class Plan:
    """All that a row brings to its n steps, computed once. After step i the row's latent is

        still[i] + mask * (next_alpha[i] * denoised + noise[i])

    coefficients: [n, 6], columns timestep, alpha, sigma, skip, out, alpha of the next timestep.
    noise: [n, C, h, w], scaled for its step, zero in the last. still: [n, C, h, w], the picture to keep
    where mask is 0, noised to the next timestep. mask: [1, h, w]. A row that keeps nothing has mask 1
    and still 0, so that one step does for all rows.
    """

    coefficients: Tensor
    noise: Tensor
    still: Tensor
    mask: Tensor


def plan(
    table: Tables,
    schedule: Sequence[int],
    noise: Tensor,
    clean: Tensor | None = None,
    mask: Tensor | None = None,
) -> Plan:
    """noise: [n, C, h, w], unit draws; the first made the start, one more for every step but the last.

    clean [C, h, w] and mask [1, h, w] (1 is drawn, 0 is kept) for inpainting; what is kept is noised
    with the draw of the start, as `StableDiffusionInpaintPipeline` does with a four-channel UNet.
    """
    steps = len(schedule)
    now = torch.tensor(schedule)
    later = now[1:]
    next_alpha, next_sigma = torch.ones(steps), torch.zeros(steps)  # the last step ends on the picture
    next_alpha[:-1], next_sigma[:-1] = table.alpha[later], table.sigma[later]
    coefficients = torch.stack(
        [now.float(), table.alpha[now], table.sigma[now], table.skip[now], table.out[now], next_alpha], dim=1
    )
    sigmas, alphas = next_sigma.view(-1, 1, 1, 1), next_alpha.view(-1, 1, 1, 1)
    scaled = sigmas * noise.roll(-1, dims=0)
    if clean is None or mask is None:
        return Plan(coefficients, scaled, torch.zeros_like(noise), torch.ones_like(noise[0, :1]))
    return Plan(coefficients, scaled, (1 - mask) * noised(clean, noise[0], alphas, sigmas), mask)


def step(
    latents: Tensor,
    output: Tensor,
    coefficients: Tensor,
    noise: Tensor,
    still: Tensor,
    mask: Tensor,
    prediction: str,
    clip: float | None = None,
) -> Tensor:
    """One step of B rows at their own timesteps, f of the paper and then the way back to the next one.

    latents, output, noise, still: [B, C, h, w] float32; mask: [B, 1, h, w]; coefficients: [B, 6].
    prediction: what the UNet's output means: "epsilon", "sample" or "v_prediction". clip: bound of
    |x_0|, for models trained so. Returns [B, C, h, w].
    """
    _, alpha, sigma, skip, out, next_alpha = coefficients.t()[..., None, None, None].unbind()
    if prediction == "epsilon":
        clean = (latents - sigma * output) / alpha
    elif prediction == "v_prediction":
        clean = alpha * latents - sigma * output
    else:
        clean = output
    if clip is not None:
        clean = clean.clamp(-clip, clip)
    denoised = out * clean + skip * latents
    return still + mask * (next_alpha * denoised + noise)


def estimate(
    latents: Tensor,
    coefficients: Tensor,
    noise: Tensor,
    still: Tensor,
    mask: Tensor,
    clean: Tensor | None,
) -> Tensor:
    """What the step that led to `latents` takes the finished picture for: its f, without the way back.

    latents, noise, still, clean: [C, h, w]; mask [1, h, w]; coefficients [6]; all but `latents` and
    `clean` those of that step. clean: what is kept where mask is 0.
    """
    found = (latents - still - mask * noise) / coefficients[5]
    return found if clean is None else found + (1 - mask) * clean


def guided(output: Tensor, unconditional: Tensor, guidance: Tensor) -> Tensor:
    """Classifier-free guidance, Ho & Salimans 2022: all [B, C, h, w], guidance [B, 1, 1, 1]."""
    return unconditional + guidance * (output - unconditional)


def guidance_embedding(guidance: float, size: int) -> Tensor:
    """[size] float32, the sinusoidal embedding of w = guidance - 1 that an LCM UNet takes as `timestep_cond`.

    diffusers gives guidance in Imagen's convention, the paper's w is one less; w * 1000 as
    `LatentConsistencyModelPipeline.get_guidance_scale_embedding` (from google-research/vdm).
    """
    half = size // 2
    # In float32 throughout: the angles reach thousands, where a rounding of the rate is visible.
    rate = torch.log(torch.tensor(10000.0)) / (half - 1)
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -rate)
    angles = torch.tensor([guidance - 1]) * 1000.0 * rates
    embedding = torch.cat([angles.sin(), angles.cos()])
    return torch.nn.functional.pad(embedding, (0, size % 2))
