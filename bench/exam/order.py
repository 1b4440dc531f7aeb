"""One picture asked for, and the files that pictures travel in."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """image and mask are PNG files; without them, a picture from the prompt alone."""

    prompt: str
    seed: int
    steps: int = 4
    guidance: float = 4.0
    strength: float = 1.0
    image: bytes | None = None
    mask: bytes | None = None
    mask_only: bool = False


Paint = Callable[[Sequence[Order], str], Tensor]
"""Orders, and what they are for in words, to [N, 3, S, S] float32 in 0..1."""


def pixels(file: bytes) -> Tensor:
    """[3, H, W] float32 in 0..1 of a picture file."""
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def image(picture: Tensor) -> Image.Image:
    """The inverse of `pixels`, without a file."""
    levels = picture.clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def png(picture: Tensor) -> bytes:
    """A file of [3, H, W] in 0..1."""
    file = io.BytesIO()
    image(picture).save(file, "PNG")
    return file.getvalue()
