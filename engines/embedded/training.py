"""The recipe end to end: codec, latent pool, text, teacher, student, polish. Every stage resumes."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import Progress
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from engines.embedded.autoencoder import reconstruction_loss, tiny_autoencoder
from engines.embedded.diffusion import diffusion_loss, drop_captions, text_encoder_for, unet_for
from engines.embedded.distill import distillation_loss
from engines.embedded.lessons import Lessons, training_pictures
from engines.embedded.loop import Loop, Part
from engines.embedded.optimiser import Average, Pair, cosine
from engines.embedded.pool import BLOCK, Pool, tokenizer
from engines.embedded.presets import Preset
from engines.embedded.reading import Reader, reading_loss
from engines.embedded.recorded import Recorded
from engines.embedded.together import rank
from engines.embedded.vocabulary import token_ids

Look = Callable[["Teacher", int], None]
SHARES = {"autoencoder": 0.15, "text": 0.05, "teacher": 0.63, "student": 0.10, "polish": 0.05, "export": 0.02}
"""Of the clock, where a run has only so much of it."""
KEPT = 0.6
"""Of what a student that goes on from an earlier one began with: between the two, pictures of four and eight
steps follow their captions better than at either end. Source: Wortsman et al. 2022 (arXiv 2203.05482)."""


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


@dataclass
class Teacher:
    """What stage 2 leaves behind. The weights are the averaged ones."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel


def new_autoencoder(preset: Preset) -> AutoencoderTiny:
    torch.manual_seed(preset.seed)
    return tiny_autoencoder(preset.ae_width, preset.ae_encoder, preset.ae_decoder).to(preset.device)


def new_teacher(preset: Preset) -> Teacher:
    torch.manual_seed(preset.seed + 2)
    words = tokenizer(preset.max_tokens)
    text_encoder = text_encoder_for(words, preset.text_width, preset.text_layers)
    unet = unet_for(preset.channels, preset.text_width, preset.size // 8)
    if preset.device == "cpu":
        # Explicit products: the fused CPU attention is slower backwards at 64 tokens (29 ms against 5).
        unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    return Teacher(words, text_encoder.to(preset.device), unet.to(preset.device))


def new_student(teacher: Teacher, start: Path | None = None) -> UNet2DConditionModel:
    """The teacher, ready to be told a guidance; and what the student of an earlier run `start` had learned
    beyond its own teacher: most of a distillation carries over."""
    student = copy.deepcopy(teacher.unet).requires_grad_(True)
    if start is None:
        torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
        return student
    before, after = (averaged(start / f"{stage}.pt") for stage in ("teacher", "student"))
    with torch.no_grad():
        for p, old, new in zip(student.parameters(), before, after, strict=False):
            p += (new - old).to(p.device)  # the UNet comes first in a teacher's average
    return student


@torch.no_grad()
def blend(module: UNet2DConditionModel, other: UNet2DConditionModel, share: float) -> None:
    """`module` becomes so much of itself and for the rest the other one."""
    for p, q in zip(module.parameters(), other.parameters(), strict=True):
        p.lerp_(q, 1 - share)


def averaged(checkpoint: Path) -> list[Tensor]:
    """The averaged parameters of a stage."""
    values: list[Tensor] = torch.load(checkpoint, weights_only=False, map_location="cpu")["parts"]["ema"][
        "values"
    ]
    return values


def compiled(preset: Preset, model: Any) -> Any:
    return torch.compile(model, dynamic=False) if preset.compile else model


def dice(preset: Preset, stage: int) -> tuple[Random, Generator]:
    """The two sources of chance of one stage; the second draws on the preset's device."""
    seed = preset.seed + stage + 1000 * rank()
    return Random(seed), Generator(preset.device).manual_seed(seed)


def ids_of(preset: Preset, captions: list[str]) -> Tensor:
    return torch.tensor(token_ids(tokenizer(preset.max_tokens), captions), device=preset.device)


def fill(slots: tuple[Tensor, ...], batch: tuple[Tensor, ...]) -> None:
    """A new batch in the place of the old one."""
    for slot, fresh in zip(slots, batch, strict=True):
        slot.copy_(fresh)


def embeds_of(text_encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """[B, L, D] float32."""
    with torch.no_grad():
        hidden: Tensor = text_encoder(ids).last_hidden_state.float()
    return hidden


def random_crops(preset: Preset, pictures: Tensor, rng: Random) -> Tensor:
    """`ae_crops` windows of each picture: [ae_batch, 3, ae_crop, ae_crop]."""
    return torch.cat([random_crop(pictures, preset.ae_crop, rng) for _ in range(preset.ae_crops)])


def random_crop(pictures: Tensor, size: int, rng: Random) -> Tensor:
    """The same random window, aligned to latent cells, of every picture of the batch."""
    room = (pictures.shape[-1] - size) // 8
    top, left = (8 * rng.randint(0, room) for _ in range(2))
    window = pictures[..., top : top + size, left : left + size]
    return window.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def latent_std(ae: AutoencoderTiny, preset: Preset) -> float:
    """Standard deviation of the latents of 96 seeded lessons."""
    rng, generator = Random(preset.seed + 1), Generator().manual_seed(preset.seed + 1)
    pictures = training_pictures(96 if preset.size > 64 else 32, preset.size, rng, generator)
    parts = [ae.encoder(part.to(preset.device)).float() for part in pictures.split(32)]
    return float(torch.cat(parts).std())


class Training:
    """One run of the recipe in `folder`; a run started again continues."""

    def __init__(
        self,
        preset: Preset,
        folder: Path,
        seconds: float | None = None,
        start: Path | None = None,
    ) -> None:
        """seconds: of the clock, for everything; None: as many as the preset's steps take.
        start: an earlier run's folder or exported weights, of the preset's sizes. Its codec is kept. Of a run
        the teacher is trained on, and the student after it; weights have but one UNet, and that serves as the
        teacher."""
        self.preset, self.folder, self.start = preset, folder, start
        self.earlier: Path | None = None
        if start is not None and (start / "student.pt").exists():
            self.start, self.earlier = start / "weights", start
        self.skipped = ("autoencoder", "text", "polish") if start else ()
        self._until = None if seconds is None else time.monotonic() + seconds
        share = 0 if start else preset.workers // 3
        self.lessons = Lessons(
            preset.ae_batch // preset.ae_crops, preset.size, *dice(preset, 0), preset.device, share
        )
        self.pool = Pool(
            preset.size,
            preset.max_tokens,
            *dice(preset, 7),
            preset.device,
            preset.workers - share,
            preset.shares,
        )

    def run(self, look: Callable[[str, AutoencoderTiny], Look]) -> tuple[Teacher, AutoencoderTiny]:
        """All stages. `look(stage, codec)` makes what is called with the averaged weights in place after each
        checkpoint, with the model and the step."""
        if self.preset.workers:
            self.pool.feed(self.preset.most)  # while the codec learns, scenes for the rest are drawn
        try:
            ae = self.autoencoder() if self.start is None else self.codec(self.start)
            self.gather(ae)
            teacher = self.teacher(look("teacher", ae))
            student = self.student(teacher, look("student", ae))
            return student, ae if self.start else self.polish(ae)
        finally:
            self.lessons.close()
            self.pool.close()

    def _loop(self, name: str, steps: int, parts: dict[str, Part], rng: Random, generator: Generator) -> Loop:
        budget = None
        if self._until is not None:
            ahead = [stage for stage in list(SHARES)[list(SHARES).index(name) :] if stage not in self.skipped]
            left = max(0.0, self._until - time.monotonic())
            budget = left * SHARES[name] / sum(SHARES[stage] for stage in ahead)
        return Loop(self.folder, name, steps, parts, rng, generator, budget_s=budget)

    def _learning(
        self, loss: Callable[[], Tensor], optimiser: Pair, average: Average, generator: Generator
    ) -> Recorded:
        """One step on whatever is in the slots that `loss` reads."""

        def work() -> Tensor:
            with autocast(self.preset):
                found = loss()
            found.backward()
            optimiser.step()
            average.update()
            return found

        return Recorded(work, generator, self.quiet)

    def autoencoder(self) -> AutoencoderTiny:
        """Stage 0. The averaged codec with `scaling_factor` set to 1 / std of the latents."""
        preset, lessons = self.preset, self.lessons
        ae = new_autoencoder(preset)
        optimiser, average = Pair([ae]), Average(ae, 0.998)
        rng, generator = dice(preset, 0)
        parts: dict[str, Part] = {"ae": ae, "opt": optimiser, "ema": average}
        loop = self._loop("autoencoder", preset.ae_steps, parts, rng, generator)
        lessons.use(rng, generator)

        learn = self.codec_steps(ae, optimiser, average, generator)

        def take(step: int, progress: float) -> Tensor:
            optimiser.at(cosine(step, progress, preset.ae_rate, preset.ae_steps))
            # The last tenth sees whole pictures: crops over-represent the zero padding at the border.
            return learn(lessons.batch(), progress > 0.9, rng)

        loop.run(take)
        average.swap()
        ae.register_to_config(scaling_factor=round(1 / latent_std(ae, preset), 5))
        return ae.eval().requires_grad_(False)

    def codec(self, weights: Path) -> AutoencoderTiny:
        """As exported."""
        ae: AutoencoderTiny = AutoencoderTiny.from_pretrained(weights / "vae", torch_dtype=torch.float32)
        return ae.to(self.preset.device).eval().requires_grad_(False)

    def codec_steps(
        self, ae: AutoencoderTiny, optimiser: Pair, average: Average, generator: Generator
    ) -> Callable[[Tensor, bool, Random], Tensor]:
        """What learns from a batch of lessons, as crops or a few of them whole; returns the squared error."""
        preset = self.preset

        def work(pictures: Tensor) -> Tensor:
            with autocast(preset):
                loss, squared = reconstruction_loss(ae, pictures, generator)
            loss.backward()
            optimiser.step()
            average.update()
            return squared

        recorded: dict[bool, Recorded] = {}
        slots: dict[bool, Tensor] = {}

        def learn(pictures: Tensor, as_whole: bool, rng: Random) -> Tensor:
            average.tick()
            if as_whole:
                given = pictures[:: preset.ae_crops * 3].contiguous(memory_format=torch.channels_last)
            else:
                given = random_crops(preset, pictures, rng)
            if as_whole not in recorded:
                slot = slots[as_whole] = torch.empty_like(given)
                recorded[as_whole] = Recorded(lambda: work(slot), generator, self.quiet)
            slots[as_whole].copy_(given)
            return recorded[as_whole]()

        return learn

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No painter's work reaches the device in here."""
        with self.lessons.quiet(), self.pool.quiet():
            yield

    def gather(self, ae: AutoencoderTiny) -> None:
        """The first scenes and their latents, kept in pool.pt."""
        pool, kept = self.pool, self.folder / "pool.pt"
        pool.ae = ae
        if kept.exists():
            pool.load_state_dict(torch.load(kept, weights_only=False))
        with Progress() as progress:
            bar = progress.add_task("drawing scenes", total=self.preset.pool)
            pool.wait(self.preset.pool, lambda count: progress.update(bar, completed=count))
        pool.encode()
        if not kept.exists():
            torch.save(pool.state_dict(), kept)

    def text(self, teacher: Teacher) -> None:
        """Stage 1: the teacher's text encoder, in place; averaged weights."""
        preset, pool = self.preset, self.pool
        torch.manual_seed(preset.seed + 6)
        reader = Reader(preset.text_width, preset.size // 8).to(preset.device)
        modules = torch.nn.ModuleList([teacher.text_encoder, reader])
        optimiser, average = Pair(modules), Average(modules, 0.998)
        rng, generator = dice(preset, 6)
        parts: dict[str, Part] = {"modules": modules, "opt": optimiser, "ema": average}
        loop = self._loop("text", preset.read_steps, parts, rng, generator)
        pool.use(rng, generator)

        slots = pool.batch(preset.read_batch)

        def loss() -> Tensor:
            latents, ids, labels = slots
            return reading_loss(teacher.text_encoder, reader, ids, latents, labels)

        learn = self._learning(loss, optimiser, average, generator)

        def take(step: int, progress: float) -> Tensor:
            optimiser.at(cosine(step, progress, preset.read_rate, preset.read_steps))
            average.tick()
            fill(slots, pool.batch(preset.read_batch))
            return learn()

        loop.run(take)
        average.swap()

    def teacher(self, look: Look) -> Teacher:
        """Stage 2."""
        preset, pool = self.preset, self.pool
        teacher = new_teacher(preset)
        if self.start is None:
            self.text(teacher)
        else:
            for module, name in ((teacher.unet, "unet"), (teacher.text_encoder, "text_encoder")):
                module.load_state_dict(type(module).from_pretrained(self.start / name).state_dict())
        modules = torch.nn.ModuleList([teacher.unet, teacher.text_encoder])
        if self.earlier is not None:
            with torch.no_grad():
                for p, value in zip(modules.parameters(), averaged(self.earlier / "teacher.pt"), strict=True):
                    p.copy_(value)
        # The guidance input is zero until distillation, and conditioning on it costs nothing here.
        optimiser, average = Pair(modules), Average(modules, preset.ema)
        rng, generator = dice(preset, 3)
        pool.use(rng, generator)
        parts: dict[str, Part] = {"modules": modules, "opt": optimiser, "ema": average}
        if not preset.workers:
            parts["pool"] = pool
        loop = self._loop("teacher", preset.steps, parts, rng, generator)
        forward, blank = compiled(preset, teacher.unet), ids_of(preset, [""])[0]
        slots = pool.batch(preset.batch)

        def loss() -> Tensor:
            latents, ids, labels = slots
            ids = drop_captions(ids, blank, generator)
            return diffusion_loss(forward, teacher.text_encoder, latents, ids, labels, generator)

        learn = self._learning(loss, optimiser, average, generator)

        def take(step: int, progress: float) -> Tensor:
            if not preset.workers and step * preset.fresh % BLOCK < preset.fresh:
                pool.grow()
            optimiser.at(cosine(step, progress, preset.rate, preset.steps))
            average.tick()
            fill(slots, pool.batch(preset.batch))
            return learn()

        def show(step: int) -> None:
            average.swap()
            look(teacher, step)
            average.swap()

        loop.run(take, show)
        average.swap()
        modules.eval().requires_grad_(False)
        return teacher

    def student(self, teacher: Teacher, look: Look) -> Teacher:
        """Stage 3. The teacher's text encoder with the student's averaged UNet."""
        preset, pool = self.preset, self.pool
        student = new_student(teacher, self.earlier)
        optimiser, average = Pair([student]), Average(student, preset.lcd_ema)
        shadow = copy.deepcopy(student).requires_grad_(False)
        rng, generator = dice(preset, 4)
        parts: dict[str, Part] = {"unet": student, "opt": optimiser, "ema": average}
        loop = self._loop("student", preset.lcd_steps, parts, rng, generator)
        pool.use(rng, generator)
        fast = [compiled(preset, model) for model in (student, shadow, teacher.unet)]
        blank = embeds_of(teacher.text_encoder, ids_of(preset, [""]))
        slots = pool.batch(preset.lcd_batch)

        def loss() -> Tensor:
            latents, ids, labels = slots
            average.copy_to(shadow)
            embeds = embeds_of(teacher.text_encoder, ids)
            return distillation_loss(*fast, embeds, blank, latents, labels, generator)

        learn = self._learning(loss, optimiser, average, generator)

        def take(step: int, progress: float) -> Tensor:
            optimiser.at(cosine(step, progress, preset.lcd_rate, preset.lcd_steps, 30))
            average.tick()
            fill(slots, pool.batch(preset.lcd_batch))
            return learn()

        def show(step: int) -> None:
            average.copy_to(shadow)
            look(Teacher(teacher.tokenizer, teacher.text_encoder, shadow), step)

        loop.run(take, show)
        average.copy_to(shadow)
        if self.earlier is not None:
            blend(shadow, new_student(teacher, self.earlier), 1 - KEPT)
        return Teacher(teacher.tokenizer, teacher.text_encoder, shadow)

    def polish(self, ae: AutoencoderTiny) -> AutoencoderTiny:
        """Stage 4: the decoder alone, so that the latents the UNet has learned stay what they are."""
        preset, lessons = self.preset, self.lessons
        if not preset.polish_steps:
            return ae
        ae.decoder.requires_grad_(True)
        optimiser, average = Pair([ae.decoder]), Average(ae.decoder, 0.998)
        rng, generator = dice(preset, 5)
        parts: dict[str, Part] = {"decoder": ae.decoder, "opt": optimiser, "ema": average}
        loop = self._loop("polish", preset.polish_steps, parts, rng, generator)
        lessons.use(rng, generator)

        learn = self.codec_steps(ae, optimiser, average, generator)

        def take(step: int, progress: float) -> Tensor:
            optimiser.at(cosine(step, progress, preset.ae_rate / 2, preset.polish_steps))
            return learn(lessons.batch(), step % 8 == 0, rng)

        loop.run(take)
        average.swap()
        return ae.eval().requires_grad_(False)
