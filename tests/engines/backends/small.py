"""A program that takes milliseconds to run and seconds to compile: one block each way, as SD1.5's."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from engines.backends.program import Program, Shape
from tests.engines.tiny import scramble

TEXT = 16


def program(embedded: bool = True, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Program:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=TEXT,
        attention_head_dim=2,
        norm_num_groups=4,
        time_cond_proj_dim=32 if embedded else None,
    )
    scramble(unet, seed=7)
    unet.to(device, dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Program(unet, "v_prediction", None)


SHAPE = Shape(2, 4, 8, 8, 77, TEXT, features=("embedded",))
