"""One UNet call and the sampler's step after it, as one function of tensors: what a back end makes fast.

Places are the batch of the UNet: first the rows, then the unconditional halves of guided rows, then padding.
Every operation treats places alike and none looks across them but `pairs`, so what sits in one place does
not change another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines import sampler


@dataclass(frozen=True, slots=True)
class Shape:
    """All that a compiled or captured program is fixed to: sizes, and the set of features it takes in."""

    places: int
    channels: int
    height: int  # in latents
    width: int
    tokens: int
    text: int  # width of a token's embedding
    features: tuple[str, ...]  # sorted: "embedded" or "cfg", how the guidance scale comes in

    def __str__(self) -> str:
        return f"{self.places} x {self.width}x{self.height} latents"


class Batch(NamedTuple):
    """The inputs of one call of B places. float32 on the device, but `text` and "embedded" `guidance`
    are in the UNet's dtype."""

    latents: Tensor  # [B, C, h, w]
    coefficients: Tensor  # [B, 6], as sampler.Plan
    text: Tensor  # [B, tokens, D]
    guidance: Tensor  # [B, E] embeddings, or [B, 1, 1, 1] scales of classifier-free guidance
    noise: Tensor  # [B, C, h, w], as sampler.Plan; so are the next two
    still: Tensor  # [B, C, h, w]
    mask: Tensor  # [B, 1, h, w]
    pairs: Tensor | None  # "cfg" only: [B] int64, the place of the unconditional half; its own if none


Step = Callable[..., Tensor]  # (*Batch) -> latents after the step, [B, C, h, w] float32


class Program(nn.Module):
    def __init__(self, unet: Any, prediction: str, clip: float | None) -> None:
        """unet: diffusers' UNet2DConditionModel on its device. prediction, clip: as sampler.step."""
        super().__init__()
        self.unet = unet
        # diffusers looks through all parameters for these, 0.7 ms each time
        self.device: torch.device = unet.device
        self.dtype: torch.dtype = unet.dtype
        self.prediction, self.clip = prediction, clip
        self.embedding: int | None = unet.config.time_cond_proj_dim

    def forward(
        self,
        latents: Tensor,
        coefficients: Tensor,
        text: Tensor,
        guidance: Tensor,
        noise: Tensor,
        still: Tensor,
        mask: Tensor,
        pairs: Tensor | None = None,
    ) -> Tensor:
        output = self.unet(
            latents.to(self.dtype),
            coefficients[:, 0],
            encoder_hidden_states=text,
            timestep_cond=guidance if pairs is None else None,
            return_dict=False,
        )[0].float()
        if pairs is not None:  # a place paired with itself comes out as it went in
            output = sampler.guided(output, output[pairs], guidance)
        return sampler.step(latents, output, coefficients, noise, still, mask, self.prediction, self.clip)

    @property
    def features(self) -> tuple[str, ...]:
        return ("cfg",) if self.embedding is None else ("embedded",)

    def empty(self, shape: Shape, device: torch.device | None = None) -> Batch:
        """Tensors to gather a batch of this shape into: the static slots of a captured program."""
        places, device = shape.places, device or self.device
        latents = places, shape.channels, shape.height, shape.width
        embedded = self.embedding is not None

        def slots(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        return Batch(
            latents=slots(*latents),
            coefficients=slots(places, 6),
            text=slots(places, shape.tokens, shape.text, dtype=self.dtype),
            guidance=slots(places, self.embedding or 0, dtype=self.dtype)
            if embedded
            else slots(places, 1, 1, 1),
            noise=slots(*latents),
            still=slots(*latents),
            mask=slots(places, 1, shape.height, shape.width),
            pairs=None if embedded else torch.arange(places, device=device),
        )

    def sample(self, shape: Shape, seed: int = 0) -> Batch:
        """A batch such as traffic brings: unit noise, steps in the middle of the schedule."""
        generator = torch.Generator().manual_seed(seed)
        batch = self.empty(shape)
        for tensor in (batch.latents, batch.text, batch.guidance, batch.noise):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        # timestep, alpha, sigma, skip, out, next alpha
        middle = torch.tensor([499.0, 0.5, 0.8, 0.0, 1.0, 0.7])
        batch.coefficients.copy_(middle.expand(shape.places, 6))
        batch.mask.fill_(1.0)
        return batch

    def layout(self) -> str:
        """Digest of names, sizes, strides and types of all weights: what compiled code relies on."""
        told = hashlib.blake2b(digest_size=16)
        for name, tensor in self.state_dict().items():
            told.update(f"{name} {tuple(tensor.shape)} {tensor.stride()} {tensor.dtype}\n".encode())
        return told.hexdigest()

    def weights(self) -> str:
        """Digest of every weight's bytes, LoRAs that are fused included. Seconds for a real model."""
        told = hashlib.blake2b(digest_size=16)
        for name, tensor in self.state_dict().items():
            told.update(name.encode())
            told.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return told.hexdigest()


def difference(expected: Tensor, found: Tensor) -> float:
    """The greatest relative error of any place, L2 over the place; NaN and infinity come out as infinity."""
    error = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1).clamp_min(1e-12)
    return float(error.nan_to_num(nan=float("inf")).max())


def gather(columns: Sequence[Sequence[Tensor]], pairs: Sequence[int] | None, into: Batch | None) -> Batch:
    """Columns of a Batch, each as one tensor per place, stacked; `into` static slots if there are any."""
    if into is None:
        stacked = [torch.stack(list(column)) for column in columns]
        at = None if pairs is None else torch.tensor(pairs, device=stacked[0].device)
        return Batch(*stacked, at)
    for column, slots in zip(columns, into, strict=False):
        torch.stack(list(column), out=slots)
    if pairs is not None and into.pairs is not None:
        into.pairs.copy_(torch.tensor(pairs))
    return into
