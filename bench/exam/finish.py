"""How pictures look, whatever they show: their patches beside those of renders of the same scenes.

A judge of words cannot tell a crisp picture from one with grain, halos or washed edges; patch statistics can.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

PATCH, PATCHES, LINES = 7, 32, 128
COARSEST = 32
"""Pixels a side of the last level that is compared; below it is what is shown, not how."""


def distance(pictures: Tensor, renders: Tensor, seed: int = 0) -> float:
    """Sliced Wasserstein distance of Laplacian patches, mean over levels, in thousandths; 0 is alike.

    Both [N, 3, S, S] in 0..1, the same N. Patches are scaled by the renders' own mean and deviation, so that
    a shift of tone or contrast counts. Small N gives larger figures: compare only figures of the same N, and
    with that of renders drawn twice. Source: Karras et al. 2018, arXiv 1710.10196, section 5.
    """
    generator = Generator().manual_seed(seed)
    levels = []
    for ours, theirs in zip(pyramid(pictures), pyramid(renders), strict=True):
        where = torch.rand(len(ours), PATCHES, 2, generator=generator)
        a, b = _patches(ours, where), _patches(theirs, where)
        middle, spread = b.mean((0, 1), keepdim=True), b.std((0, 1), keepdim=True).clamp(min=1e-6)
        lines = F.normalize(torch.randn(LINES, 3 * PATCH**2, generator=generator), dim=1)
        ours, theirs = (
            (lines @ ((part - middle) / spread).flatten(0, 1).flatten(1).T).sort(1).values for part in (a, b)
        )
        levels.append(float((ours - theirs).abs().mean()))
    return 1e3 * sum(levels) / len(levels)


def pyramid(pictures: Tensor) -> list[Tensor]:
    """What each halving of the size takes away, finest first, down to COARSEST pixels."""
    levels = []
    while pictures.shape[-1] > COARSEST:
        half = F.avg_pool2d(pictures, 2)
        levels.append(pictures - F.interpolate(half, scale_factor=2.0, mode="bilinear"))
        pictures = half
    return levels


def _patches(pictures: Tensor, where: Tensor) -> Tensor:
    """[N, PATCHES, 3, PATCH, PATCH] of [N, 3, S, S], their corners at `where` [N, PATCHES, 2] in 0..1."""
    count, _, side, _ = pictures.shape
    corner = (where * (side - PATCH + 1)).long()
    reach = torch.arange(PATCH)
    rows, columns = (corner[..., axis, None] + reach for axis in (0, 1))
    at = torch.arange(count).view(-1, 1, 1, 1)
    # Advanced indices around the channels put them last.
    return pictures[at, :, rows[..., :, None], columns[..., None, :]].permute(0, 1, 4, 2, 3)
