"""A program that takes milliseconds to run and seconds to compile: one block each way, as SD1.5's."""

from __future__ import annotations

import math

import torch
from diffusers import UNet2DConditionModel
from torch import Generator, Tensor

from engines.backends.eager import Eager
from engines.backends.program import Batch, Program, Shape, Step

TEXT = 16


def program(
    embedded: bool = True, dtype: torch.dtype = torch.float32, device: str = "cpu", width: int = 16
) -> Program:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(width,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=TEXT,
        attention_head_dim=2,
        norm_num_groups=4,
        time_cond_proj_dim=32 if embedded else None,
    )
    generator = Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in unet.parameters():  # zeros and ones of a fresh network would hide a wrong gather
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.add_(0.1 * noise)
    unet.to(device, dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Program(unet, "v_prediction", None)


class Inner(Eager):
    """Eager, but that every shape is served by this code."""

    def __init__(self, over: Program, code: Step) -> None:
        super().__init__(over)
        self._code = code

    def program(self, shape: Shape) -> Step:
        return self._code

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        advanced: Tensor = self._code(*batch)
        return advanced


SHAPE = Shape(2, 4, 8, 8, 77, TEXT, features=("embedded",))
