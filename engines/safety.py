"""The safety checker that comes with many models: a CLIP vision tower and a list of concepts.

Radford et al. 2021 (CLIP); Rando et al. 2022 (arXiv 2210.04610) describe what the list filters.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from engines.pixels import Pixels


class Safety:
    def __init__(self, checker: Any, processor: Any) -> None:
        """checker: diffusers' StableDiffusionSafetyChecker on its device. processor: CLIPImageProcessor."""
        self.checker, self.processor = checker, processor

    @torch.inference_mode()
    def unsafe(self, pictures: list[Pixels]) -> list[bool]:
        """pictures: uint8 [H, W, 3] each. True where a concept of the checker's list is seen."""
        seen = self.processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
        clip_input = seen.pixel_values.to(self.checker.device, self.checker.dtype)
        # The checker blackens the arrays it is given; these are stand-ins.
        _, flags = self.checker(images=[torch.zeros(1) for _ in pictures], clip_input=clip_input)
        return [bool(flag) for flag in flags]
