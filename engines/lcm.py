"""Latent consistency models in torch: the pipeline that the step loop drives on real weights."""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from msgspec import structs
from torch import Generator, Tensor

from engines import device as devices
from engines import model as weights
from engines import sampler
from engines.backends import make
from engines.backends.graphs import Cuda, Graphs
from engines.backends.store import Store
from engines.cache import Cache
from engines.decoder import Decoder
from engines.denoiser import Denoiser, LcmRow
from engines.hub import Report
from engines.messages import Job, Model
from engines.outlet import DECODE_GROUP
from engines.pipeline import Fault, Unloadable
from engines.pixels import CONTENT_TYPES, Inputs, Pixels, drawn_size, finished, fit, written
from engines.replays import Replays
from engines.safety import Safety
from engines.streams import Lap, Mark, Streams
from engines.text import Embedding, Text
from engines.vae import Posterior, Vae

BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)  # sizes of UNet calls; few, so that each can be compiled or captured
MAX_STEPS = 12
MAX_IMAGES = 8
ROOM = 0.25  # of a device's memory is left to steps and decodes
NO_ROOM = "the device has no memory for this model; give another --model, --dtype or --device"
NO_MEMORY = "the device has no memory for a picture of this size now"


@dataclass(slots=True)
class Finished:
    """What is kept of a row when all is done: enough to decode it once more. Fields as in `LcmRow`."""

    lane: str
    steps: int
    slots: int
    job: Job
    size: tuple[int, int]
    inputs: Inputs | None
    latents: Tensor
    warnings: tuple[str, ...]
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def position(self) -> int:
        return self.steps


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
    backend: str = "auto"  # one of engines.backends.NAMES
    mode: str = "default"  # of the compiler: one of engines.backends.code.MODES
    graphs: bool | None = None  # record CUDA graphs; None: where the back end bears it
    builds: Path | None = None  # folder that keeps builds; None: none is kept
    background: int = 1  # builds at a time beside traffic; if builds are kept
    search: bool = False  # cuDNN times its algorithms at the start, for the model's own size
    quick: bool = False  # until something is built whole, compile its blocks before the first picture
    lora: str = ""  # the LCM-LoRA of a base model; "" = its own or the published one

    models: list[Model] = field(default_factory=list, init=False)
    buckets: tuple[int, ...] = field(default=(), init=False)
    overlaps: bool = field(default=False, init=False)
    budget: int = field(default=0, init=False)
    _short: bool = field(default=False, init=False)  # memory was: the back end is to give some back

    def load(self, progress: Report) -> None:
        """Read and warm. Raises Unloadable or ValueError for a model or device that cannot be had, or has no
        memory for it."""
        self.read(progress)
        self.warm(progress)

    def read(self, progress: Report) -> None:
        torch.set_num_threads(self.threads)
        self.at, self.precision = devices.choose(self.device, self.dtype)
        progress("import", 0, 1, "diffusers, transformers")
        with _fitting():
            loaded = weights.load(self.model, self.at, self.precision, self.vae, self.lora, progress)
            self.take(loaded)

    def take(self, loaded: weights.Weights) -> None:
        """Serve these weights."""
        self.streams = Streams(self.at)
        self.overlaps = self.streams.overlap
        self.budget = self.cache_bytes // 8
        self.streams.lead()
        self.denoiser = Denoiser(loaded.unet, loaded.scheduler, loaded.controls, self.deterministic)
        store = Store(self.builds) if self.builds is not None else None
        self.denoiser.backend = make(
            self.backend,
            self.denoiser.program,
            graphs=self.graphs,
            mode=self.mode,
            store=store,
            # Code that comes in while it serves would change the bytes of a seed's picture.
            background=self.background if store is not None and not self.deterministic else 0,
            quick=self.quick,
        )
        # A frame of a live session brings a new picture, seldom a new prompt: pictures get the most.
        self.text = Text(loaded.encoders, Cache(self.cache_bytes // 4), loaded.blank, self._recorder())
        self.pictures: Cache[Inputs] = Cache(self.cache_bytes // 2)
        self.posteriors: Cache[Posterior] = Cache(self.cache_bytes // 4)
        self.codec = self.tiny = Vae(loaded.vae, loaded.scale, self._recorder())
        if loaded.vae_tiny is not None:
            self.tiny = Vae(loaded.vae_tiny, loaded.scale, self._recorder())
        self.decoders = {codec: Decoder(codec, self._recorder()) for codec in (self.codec, self.tiny)}
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
                kind=loaded.kind,
                native=loaded.native,
                smallest=loaded.smallest,
                largest=loaded.largest,
                multiple=loaded.scale,
                device=self.at.type,
                dtype=str(self.precision).removeprefix("torch."),
                guidance=loaded.guidance,
                safety=self.safety is not None,
                features=["image", "mask", *self._vaes()],
            )
        ]

    def _recorder(self) -> Cuda | None:
        """Where steps are recorded, one more: each has a line and memory of its own."""
        return Cuda(self.at) if isinstance(self.denoiser.backend, Graphs) else None

    def _replays(self) -> Iterator[Replays]:
        """What is replayed but steps."""
        yield from self.decoders.values()
        yield from (codec.encodes for codec in self.decoders)
        yield self.text.prompts

    def warm(self, progress: Report) -> None:
        """A step of every bucket and a decode, so that the first visitor does not pay for first calls."""
        if self.at.type == "cuda":
            # What a convolution runs with first, searched or not, its thread keeps for that size. So the
            # search ends here: later sizes are not searched for while somebody waits.
            torch.backends.cudnn.benchmark = self.search
        try:
            with _fitting():
                self._warm(progress)
        finally:
            torch.backends.cudnn.benchmark = False

    def _warm(self, progress: Report) -> None:
        side = self.models[0].native
        self._rehearse(side)
        job = Job(prompt="", seed=0, width=side, height=side, steps=1)
        for done, bucket in enumerate(self.buckets):
            progress("warm", done, len(self.buckets), f"{bucket} at once")
            rows = self.rows(job, None)
            try:
                self.denoiser.warm(rows, bucket, build=False)
                self.step(rows, bucket)
            except (Fault, RuntimeError) as error:
                full = isinstance(error, Fault) or devices.is_out_of_memory(error)
                if not full or not done:
                    raise
                self._relieve()
                self.buckets = self.buckets[:done]  # the device has no memory for calls of this size
                break
            self.decode(rows)
        warm_ups = self.decoders[self.tiny].warm_ups
        rows = self.rows(structs.replace(job, vae="tiny"), None)
        for count in range(1, (DECODE_GROUP if warm_ups else 1) + 1):  # as the outlet brings them
            for _ in range(warm_ups + 1):
                self.decode(rows * count)
        progress("warm", len(self.buckets), len(self.buckets), "")
        self._adopt(progress)

    def _rehearse(self, side: int) -> None:
        """Of pictures of this side, and of prompts, what comes before the steps: so often that the next call
        is replayed, on whatever thread, and nothing of it is recorded beside traffic."""
        picture = np.zeros((side, side, 3), np.uint8)
        with self.streams.entering():
            for codec in self.decoders:
                for _ in range(codec.encodes.warm_ups + 1):
                    codec.encode(picture)
            for _ in range(self.text.prompts.warm_ups):  # and once more for the first row
                self.text.warm()

    def _adopt(self, progress: Report) -> None:
        """What was built for other sizes: later nobody would look for it. While there is room: TensorRT's
        engines hold the weights once more each."""
        kept = self.denoiser.backend.kept(self.buckets)
        for done, shape in enumerate(kept):
            if devices.room(self.at) < ROOM:
                break
            progress("warm", done, len(kept), str(shape))
            try:
                self.denoiser.backend.warm(shape, build=False)
            except RuntimeError as error:
                if not devices.is_out_of_memory(error):
                    raise
                self._relieve()
                break

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
        if self.overlaps:  # else it costs the steps nothing less here, and may be in vain
            with self._refusing():
                found = replace(found, encoded=self._encoded(job, found))
        return found

    def knows(self, job: Job) -> bool:
        known = self.text.knows(job.prompt)
        if known and self.denoiser.guides(job.guidance):
            known = self.text.knows(job.negative_prompt, negative=True)
        return known

    def rows(self, job: Job, inputs: Inputs | None) -> list[LcmRow]:
        lane, steps, slots = self.lane(job)
        timings: dict[str, float] = {"text": 0.0, "vae_encode": 0.0, "vae": 0.0}
        # Not in the line of steps, whoever calls: copying to the device would wait for the call that runs.
        with self._refusing(), self.streams.entering():
            embedding = self.text.embed(job.prompt, timings)
            negative = self.text.embed(job.negative_prompt, timings, negative=True) if slots == 2 else None
            began = time.perf_counter()
            self.streams.lent(_words(embedding, negative))  # what was called may not yet be done
            timings["text"] += time.perf_counter() - began
            read = {"prompt": embedding, "negative prompt": negative}
            warnings = tuple(f"the {name} {words.cut}" for name, words in read.items() if words and words.cut)
            posterior = None
            if inputs is not None:
                posterior, timings["vae_encode"] = inputs.encoded or self._encoded(job, inputs)
            guidance = self.denoiser.guidance(job.guidance)
            sizes = self.denoiser.sizes(*self._size(job))
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
                        sizes=sizes,
                        warnings=warnings,
                    )
                )
            self.streams.lent(tensor for row in rows for tensor in _given(row))
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

    def _encoded(self, job: Job, inputs: Inputs) -> tuple[Posterior, float]:
        """(what the VAE says of the picture, seconds). Any thread."""
        began = time.perf_counter()
        codec = self._codec(job)
        key = codec is self.tiny, inputs.key
        posterior = self.posteriors.get(key)
        if posterior is None:
            with self.streams.entering():
                posterior = codec.encode(inputs.picture)
            self.posteriors.put(key, posterior, posterior.nbytes)
        return posterior, time.perf_counter() - began

    def _codec(self, job: Job) -> Vae:
        return self.tiny if job.vae == "tiny" else self.codec

    def _vaes(self) -> list[str]:
        """The autoencoders a job can choose from, as features."""
        return [
            f"{'full' if codec.samples else 'tiny'}-vae" for codec in dict.fromkeys((self.codec, self.tiny))
        ]

    # ---- many rows ----

    def launch(self, rows: Sequence[LcmRow], bucket: int) -> Lap | None:
        lap = self.streams.lap()
        failed = self._step(rows, bucket)
        if failed or lap is None:
            self.streams.beat()
        if failed:
            raise Fault("out_of_memory", NO_MEMORY, rows=failed)
        return None if lap is None else lap.end()

    def step(self, rows: Sequence[LcmRow], bucket: int) -> None:
        """`launch`, and wait for it."""
        if (running := self.launch(rows, bucket)) is not None:
            running.wait()

    def _step(self, rows: Sequence[LcmRow], bucket: int) -> list[LcmRow]:
        """The rows that did not fit. A call that does not fit is halved until a single row does not."""
        if self._short:
            self._relieve()
        try:
            self.denoiser.advance(rows, bucket)
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
        else:
            return []
        self._relieve()
        if len(rows) == 1:
            return list(rows)
        half = len(rows) // 2
        return [row for part in (rows[:half], rows[half:]) for row in self._step(part, 0)]

    def _relieve(self) -> None:
        """On the step loop's thread, which is the back end's."""
        self._short = False
        self.denoiser.backend.relieve()
        for replays in self._replays():
            replays.relieve()
        devices.release(self.at)

    def decode(self, rows: Sequence[LcmRow | Finished]) -> list[Pixels | Fault]:
        # A batch saves a CPU 6 % here, and a picture decoded alone is the same whoever is near.
        alone = self.at.type == "cpu" or self.deterministic
        groups = [[row] for row in rows]
        if not alone:
            groups = [list(group) for _, group in itertools.groupby(rows, lambda row: self._codec(row.job))]
        return [result for group in groups for result in self._decode(group)]

    def _decode(self, rows: list[LcmRow | Finished]) -> list[Pixels | Fault]:
        began = time.perf_counter()
        try:
            pictures, sound = self._developed(self._codec(rows[0].job), [row.latents for row in rows])
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
            self._short = True
            devices.release(self.at)
            if len(rows) > 1:
                return [result for row in rows for result in self._decode([row])]
            return [Fault("out_of_memory", NO_MEMORY)]
        for row in rows:
            row.timings["vae"] = time.perf_counter() - began
        broken = Fault("internal", "the model made no picture of this: its numbers are not finite")
        return [picture if good else broken for picture, good in zip(pictures, sound, strict=True)]

    @torch.inference_mode()
    def keep(self, row: LcmRow) -> tuple[Finished, int]:
        with self._refusing(), self.streams.leaving([row.latents]):
            latents = row.latents.clone()  # not a view of its whole batch
        kept = Finished(row.lane, row.steps, row.slots, row.job, row.size, row.inputs, latents, row.warnings)
        return kept, latents.nbytes + (row.inputs.nbytes if row.inputs else 0)

    def kept(self, kept: Finished, job: Job) -> Finished:
        return replace(kept, job=job, timings={})

    @torch.inference_mode()
    def _developed(
        self, codec: Vae, latents: list[Tensor], after: Mark | None = None
    ) -> tuple[list[Pixels], list[bool]]:
        """Latents [C, h, w] to pictures in host memory, and which came of finite numbers. Any thread."""
        height, width = (side * codec.scale for side in latents[0].shape[-2:])
        with self.streams.leaving(latents, after):
            told = self.streams.home(self.decoders[codec](latents))[0].numpy()
        return [row[:-1].reshape(height, width, 3) for row in told], told[:, -1].astype(bool).tolist()

    def peek(self, row: LcmRow) -> tuple[Tensor, Mark]:
        """[C, h, w]: the estimate of the step just done."""
        at = row.position - 1
        with self._refusing(), torch.inference_mode():
            found = sampler.estimate(
                row.latents, row.coefficients[at], row.noise[at], row.still[at], row.mask, row.clean
            )
        return found, self.streams.mark()

    def preview(self, row: LcmRow, peeked: tuple[Tensor, Mark]) -> Pixels:
        found, mark = peeked
        with self._refusing():
            (pixels,), (sound,) = self._developed(self.tiny, [found], mark)
        if not sound:
            raise Fault("internal", "the model made no picture of this: its numbers are not finite")
        return pixels

    def encode(self, row: LcmRow | Finished, pixels: Pixels, job: Job) -> tuple[bytes, bool]:
        unsafe = job.safety and self._unsafe(row, pixels)
        shown = np.zeros_like(pixels) if unsafe else pixels
        picture = finished(shown, (job.width, job.height), None if unsafe else row.inputs)
        return written(picture, job.format), unsafe

    def _unsafe(self, row: LcmRow | Finished, pixels: Pixels) -> bool:
        """Whether the safety checker, if there is one, flags a picture. Any thread."""
        if self.safety is None:
            return False
        began = time.perf_counter()
        with self._refusing(), self.streams.leaving(()):
            flag = self.safety.unsafe([pixels])[0]
        row.timings["safety"] = time.perf_counter() - began
        return flag

    def drawn(self, row: LcmRow | Finished) -> tuple[int, int]:
        return row.size

    def stats(self) -> dict[str, float]:
        return {
            **self.denoiser.backend.stats(),
            **{name: figure for replays in self._replays() for name, figure in replays.stats().items()},
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
            self._short = True
            devices.release(self.at)
            raise Fault("out_of_memory", NO_MEMORY) from error


@contextmanager
def _fitting() -> Iterator[None]:
    """Running out of memory in here is no matter of a single job."""
    try:
        yield
    except (Fault, RuntimeError) as error:
        short = error.code == "out_of_memory" if isinstance(error, Fault) else devices.is_out_of_memory(error)
        if not short:
            raise
        raise Unloadable(NO_ROOM) from error


def _given(row: LcmRow) -> Iterator[Tensor]:
    """One tensor of each piece of memory that a new row has."""
    yield from (row.latents, row.coefficients[0], row.noise[0], row.still[0], row.mask, row.guidance)
    yield from (tensor for tensor in (row.clean, row.sizes) if tensor is not None)


def _words(*embeddings: Embedding | None) -> Iterator[Tensor]:
    for embedding in embeddings:
        yield from embedding.tensors if embedding else ()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
