"""The picture codec: diffusers' AutoencoderTiny, eight pixels to one latent cell of four channels.

Trained on the grammar's scenes and, so that image to image works from a drawing, on strokes and blobs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Generator, Tensor


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
