"""Stage 3: latent consistency distillation of the teacher into a one-to-four-step student.

Source: Luo et al. 2023, "Latent Consistency Models" (arXiv 2310.04378), algorithm 1: a guided DDIM step of
the teacher from t to t - 20 gives the point at which the student's average must agree with the student at t.
"""

from __future__ import annotations

import functools

import torch
from diffusers import UNet2DConditionModel
from torch import Generator, Tensor

from engines.embedded.diffusion import GUIDANCE_DIM, TIMESTEPS, attention_to, signal_and_noise

SKIP = 20
MAX_W = 7.5  # the pipeline's default guidance scale 8.5 is w = 7.5


@functools.cache
def _rates(count: int, device: torch.device) -> Tensor:
    """[count] float32, falling geometrically from 1 to 1/10000."""
    falling = -(torch.log(torch.tensor(10000.0)) / (count - 1))
    return torch.exp(torch.arange(count, dtype=torch.float32) * falling).to(device)


def guidance_embedding(w: Tensor, dim: int = GUIDANCE_DIM) -> Tensor:
    """[B] guidance minus one (the Imagen convention) to [B, dim] float32, sines then cosines.

    The same numbers as LatentConsistencyModelPipeline.get_guidance_scale_embedding.
    """
    angle = w.float().view(-1, 1) * 1000.0 * _rates(dim // 2, w.device)
    return torch.cat([angle.sin(), angle.cos()], 1)


def boundary_scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip, c_out of LCMScheduler: [B, 1, 1, 1]; t = 0 is the identity."""
    scaled = (t.float() * 10).view(-1, 1, 1, 1)
    return 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25).sqrt()


def consistent(noisy: Tensor, v: Tensor, t: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """The student's answer f(x_t): [B, 4, h, w]."""
    skip, out = boundary_scalings(t)
    return skip * noisy + out * (signal[t] * noisy - sigma[t] * v)


def rescaled(guided: Tensor, plain: Tensor, share: float = 0.7) -> Tensor:
    """Guided answers [B, C, H, W] brought most of the way back to the spread of the unguided ones.

    Strong guidance otherwise turns pink to magenta. Source: Lin et al. 2023 (arXiv 2305.08891), section 3.4.
    """
    ratio = plain.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    return guided * (share * ratio + 1 - share)


def distillation_loss(
    student: UNet2DConditionModel,
    average: UNet2DConditionModel,
    teacher: UNet2DConditionModel,
    embeds: Tensor,
    blank: Tensor,
    latents: Tensor,
    labels: Tensor,
    generator: Generator,
) -> Tensor:
    """Pseudo-Huber distance of student and target, weighed by `attention_to`.

    embeds: [B, L, D] of the captions; blank: [1, L, D] of ""; latents: [B, 4, h, w] float32 of unit scale;
    labels: as labels_of. Only `student` receives gradients.
    """
    count, device = len(latents), latents.device
    signal, sigma = signal_and_noise(device)
    grid = torch.randint(1, TIMESTEPS // SKIP + 1, (count,), generator=generator, device=device)
    # Two thirds of the draws from the upper half, a fifth the last: what one to four steps really visit.
    upper = torch.randint(
        TIMESTEPS // SKIP // 2, TIMESTEPS // SKIP + 1, (count,), generator=generator, device=device
    )
    kind = torch.rand(count, generator=generator, device=device)
    grid = torch.where(kind < 0.3, upper, grid)
    grid = torch.where(kind >= 0.8, TIMESTEPS // SKIP, grid)
    t = grid * SKIP - 1
    earlier = (t - SKIP).clamp(min=0)
    # Squared: a short distillation hardly tells one w from another, it answers with their mean. Low is calm.
    w = torch.rand(count, generator=generator, device=device).square() * MAX_W
    noise = torch.randn(latents.shape, generator=generator, device=device)
    noisy = (signal[t] * latents + sigma[t] * noise).contiguous(memory_format=torch.channels_last)
    guidance = guidance_embedding(w)

    with torch.no_grad():
        both = torch.cat([embeds, blank.expand(count, -1, -1)])
        v = teacher(torch.cat([noisy, noisy]), torch.cat([t, t]), both).sample.float()
        v_text, v_blank = v.chunk(2)
        v = rescaled(v_text + w.view(-1, 1, 1, 1) * (v_text - v_blank), v_text)
        clean = (signal[t] * noisy - sigma[t] * v).clamp(-4, 4)
        grain = (noisy - signal[t] * clean) / sigma[t]
        previous = signal[earlier] * clean + sigma[earlier] * grain
        answer = average(previous, earlier, embeds, timestep_cond=guidance).sample.float()
        target = consistent(previous, answer, earlier, signal, sigma)

    answer = student(noisy, t, embeds, timestep_cond=guidance).sample.float()
    error = consistent(noisy, answer, t, signal, sigma) - target
    c = 0.001
    distance = torch.sqrt(error.square() + c * c) - c
    return (distance * attention_to(labels, latents.shape[-1])).mean()
