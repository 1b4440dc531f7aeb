"""Latent consistency models in torch: the pipeline that the step loop drives on real weights."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from engines import device as devices
from engines import model as weights
from engines import sampler
from engines.cache import Cache
from engines.denoiser import Denoiser, LcmRow
from engines.hub import Report
from engines.messages import Job, Model
from engines.pipeline import Fault
from engines.pixels import CONTENT_TYPES, Inputs, Pixels, drawn_size, finished, fit, written
from engines.safety import Safety
from engines.text import Text
from engines.vae import Posterior, Vae, to_uint8

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)  # sizes of UNet calls; few, so that each can be compiled or captured
MAX_STEPS = 12
MAX_IMAGES = 8
NO_MEMORY = "the device has no memory for a picture of this size now"


@dataclass
class Lcm:
    """The `Pipeline` of engines/pipeline.py on real weights; options are those of realtime/settings.py."""

    model: str = "embedded"
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1
    max_batch: int = 0
    deterministic: bool = False
    vae: str = "auto"
    cache_bytes: int = 256 * 1024 * 1024
    lora: str = ""  # the LCM-LoRA of a base model; "" = its own or the published one

    models: list[Model] = field(default_factory=list, init=False)
    buckets: tuple[int, ...] = field(default=(), init=False)

    def load(self, progress: Report) -> None:
        """Raises engines.model.Unloadable or ValueError for a model or device that cannot be had."""
        torch.set_num_threads(self.threads)
        self.at, self.precision = devices.choose(self.device, self.dtype)
        progress("import", 0, 1, "diffusers, transformers")
        loaded = weights.load(self.model, self.at, self.precision, self.vae, self.lora, progress)
        self.take(loaded)
        self.warm(progress)

    def take(self, loaded: weights.Weights) -> None:
        """Serve these weights."""
        self.denoiser = Denoiser(loaded.unet, loaded.scheduler)
        # A frame of a live session brings a new picture, seldom a new prompt: pictures get the most.
        self.text = Text(loaded.tokenizer, loaded.text_encoder, Cache(self.cache_bytes // 4))
        self.pictures: Cache[Inputs] = Cache(self.cache_bytes // 2)
        self.posteriors: Cache[Posterior] = Cache(self.cache_bytes // 4)
        self.codec = Vae(loaded.vae, loaded.scale)
        self.glance = self.codec if loaded.vae_tiny is None else Vae(loaded.vae_tiny, loaded.scale)
        self.safety = None
        if loaded.safety_checker is not None:
            self.safety = Safety(loaded.safety_checker, loaded.feature_extractor)
        most = self.max_batch or devices.slots(self.at)
        if loaded.guidance == "cfg":
            most = max(most, 2)
        fitting = tuple(bucket for bucket in BUCKETS if bucket <= most)
        self.buckets = fitting[-1:] if self.deterministic else fitting
        self.models = [
            Model(
                name=loaded.name,
                kind="sdv1-5",
                native=loaded.native,
                smallest=loaded.smallest,
                largest=loaded.largest,
                multiple=loaded.scale,
                device=self.at.type,
                dtype=str(self.precision).removeprefix("torch."),
                guidance=loaded.guidance,
                safety=self.safety is not None,
                features=["image", "mask"],
            )
        ]

    def warm(self, progress: Report) -> None:
        """A step of every bucket and a decode, so that the first visitor does not pay for first calls."""
        side = self.models[0].native
        self.codec.encode(np.zeros((side, side, 3), np.uint8))
        job = Job(prompt="", seed=0, width=side, height=side, steps=1)
        for done, bucket in enumerate(self.buckets):
            progress("warm", done, len(self.buckets), f"{bucket} at once")
            rows = self.rows(job, None)
            self.step(rows, bucket)
            self.decode(rows)
        progress("warm", len(self.buckets), len(self.buckets), "")

    # ---- one job ----

    def lane(self, job: Job) -> tuple[str, int, int]:
        model = self.models[0]
        if job.model not in ("", model.name):
            raise Fault("unsupported", f"model {job.model} is not loaded here, {model.name} is", "model")
        for field_, value, least, most in (
            ("num_inference_steps", job.steps, 1, MAX_STEPS),
            ("num_images", job.count, 1, MAX_IMAGES),
            ("image_size", min(job.width, job.height), 1, math.inf),
            ("strength", job.strength, 0, 1),
            ("guidance_scale", job.guidance, 0, 100),
        ):
            if not least <= value <= most:
                raise Fault("invalid", f"{value} is outside {least}..{most}", field_)
        if job.format not in CONTENT_TYPES:
            raise Fault(
                "unsupported", f"{job.format} is not written; {', '.join(CONTENT_TYPES)} are", "format"
            )
        if job.mask is not None and job.image is None:
            raise Fault("invalid", "a mask without an image has nothing to keep", "mask_url")
        width, height = self._size(job)
        return f"{model.name}:{width}x{height}", job.steps, 2 if self.denoiser.guides(job.guidance) else 1

    def decode_inputs(self, job: Job) -> Inputs | None:
        if job.image is None:
            return None
        drawn, answer = self._size(job), (job.width, job.height)
        composite = job.mask is not None and job.mask_only
        picture_key = (_digest(job.image), drawn, answer)
        key = (*picture_key, _digest(job.mask) if job.mask is not None else "", composite)
        found = self.pictures.get(key)
        if found is None:
            found = fit(job.image, job.mask, drawn, answer, picture_key, composite)
            self.pictures.put(key, found, found.nbytes)
        return found

    def rows(self, job: Job, inputs: Inputs | None) -> list[LcmRow]:
        lane, steps, slots = self.lane(job)
        timings: dict[str, float] = {"text": 0.0, "vae_encode": 0.0, "vae": 0.0}
        with self._refusing():
            embedding = self.text.embed(job.prompt, timings)
            negative = self.text.embed(job.negative_prompt, timings) if slots == 2 else None
            posterior = self._encoded(inputs, timings) if inputs is not None else None
            guidance = self.denoiser.guidance(job.guidance)
            rows = []
            for index in range(job.count):
                start, plan, clean = self._plan(job, job.seed + index, inputs, posterior)
                rows.append(
                    LcmRow(
                        lane=lane,
                        steps=steps,
                        slots=slots,
                        job=job,
                        size=self._size(job),
                        inputs=inputs,
                        latents=start.to(self.at),
                        coefficients=plan.coefficients.to(self.at).unbind(),
                        noise=plan.noise.to(self.at).unbind(),
                        still=plan.still.to(self.at).unbind(),
                        mask=plan.mask.to(self.at),
                        embedding=embedding,
                        negative=negative,
                        guidance=guidance,
                        timings=dict(timings),
                        clean=None if clean is None else clean.to(self.at),
                    )
                )
        return rows

    def _plan(
        self, job: Job, seed: int, inputs: Inputs | None, posterior: Posterior | None
    ) -> tuple[Tensor, sampler.Plan, Tensor | None]:
        """(start [C, h, w], plan, what a mask keeps [C, h, w]).

        All draws come from one CPU generator, in diffusers' order.
        """
        table, generator = self.denoiser.table, Generator().manual_seed(seed)
        width, height = (side // self.codec.scale for side in self._size(job))
        shape = (1, self.codec.channels, height, width)

        def draw() -> Tensor:
            return torch.randn(shape, generator=generator)

        strength = job.strength if posterior is not None else 1.0
        schedule = sampler.timesteps(job.steps, strength, self.denoiser.original_steps)
        clean = None if posterior is None else self.codec.sample(posterior, generator)
        noise = [draw()]
        mask = None
        if inputs is not None and inputs.mask is not None:
            if self.codec.samples:
                draw()  # StableDiffusionInpaintPipeline samples the masked picture too, if for nothing
            whole = torch.from_numpy(inputs.mask)[None, None].float()
            if job.mask_only:
                # The answer is cut to the very mask, so a latent touched by it may be drawn whole.
                mask = torch.nn.functional.adaptive_max_pool2d(whole, (height, width))[0]
            else:
                # As diffusers: a stroke between two samples is not seen.
                mask = torch.nn.functional.interpolate(whole, size=(height, width))[0]
        noise += [draw() for _ in schedule[1:]]
        drawn = torch.cat(noise)
        start = drawn[0]
        if clean is not None and not (mask is not None and job.strength >= 1.0):
            start = sampler.noised(clean, start, table.alpha[schedule[0]], table.sigma[schedule[0]])
        kept = clean if mask is not None else None
        return start, sampler.plan(table, schedule, drawn, kept, mask), kept

    def _encoded(self, inputs: Inputs, timings: dict[str, float]) -> Posterior:
        began = time.perf_counter()
        posterior = self.posteriors.get(inputs.key)
        if posterior is None:
            posterior = self.codec.encode(inputs.picture)
            self.posteriors.put(inputs.key, posterior, posterior.nbytes)
        timings["vae_encode"] += time.perf_counter() - began
        return posterior

    # ---- many rows ----

    def step(self, rows: Sequence[LcmRow], bucket: int) -> None:
        failed = self._step(rows, bucket)
        devices.synchronize(self.at)
        if failed:
            raise Fault("out_of_memory", NO_MEMORY, rows=failed)

    def _step(self, rows: Sequence[LcmRow], bucket: int) -> list[LcmRow]:
        """The rows that did not fit. A call that does not fit is halved until a single row does not."""
        try:
            self.denoiser.advance(rows, bucket)
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
        else:
            return []
        devices.release(self.at)
        if len(rows) == 1:
            return list(rows)
        half = len(rows) // 2
        return [row for part in (rows[:half], rows[half:]) for row in self._step(part, 0)]

    def decode(self, rows: Sequence[LcmRow]) -> list[Pixels | Fault]:
        # A batch saves a CPU 6 % here, and a picture decoded alone is the same whoever is near.
        alone = self.at.type == "cpu" or self.deterministic
        groups = [[row] for row in rows] if alone else [list(rows)]
        return [result for group in groups for result in self._decode(group)]

    def _decode(self, rows: list[LcmRow]) -> list[Pixels | Fault]:
        began = time.perf_counter()
        latents = torch.stack([row.latents for row in rows])
        try:
            decoded = self.codec.decode(latents)
            sound = (latents.isfinite().flatten(1).all(1) & decoded.isfinite().flatten(1).all(1)).tolist()
            pictures = list(to_uint8(decoded))
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
            devices.release(self.at)
            if len(rows) > 1:
                return [result for row in rows for result in self._decode([row])]
            return [Fault("out_of_memory", NO_MEMORY)]
        for row in rows:
            row.timings["vae"] = time.perf_counter() - began
        self._check(rows, pictures)
        broken = Fault("internal", "the model made no picture of this: its numbers are not finite")
        return [picture if good else broken for picture, good in zip(pictures, sound, strict=True)]

    def _check(self, rows: list[LcmRow], pictures: list[Pixels]) -> None:
        """Blacken in place what the safety checker flags."""
        asked = [at for at, row in enumerate(rows) if row.job.safety]
        if self.safety is None or not asked:
            return
        began = time.perf_counter()
        flags = self.safety.unsafe([pictures[at] for at in asked])
        for at, flag in zip(asked, flags, strict=True):
            rows[at].unsafe = flag
            rows[at].timings["safety"] = time.perf_counter() - began
            if flag:
                pictures[at][:] = 0

    def peek(self, row: LcmRow) -> Tensor:
        """[C, h, w]: the estimate of the step just done."""
        at = row.position - 1
        with torch.inference_mode():
            return sampler.estimate(
                row.latents, row.coefficients[at], row.noise[at], row.still[at], row.mask, row.clean
            )

    def preview(self, row: LcmRow, peeked: Tensor) -> Pixels:
        try:
            pixels = to_uint8(self.glance.decode(peeked[None]))[0]
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
            raise Fault("out_of_memory", NO_MEMORY) from error
        if self.safety is not None and row.job.safety and self.safety.unsafe([pixels])[0]:
            pixels[:] = 0
        return pixels

    def encode(self, row: LcmRow, pixels: Pixels, job: Job) -> tuple[bytes, bool]:
        kept = None if row.unsafe else row.inputs
        picture = finished(pixels, (job.width, job.height), kept)
        return written(picture, job.format), row.unsafe

    def drawn(self, row: LcmRow) -> tuple[int, int]:
        return row.size

    def stats(self) -> dict[str, float]:
        return {
            **self.text.cache.stats("text"),
            **self.pictures.stats("pictures"),
            **self.posteriors.stats("posteriors"),
        }

    def _size(self, job: Job) -> tuple[int, int]:
        model = self.models[0]
        sides = model.native, model.smallest, model.largest, model.multiple
        return drawn_size(job.width, job.height, *sides)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Running out of memory in here refuses the job and nothing else."""
        try:
            yield
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
            devices.release(self.at)
            raise Fault("out_of_memory", NO_MEMORY) from error


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
