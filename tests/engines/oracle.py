"""diffusers' own pipelines over the folders ours load, as what ours must equal.

Their UNet and VAE get the memory layout ours have, for a convolution adds up in another order otherwise;
what differs then is a bug.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import LCMScheduler
from torch import Generator, Tensor

from engines.messages import Job


class NativeStrength(LCMScheduler):
    """For generic pipelines, which do not pass a strength on."""

    strength = 1.0

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **(kwargs | {"strength": self.strength}))


@functools.cache
def loaded(kind: Any, folder: Path, lora: bool, nets: tuple[Any, ...]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {} if "XL" in kind.__name__ else {"safety_checker": None}
        if nets:
            options["controlnet"] = nets[0] if len(nets) == 1 else list(nets)
        pipe = kind.from_pretrained(folder, **options)
        if lora:
            pipe.load_lora_weights(folder / "lcm_lora")
            pipe.fuse_lora()
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe


def oracle(
    kind: Any,
    folder: Path,
    lora: bool = False,
    strength: float | None = None,
    nets: tuple[Any, ...] = (),
    fresh: bool = False,
) -> Any:
    """A pipeline of diffusers; `strength` makes a generic one run all LCM-native timesteps of it.

    nets: ControlNets, for a pipeline that takes them. fresh: one of its own, to change.
    """
    pipe = (loaded.__wrapped__ if fresh else loaded)(kind, folder, lora, nets)
    if strength is None:
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
        return pipe
    pipe.scheduler = NativeStrength.from_config(pipe.scheduler.config)
    pipe.scheduler.strength = strength

    def get_timesteps(num_inference_steps: int, *_: Any, **__: Any) -> tuple[Tensor, int]:
        return pipe.scheduler.timesteps, num_inference_steps

    pipe.get_timesteps = get_timesteps
    return pipe


def call(pipe: Any, job: Job, **extra: Any) -> Tensor:
    """The oracle's latents for a job: [C, h, w]."""
    latents = pipe(
        job.prompt,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance,
        generator=Generator().manual_seed(job.seed),
        output_type="latent",
        **extra,
    ).images
    assert latents.isfinite().all()
    return latents[0]
