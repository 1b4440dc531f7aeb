"""Scenes with their encoded pictures: rendered once, used in several epochs with a new caption each time."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Generator, Tensor

from engines.embedded.captions import caption
from engines.embedded.painters import paint
from engines.embedded.render import render
from engines.embedded.scene import Scene, random_scene

BLOCK = 50  # scenes drawn and encoded at once


def _drawn(size: int, rng: Random, generator: Generator) -> tuple[list[Scene], Tensor]:
    """BLOCK scenes and their pictures: [BLOCK, 3, size, size] uint8."""
    scenes = [random_scene(rng) for _ in range(BLOCK)]
    return scenes, render(scenes, size, generator).mul(255).round().byte()


class Pool:
    """Grows as training goes on. Latents are kept in float16 of unit scale (already times scaling_factor)."""

    def __init__(
        self,
        ae: AutoencoderTiny,
        size: int,
        rng: Random,
        generator: Generator,
        device: str = "cpu",
        workers: int = 0,
    ):
        self.ae, self.size, self.device, self.workers = ae, size, device, workers
        self.use(rng, generator)
        self.scenes: list[Scene] = []
        self.blocks: list[Tensor] = []
        self.latents = torch.empty(0)

    def use(self, rng: Random, generator: Generator) -> None:
        """Draw from these from now on: a stage resumes with the chance its checkpoint holds."""
        self.rng, self.generator = rng, generator
        self._fresh = paint(partial(_drawn, self.size), self.workers, rng, generator)

    def __len__(self) -> int:
        return len(self.scenes)

    @torch.no_grad()
    def grow(self) -> None:
        """Render and encode BLOCK new random scenes."""
        scenes, pictures = next(self._fresh)
        pictures = pictures.to(self.device).div(255).mul(2).sub(1)
        latents = self.ae.encoder(pictures.contiguous(memory_format=torch.channels_last))
        self.scenes += scenes
        self.blocks.append((latents.float() * self.ae.config.scaling_factor).half().contiguous())

    def batch(self, count: int) -> tuple[Tensor, list[str], list[Scene]]:
        """(latents [count, 4, h, w] float32, captions, their scenes), drawn with replacement."""
        if len(self.blocks) > 64 or not len(self.latents):
            self.latents = torch.cat([*([self.latents] if len(self.latents) else []), *self.blocks])
            self.blocks = []
        rows = torch.randint(
            0, len(self.latents), (count,), generator=self.generator, device=self.generator.device
        )
        scenes = [self.scenes[int(row)] for row in rows]
        words = [caption(scene, self.rng) for scene in scenes]
        return self.latents[rows.to(self.latents.device)].float(), words, scenes

    def state_dict(self) -> dict[str, Any]:
        return {
            "scenes": self.scenes,
            "latents": torch.cat([*([self.latents] if len(self.latents) else []), *self.blocks]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scenes, self.latents, self.blocks = state["scenes"], state["latents"], []
