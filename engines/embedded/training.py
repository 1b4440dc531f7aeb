"""The recipe end to end: codec, latent pool, text, teacher, student, polish. Every stage resumes."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from engines.embedded.autoencoder import reconstruction_loss, tiny_autoencoder, training_pictures
from engines.embedded.captions import lexicon
from engines.embedded.diffusion import diffusion_loss, drop_captions, text_encoder_for, unet_for
from engines.embedded.distill import distillation_loss
from engines.embedded.loop import Loop
from engines.embedded.optimiser import Average, Pair, cosine, rate_at
from engines.embedded.painters import paint
from engines.embedded.pool import BLOCK, Pool
from engines.embedded.presets import Preset
from engines.embedded.reading import Reader, labels_of, reading_loss
from engines.embedded.vocabulary import token_ids, tokenizer_for

Look = Callable[["Teacher", int], None]


@functools.cache
def bfloat16_pays() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32: two convolutions against the clock."""
    pictures = torch.randn(32, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1)
    best = {}
    for kind in (torch.float32, torch.bfloat16):
        layer, inputs = copy.deepcopy(conv).to(kind), pictures.to(kind)
        layer(inputs)
        times = []
        for _ in range(7):
            began = time.perf_counter()
            layer(inputs)
            times.append(time.perf_counter() - began)
        best[kind] = min(times)
    return best[torch.bfloat16] < best[torch.float32]


def autocast(preset: Preset) -> torch.autocast:
    """bfloat16 products with float32 weights where that is faster."""
    return torch.autocast(preset.device, torch.bfloat16, enabled=preset.device != "cpu" or bfloat16_pays())


def new_autoencoder(preset: Preset) -> AutoencoderTiny:
    torch.manual_seed(preset.seed)
    return tiny_autoencoder(preset.ae_width, preset.ae_encoder, preset.ae_decoder).to(preset.device)


def dice(preset: Preset, stage: int) -> tuple[Random, Generator]:
    """The two sources of chance of one stage; the second draws on the preset's device."""
    return Random(preset.seed + stage), Generator(preset.device).manual_seed(preset.seed + stage)


def lessons(preset: Preset, rng: Random, generator: Generator) -> Iterator[Tensor]:
    """What the codec learns from: [ae_batch / ae_crops, 3, size, size] in -1..1, for ever."""
    draw = functools.partial(training_pictures, preset.ae_batch // preset.ae_crops, preset.size)
    return paint(draw, preset.workers, rng, generator)


def random_crops(preset: Preset, pictures: Tensor, generator: Generator) -> Tensor:
    """`ae_crops` windows of each picture: [ae_batch, 3, ae_crop, ae_crop]."""
    return torch.cat([random_crop(pictures, preset.ae_crop, generator) for _ in range(preset.ae_crops)])


def random_crop(pictures: Tensor, size: int, generator: Generator) -> Tensor:
    """The same random window, aligned to latent cells, of every picture of the batch."""
    room = (pictures.shape[-1] - size) // 8 + 1
    top, left = (
        8 * int(v) for v in torch.randint(0, room, (2,), generator=generator, device=generator.device)
    )
    window = pictures[..., top : top + size, left : left + size]
    return window.contiguous(memory_format=torch.channels_last)


def train_autoencoder(preset: Preset, folder: Path) -> AutoencoderTiny:
    """Stage 0. Returns the averaged codec with `scaling_factor` set to 1 / std of the latents."""
    ae = new_autoencoder(preset)
    optimiser, average = Pair([ae], preset.ae_rate), Average(ae, 0.998)
    rng, generator = dice(preset, 0)
    loop = Loop(
        folder, "autoencoder", preset.ae_steps, {"ae": ae, "opt": optimiser, "ema": average}, rng, generator
    )

    fresh = lessons(preset, rng, generator)

    def take(step: int) -> float:
        # The last tenth sees whole pictures: crops over-represent the zero padding at the border.
        pictures = next(fresh).to(preset.device)
        if step > 0.9 * preset.ae_steps:
            pictures = pictures[:: preset.ae_crops * 3].contiguous(memory_format=torch.channels_last)
        else:
            pictures = random_crops(preset, pictures, generator)
        with autocast(preset):
            loss, squared = reconstruction_loss(ae, pictures, generator)
        loss.backward()
        optimiser.step(cosine(step, preset.ae_steps, preset.ae_rate))
        average.update()
        return float(squared)

    loop.run(take)
    average.swap()
    ae.register_to_config(scaling_factor=round(1 / latent_std(ae, preset), 5))
    return ae.eval().requires_grad_(False)


@torch.no_grad()
def latent_std(ae: AutoencoderTiny, preset: Preset) -> float:
    """Standard deviation of the latents of 256 seeded scenes."""
    rng, generator = Random(preset.seed + 1), Generator().manual_seed(preset.seed + 1)
    pictures = training_pictures(256 if preset.size > 64 else 32, preset.size, rng, generator)
    return float(ae.encoder(pictures.to(preset.device)).std())


@dataclass
class Teacher:
    """What stage 2 leaves behind. The weights are the averaged ones."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel


def new_teacher(preset: Preset) -> Teacher:
    torch.manual_seed(preset.seed + 2)
    tokenizer = tokenizer_for(lexicon(), preset.max_tokens)
    text_encoder = text_encoder_for(tokenizer, preset.text_width, preset.text_layers)
    unet = unet_for(preset.channels, preset.text_width, preset.size // 8)
    # Explicit products: the fused CPU attention is slower backwards at 64 tokens (29 ms against 5).
    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    return Teacher(tokenizer, text_encoder.to(preset.device), unet.to(preset.device))


def ids_of(tokenizer: CLIPTokenizer, captions: list[str], preset: Preset) -> Tensor:
    return torch.tensor(token_ids(tokenizer, captions), device=preset.device)


def gather(preset: Preset, folder: Path, ae: AutoencoderTiny) -> Pool:
    """The first scenes and their latents, drawn once and kept in pool.pt."""
    rng, generator = dice(preset, 7)
    pool = Pool(ae, preset.size, rng, generator, preset.device, preset.workers)
    kept = folder / "pool.pt"
    if kept.exists():
        pool.load_state_dict(torch.load(kept, weights_only=False))
        return pool
    for _ in track(range(-(-preset.pool // BLOCK)), "drawing scenes"):
        pool.grow()
    torch.save(pool.state_dict(), kept)
    return pool


def train_text(preset: Preset, folder: Path, teacher: Teacher, pool: Pool) -> None:
    """Stage 1: the teacher's text encoder, in place; averaged weights."""
    torch.manual_seed(preset.seed + 6)
    reader = Reader(preset.text_width, preset.size // 8).to(preset.device)
    modules = torch.nn.ModuleList([teacher.text_encoder, reader])
    optimiser, average = Pair(modules, preset.read_rate), Average(modules, 0.998)
    rng, generator = dice(preset, 6)
    parts = {"modules": modules, "opt": optimiser, "ema": average}
    loop = Loop(folder, "text", preset.read_steps, parts, rng, generator)
    pool.use(rng, generator)

    def take(step: int) -> float:
        latents, captions, scenes = pool.batch(preset.read_batch)
        ids, labels = ids_of(teacher.tokenizer, captions, preset), labels_of(scenes).to(preset.device)
        with autocast(preset):
            loss = reading_loss(teacher.text_encoder, reader, ids, latents.to(preset.device), labels)
        loss.backward()
        optimiser.step(cosine(step, preset.read_steps, preset.read_rate))
        average.update()
        return float(loss.detach())

    loop.run(take)
    average.swap()


def train_teacher(preset: Preset, folder: Path, ae: AutoencoderTiny, look: Look) -> tuple[Teacher, Pool]:
    """Stage 2. `look(teacher, step)` is called with the averaged weights in place after each checkpoint."""
    teacher = new_teacher(preset)
    pool = gather(preset, folder, ae)
    train_text(preset, folder, teacher, pool)
    modules = torch.nn.ModuleList([teacher.unet, teacher.text_encoder])
    # The guidance input is zero until distillation, and conditioning on it costs nothing here.
    optimiser, average = Pair(modules, preset.legs[0][1]), Average(modules, preset.ema)
    rng, generator = dice(preset, 3)
    pool.use(rng, generator)
    parts = {"modules": modules, "opt": optimiser, "ema": average, "pool": pool}
    loop = Loop(folder, "teacher", preset.steps, parts, rng, generator)
    forward = torch.compile(teacher.unet, dynamic=False) if preset.compile else teacher.unet

    def take(step: int) -> float:
        if step * preset.fresh % BLOCK < preset.fresh:
            pool.grow()
        latents, captions, _ = pool.batch(preset.batch)
        ids = ids_of(teacher.tokenizer, drop_captions(captions, rng), preset)
        with autocast(preset):
            loss = diffusion_loss(forward, teacher.text_encoder, latents.to(preset.device), ids, generator)
        loss.backward()
        optimiser.step(rate_at(step, preset.legs))
        average.update()
        return float(loss.detach())

    def show(step: int) -> None:
        average.swap()
        look(teacher, step)
        average.swap()

    loop.run(take, show)
    average.swap()
    modules.eval().requires_grad_(False)
    return teacher, pool


def train_student(preset: Preset, folder: Path, teacher: Teacher, pool: Pool, look: Look) -> Teacher:
    """Stage 3. Returns the teacher's text encoder with the student's averaged UNet."""
    student = copy.deepcopy(teacher.unet).requires_grad_(True)
    torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
    optimiser, average = Pair([student], preset.lcd_rate), Average(student, preset.lcd_ema)
    shadow = copy.deepcopy(student).requires_grad_(False)
    rng, generator = dice(preset, 4)
    loop = Loop(
        folder,
        "student",
        preset.lcd_steps,
        {"unet": student, "opt": optimiser, "ema": average},
        rng,
        generator,
    )
    pool.use(rng, generator)
    models = [student, shadow, teacher.unet]
    fast = [torch.compile(m, dynamic=False) if preset.compile else m for m in models]
    with torch.no_grad():
        blank = teacher.text_encoder(ids_of(teacher.tokenizer, [""], preset)).last_hidden_state.float()

    def take(step: int) -> float:
        latents, captions, _ = pool.batch(preset.lcd_batch)
        average.copy_to(shadow)
        with autocast(preset):
            with torch.no_grad():
                embeds = teacher.text_encoder(
                    ids_of(teacher.tokenizer, captions, preset)
                ).last_hidden_state.float()
            loss = distillation_loss(*fast, embeds, blank, latents.to(preset.device), generator)
        loss.backward()
        optimiser.step(cosine(step, preset.lcd_steps, preset.lcd_rate, warmup=30))
        average.update()
        return float(loss.detach())

    def show(step: int) -> None:
        average.copy_to(shadow)
        look(Teacher(teacher.tokenizer, teacher.text_encoder, shadow), step)

    loop.run(take, show)
    average.copy_to(shadow)
    return Teacher(teacher.tokenizer, teacher.text_encoder, shadow)


def polish_decoder(preset: Preset, folder: Path, ae: AutoencoderTiny) -> AutoencoderTiny:
    """Stage 4: the decoder alone, so that the latents the UNet has learned stay what they are."""
    if not preset.polish_steps:
        return ae
    ae.decoder.requires_grad_(True)
    optimiser, average = Pair([ae.decoder], preset.ae_rate / 2), Average(ae.decoder, 0.998)
    rng, generator = dice(preset, 5)
    parts = {"decoder": ae.decoder, "opt": optimiser, "ema": average}
    loop = Loop(folder, "polish", preset.polish_steps, parts, rng, generator)
    fresh = lessons(preset, rng, generator)

    def take(step: int) -> float:
        pictures = next(fresh).to(preset.device)
        if step % 8:
            pictures = random_crops(preset, pictures, generator)
        else:
            pictures = pictures[:: preset.ae_crops * 4].contiguous(memory_format=torch.channels_last)
        with autocast(preset):
            loss, squared = reconstruction_loss(ae, pictures, generator)
        loss.backward()
        optimiser.step(cosine(step, preset.polish_steps, preset.ae_rate / 2))
        average.update()
        return float(squared)

    loop.run(take)
    average.swap()
    return ae.eval().requires_grad_(False)
