"""diffusers' own pipeline as what is examined: no server, a few large batches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.exam.sitting import Draw

BATCH = {"cuda": 256}
"""Pictures drawn at once, 16 on other devices."""


def native_size(folder: Path) -> int:
    """Pixels a side that the model was trained for."""
    return int(json.loads((folder / "suggestions.json").read_text())["native_size"])


def drawing(
    folder: Path, device: str, side: int = 0, done: Callable[[int], None] = lambda count: None
) -> Draw:
    """A model in diffusers' LCM layout as a Draw, in float32. side: 0 for its own size.

    `done` is told how many pictures each batch had. Seeds count on the CPU, so that every device starts from
    the same noise.
    """
    from diffusers import LatentConsistencyModelPipeline

    pipe = LatentConsistencyModelPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    side = side or native_size(folder)

    @torch.no_grad()
    def draw(prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        parts = []
        batches = math.ceil(len(prompts) / BATCH.get(torch.device(device).type, 16))
        for turn in range(batches):
            chunk = slice(turn * len(prompts) // batches, (turn + 1) * len(prompts) // batches)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[chunk]]
            answer = pipe(
                list(prompts[chunk]),
                height=side,
                width=side,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generators,
                output_type="pt",
            )
            parts.append(answer.images.float().cpu())
            done(len(generators))
        return torch.cat(parts)

    return draw
