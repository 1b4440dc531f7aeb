"""Between pixels and latents, through a tiny autoencoder (TAESD's layout) or a KL autoencoder.

A tiny encoder is some eighty small kernels, and a live canvas brings a picture with every frame: it is
replayed where steps are (engines/replays.py). Its decoder is a `Decoder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from engines.backends.graphs import Recorder
from engines.pixels import Pixels
from engines.replays import Replays


@dataclass(frozen=True)
class Posterior:
    """What an encoder says of one picture: [C, h, w] float32 on the CPU, unscaled. No deviation: a point."""

    mean: Tensor
    deviation: Tensor | None
    factor: float  # to the UNet's scale

    @property
    def nbytes(self) -> int:
        return self.mean.nbytes + (0 if self.deviation is None else self.deviation.nbytes)


class Vae:
    def __init__(self, module: Any, scale: int, recorder: Recorder | None = None) -> None:
        """module: AutoencoderTiny or AutoencoderKL on its device. scale: pixels per latent, each way.

        recorder: for a tiny one's `encode`, and nobody else's; None records nothing.
        """
        self.module, self.scale = module, scale
        self.factor: float = module.config.scaling_factor
        self.channels: int = module.config.latent_channels
        self.samples = hasattr(module.config, "down_block_types")  # KL: latents are drawn, not computed
        self.encodes = Replays(self._latents, None if self.samples else recorder, "encodes")

    @torch.inference_mode()
    def encode(self, pixels: Pixels) -> Posterior:
        """pixels: uint8 [H, W, 3], scaled to -1..1 as diffusers' VaeImageProcessor does. Any thread."""
        given = torch.tensor(pixels).to(self.module.device)  # a copy: numpy's may be read-only
        if not self.samples:
            return Posterior(self.encodes([given])[0].cpu(), None, self.factor)
        spread = self._told(given[None]).latent_dist
        return Posterior(spread.mean[0].float().cpu(), spread.std[0].float().cpu(), self.factor)

    def _latents(self, pixels: Tensor) -> Tensor:
        """Of a tiny one: uint8 [N, H, W, 3] to [N, C, h, w] float32, both on the device."""
        latents: Tensor = self._told(pixels).latents
        return latents.float()

    def _told(self, pixels: Tensor) -> Any:
        scaled = pixels.permute(0, 3, 1, 2).float().div_(255).mul_(2).sub_(1)
        return self.module.encode(scaled.to(self.module.dtype))

    def sample(self, posterior: Posterior, generator: Generator) -> Tensor:
        """[C, h, w] float32 latents in the UNet's scale.

        A KL autoencoder takes one draw from `generator`, even for what a tiny one beside it has encoded:
        the seed means the same noise either way.
        """
        latents = posterior.mean
        if self.samples:
            noise = torch.randn(latents[None].shape, generator=generator)[0]
            if posterior.deviation is not None:
                latents = latents + posterior.deviation * noise
        return posterior.factor * latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] to pixels in -1..1, [B, 3, H, W] float32, unclamped, on the device."""
        pixels: Tensor = self.module.decode(latents.to(self.module.dtype) / self.factor, return_dict=False)[0]
        return pixels.float()


def levels(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in -1..1 to uint8 [B, H, W, 3] where it is, rounded as VaeImageProcessor rounds."""
    found = ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return found.permute(0, 2, 3, 1).contiguous()
