"""Sizes and lengths of a training run. One preset is one reproducible recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engines.embedded.scene import SHARES


@dataclass(frozen=True)
class Preset:
    """Lengths are counted in optimiser steps; sizes in pixels or channels; rates are peaks of a cosine."""

    name: str
    size: int
    seed: int
    threads: int
    device: str
    # The picture codec
    ae_width: int
    ae_encoder: tuple[int, ...]
    ae_decoder: tuple[int, ...]
    ae_steps: int
    ae_batch: int
    ae_crop: int  # trained on crops: flat pictures are redundant, more pictures beat more pixels
    ae_rate: float
    ae_crops: int  # windows of each picture in a batch
    workers: int  # processes that draw, a third of them for the codec; 0 draws in between
    # Text encoder and UNet
    max_tokens: int
    text_width: int
    text_layers: int
    channels: tuple[int, ...]
    pool: int  # scenes drawn before the first step
    fresh: int  # scenes added to the pool each step, where no workers add them
    # The text encoder before the UNet
    read_steps: int
    read_batch: int
    read_rate: float
    # The teacher
    steps: int
    rate: float
    batch: int
    ema: float
    # Distillation
    lcd_steps: int
    lcd_batch: int
    lcd_rate: float
    lcd_ema: float = 0.95
    most: int = 0  # scenes the workers draw in all
    compile: bool = False
    # Decoder refinement with the encoder frozen
    polish_steps: int = 0
    evaluate: int = 96  # captions per step count in the final table
    look_steps: tuple[int, ...] = (2,)  # step counts on the sample sheet at each checkpoint
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)  # of each kind of scene


CPU = Preset(
    name="cpu",
    size=128,
    seed=20,
    threads=1,
    device="cpu",
    ae_width=32,
    ae_encoder=(0, 1, 1, 2),
    ae_decoder=(2, 2, 2, 0),
    ae_steps=7500,
    ae_batch=16,
    ae_crop=64,
    ae_rate=4e-3,
    ae_crops=1,
    workers=0,
    max_tokens=32,
    text_width=128,
    text_layers=2,
    channels=(48, 128),
    pool=12_000,
    fresh=3,
    read_steps=1800,
    read_batch=64,
    read_rate=3e-3,
    steps=4400,
    rate=2e-3,
    batch=48,
    ema=0.999,
    lcd_steps=600,
    lcd_batch=32,
    lcd_rate=5e-4,
    compile=True,
    polish_steps=3000,
)

GPU = Preset(
    name="gpu",
    size=256,
    seed=20,
    threads=4,
    device="cuda",
    ae_width=32,
    ae_encoder=(0, 1, 2, 2),
    ae_decoder=(3, 3, 2, 0),
    ae_steps=4000,
    ae_batch=96,
    ae_crop=128,
    ae_rate=4e-3,
    ae_crops=4,
    workers=15,
    max_tokens=32,
    text_width=128,
    text_layers=4,
    channels=(64, 96, 160),
    pool=15_000,
    fresh=0,
    read_steps=2000,
    read_batch=512,
    read_rate=3e-3,
    # Many steps of few pictures: 3,600 of 40 taught what 970 of 512 and more had not.
    steps=24_000,
    rate=1.2e-3,
    batch=128,
    ema=0.999,
    lcd_steps=8_000,
    lcd_batch=96,
    lcd_rate=3e-4,
    most=900_000,
    polish_steps=2000,
    evaluate=24,  # for a first look; the exam is bench's
)

# An hour or two on from what a GPU has learned, where none is at hand any more, with more of what is hard.
FURTHER = replace(
    GPU,
    name="further",
    device="cpu",
    threads=1,
    workers=0,
    pool=2_000,
    fresh=2,
    steps=4_000,
    rate=1.2e-3,
    batch=20,  # of each process
    ema=0.995,
    lcd_steps=300,  # four times as many were worse at four and eight steps
    lcd_batch=16,
    lcd_rate=3e-4,
    shares={"thing": 0.22, "pair": 0.18, "group": 0.24, "landscape": 0.12, "portrait": 0.24},
)

SMOKE = Preset(
    name="smoke",
    size=64,
    seed=20,
    threads=1,
    device="cpu",
    ae_width=16,
    ae_encoder=(0, 0, 0, 1),
    ae_decoder=(1, 1, 0, 0),
    ae_steps=40,
    ae_batch=6,
    ae_crop=32,
    ae_rate=4e-3,
    ae_crops=1,
    workers=0,
    max_tokens=32,
    text_width=32,
    text_layers=1,
    channels=(16, 32),
    pool=64,
    fresh=1,
    read_steps=60,
    read_batch=16,
    read_rate=3e-3,
    steps=40,
    rate=2e-3,
    batch=16,
    ema=0.9,
    lcd_steps=8,
    lcd_batch=8,
    lcd_rate=3e-4,
    polish_steps=4,
    evaluate=4,
    look_steps=(1,),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (CPU, GPU, FURTHER, SMOKE)}
