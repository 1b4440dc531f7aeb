"""The end of a picture's way on the device: latents through a decoder to levels of 0..255.

Where steps are recorded as CUDA graphs, so is a tiny decoder. It is a hundred small kernels: launched one by
one they took 4.4 ms of an H200 (bench/results/gpu.json) for what is 1 ms of its work, and Python's lock with
it, which the step loop wants. A KL decoder is large kernels, and gains nothing.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from engines.backends.graphs import Recorder
from engines.replays import MOST, Replays
from engines.vae import Vae, levels


def developed(codec: Vae, latents: Tensor) -> Tensor:
    """[N, C, h, w] to uint8 [N, H * W * 3 + 1] on the device: the levels of each picture, rows of pixels of
    red, green and blue, and then 1 if latents and picture were finite, else 0. One tensor is one copy."""
    pixels = codec.decode(latents)
    sound = latents.isfinite().flatten(1).all(1) & pixels.isfinite().flatten(1).all(1)
    return torch.cat([levels(pixels).flatten(1), sound.to(torch.uint8)[:, None]], 1)


class Decoder(Replays):
    """`developed` of latents [C, h, w] each. Any thread."""

    def __init__(self, codec: Vae, recorder: Recorder | None = None, most: int = MOST) -> None:
        super().__init__(partial(developed, codec), None if codec.samples else recorder, "decodes", most)
