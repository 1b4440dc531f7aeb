"""ControlNets beside the UNet, run for those places of a batch that have a picture to follow.

Zhang et al. 2023 (arXiv 2302.05543). A ControlNet is a third to a half of a step, so places without one do
not pass through it; to them its residuals are zero, and the UNet adds zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Residuals = list[Tensor]  # of the UNet's down blocks in their order, then of its middle


class Control(nn.Module):
    """One ControlNet. `reads`: what its cross-attentions see, "text" or, as an IdentityNet, the "tokens" of
    the row's image prompt."""

    def __init__(self, net: Any, reads: str = "text") -> None:
        """net: diffusers' ControlNetModel on its device."""
        super().__init__()
        self.net, self.reads = net, reads

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        seen: Tensor,
        picture: Tensor,
        added: dict[str, Tensor] | None,
    ) -> Residuals:
        """latents: [K, C, h, w]; timesteps: [K]; seen: [K, tokens, D]; picture: [K, 3, H, W] in 0..1, all of
        the net's dtype but `timesteps`. added: as diffusers' added_cond_kwargs, for SDXL. Unscaled."""
        down, middle = self.net(
            latents,
            timesteps,
            encoder_hidden_states=seen,
            controlnet_cond=picture,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return [*down, middle]


def spread(residuals: Residuals, holders: Tensor, scales: Tensor) -> Residuals:
    """Residuals of K places to all B: scaled where a place has a scale, zero where that is zero.

    holders: [B] int64, which of the K is a place's own, any for a place with scale 0. scales: [B].
    Zero whatever the residual holds: NaN of one row must not reach another.
    """
    scales = scales[:, None, None, None]
    nothing = scales.new_zeros(())
    return [torch.where(scales != 0, part[holders] * scales, nothing) for part in residuals]
