"""The picture codec: diffusers' AutoencoderTiny, eight pixels to one latent cell of four channels.

Trained on the grammar's scenes and, so that image to image works from a drawing, on strokes and blobs.
"""

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Generator, Tensor

from engines.embedded.render import render
from engines.embedded.scene import random_scene
from engines.embedded.scribble import blobs, scribble_over


def tiny_autoencoder(
    width: int, encoder_blocks: tuple[int, ...], decoder_blocks: tuple[int, ...]
) -> AutoencoderTiny:
    """An untrained AutoencoderTiny, f = 8, with latents in about -3..3 and scaling factor 1."""
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=encoder_blocks,
        num_decoder_blocks=decoder_blocks,
        scaling_factor=1.0,
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def training_pictures(count: int, size: int, rng: Random, generator: Generator) -> Tensor:
    """[count, 3, size, size] in -1..1: half scenes, a sixth scenes drawn over, a third blobs."""
    drawn = max(1, count // 6)
    scenes = render([random_scene(rng) for _ in range(count - 2 * drawn)], size, generator)
    scenes = torch.cat([scribble_over(scenes[:drawn], generator), scenes[drawn:]])
    loose = blobs(2 * drawn, size, generator)
    loose = torch.cat([scribble_over(loose[:drawn], generator), loose[drawn:]])
    return torch.cat([scenes, loose]).mul(2).sub(1).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(ae: AutoencoderTiny, pictures: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error in the -1..1 scale). Noise on the latents keeps the decoder calm."""
    latents = ae.encoder(pictures)
    spread = latents.float()
    statistics = spread.mean((0, 2, 3)).square().mean() + (spread.std((0, 2, 3)) - 1).square().mean()
    noise = torch.randn(latents.shape, generator=generator, device=latents.device) * 0.05
    back = ae.decoder(latents + noise.to(latents.dtype)).float()
    error = back - pictures
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (
        error[..., 1:, :] - error[..., :-1, :]
    ).abs().mean()
    squared = error.square().mean()
    return F.l1_loss(back, pictures) + squared + 0.5 * edges + 0.05 * statistics, squared.detach()
