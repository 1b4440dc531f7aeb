"""Stage 1: the text encoder learns to read before anything is drawn.

The grammar knows what every caption means, so reading need not be learned through the UNet, which sees a
tenth of the captions in the same time. Two small heads, thrown away afterwards, ask the hidden states what a
denoiser will ask them: by cross attention, cell by cell, for the latents to expect, and key by key for the
attributes of the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.embedded.scene import ATTRIBUTES, Scene, attributes

if TYPE_CHECKING:
    from transformers import CLIPTextModel

PATCH = 2  # latent cells a side that one query answers for
NAMING = 0.3  # weight of the attributes beside the latents


def labels_of(scenes: Sequence[Scene]) -> Tensor:
    """[B, len(ATTRIBUTES)] int64: the place of each scene's value among the values of each attribute."""
    rows = [[ATTRIBUTES[key].index(value) for key, value in attributes(s).items()] for s in scenes]
    return torch.tensor(rows)


class Inquiry(nn.Module):
    """One transformer block of queries that see the text and not each other: [B, Q, D] and [B, L, D]."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.pair = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.after = nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, queries: Tensor, text: Tensor) -> Tensor:
        q = self.query(self.before(queries)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.pair(text).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Explicit products: PyTorch's fused attention is several times slower backwards on a CPU.
        seen = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        queries = queries + self.after(seen.transpose(1, 2).flatten(2))
        return queries + self.inner(self.between(queries))


class Reader(nn.Module):
    """The two heads over hidden states [B, L, width]."""

    def __init__(self, width: int, cells: int, channels: int = 4):
        super().__init__()
        self.cells, self.channels = cells, channels
        self.places = nn.Parameter(0.5 * torch.randn((cells // PATCH) ** 2, width))
        self.layout = nn.ModuleList([Inquiry(width), Inquiry(width)])
        self.patches = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels * PATCH**2))
        self.keys = nn.Parameter(0.5 * torch.randn(len(ATTRIBUTES), width))
        self.naming = Inquiry(width)
        self.values = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(values)))
            for values in ATTRIBUTES.values()
        )

    def expected(self, text: Tensor) -> Tensor:
        """The mean latents of all pictures the text allows: [B, channels, cells, cells]."""
        queries = self.places.expand(len(text), -1, -1)
        for block in self.layout:
            queries = block(queries, text)
        return F.pixel_shuffle(
            self.patches(queries).mT.unflatten(2, (self.cells // PATCH, self.cells // PATCH)), PATCH
        )

    def named(self, text: Tensor) -> list[Tensor]:
        """For each attribute the logits of its values: [B, len(values)]."""
        answers = self.naming(self.keys.expand(len(text), -1, -1), text)
        return [head(answers[:, index]) for index, head in enumerate(self.values)]


def reading_loss(
    text_encoder: CLIPTextModel, reader: Reader, ids: Tensor, latents: Tensor, labels: Tensor
) -> Tensor:
    """Squared error of the latents plus cross entropy of the attributes.

    ids: [B, L] int64; latents: [B, 4, h, w] float32 of unit scale; labels: as `labels_of`.
    """
    text = text_encoder(ids).last_hidden_state
    named = [F.cross_entropy(logits.float(), labels[:, k]) for k, logits in enumerate(reader.named(text))]
    return F.mse_loss(reader.expected(text).float(), latents) + NAMING * torch.stack(named).mean()
