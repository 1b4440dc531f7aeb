"""Rows of pictures being denoised, and the one UNet call that advances many of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engines import sampler
from engines.backends import Backend
from engines.backends.eager import Eager
from engines.backends.program import CONTROL, PIXELS, TOKENS, Program, Shape, gather
from engines.control import Control
from engines.messages import Job
from engines.pixels import Inputs
from engines.text import Embedding


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as a prompt: tokens of an adapter's projection, in the UNet's dtype."""

    tokens: Tensor  # [n, D]
    negative: Tensor  # [n, D], what the adapter makes of no picture; read where guidance is classifier-free
    strength: Tensor  # [1, 1]


@dataclass(frozen=True, slots=True)
class Followed:
    """Pictures for ControlNets, one for each that the row's features name, sorted; in the UNet's dtype.

    Where one of them reads tokens (engines/control.py), the row must have them: `shown`.
    """

    pictures: Tensor  # [N, 3, H, W] in 0..1, at the drawn size
    scales: Sequence[Tensor | None]  # of each step, [N]; None: not in this step


@dataclass(eq=False, slots=True)
class LcmRow:
    """One picture. Tensors are on the model's device; float32, but embeddings are in the UNet's dtype."""

    lane: str
    steps: int
    slots: int
    job: Job
    size: tuple[int, int]  # drawn: width, height in pixels
    inputs: Inputs | None
    latents: Tensor  # [C, h, w]
    coefficients: Sequence[Tensor]  # of each step, [6]; these four as in sampler.Plan
    noise: Sequence[Tensor]  # of each step, [C, h, w]
    still: Sequence[Tensor]  # of each step, [C, h, w]
    mask: Tensor  # [1, h, w]
    embedding: Embedding
    negative: Embedding | None  # for a row with classifier-free guidance
    guidance: Tensor  # as Denoiser.guidance makes it
    timings: dict[str, float]
    clean: Tensor | None = None  # [C, h, w], what is kept where mask is 0
    sizes: Tensor | None = None  # [6], as Batch.sizes; SDXL
    warnings: tuple[str, ...] = ()
    features: tuple[str, ...] = ()  # of the lane, beside those of every call; as Shape.features
    shown: Shown | None = None  # these two need a feature of the lane, and rows without them may share it
    followed: Followed | None = None
    position: int = 0

    def join(self, features: Iterable[str]) -> None:
        """Go to the lane whose calls may have these features; the row need not bring what they are for."""
        bare = self.lane.removesuffix("".join(f"+{name}" for name in self.features))
        self.features = tuple(sorted({*self.features, *features}))
        self.lane = "+".join((bare, *self.features))


class Denoiser:
    def __init__(
        self, unet: Any, scheduler: Any, nets: Mapping[str, Control] | None = None, steady: bool = False
    ) -> None:
        """unet: diffusers' UNet2DConditionModel on its device. scheduler: an LCMScheduler, read only.

        nets: ControlNets by name. steady: calls of one lane and size have one shape, needed or not: another
        one may be computed by other kernels, which round otherwise.
        """
        self.steady = steady
        config = scheduler.config
        self.unet = unet
        clip = config.clip_sample_range if config.clip_sample else None
        self.program = Program(unet, config.prediction_type, clip, nets)
        self.backend: Backend = Eager(self.program)
        self.original_steps: int = config.original_inference_steps
        self.table = sampler.tables(scheduler.alphas_cumprod, config.timestep_scaling)

    def guides(self, guidance: float) -> bool:
        """Whether this scale needs an unconditional call beside the conditional one."""
        return self.program.embedding is None and guidance > 1.0

    def guidance(self, scale: float) -> Tensor:
        """What a row carries of its scale, on the device: the UNet's embedding of it, else [1, 1, 1]."""
        size, device = self.program.embedding, self.program.device
        if size is None:
            return torch.full((1, 1, 1), scale, device=device)
        return sampler.guidance_embedding(scale, size).to(device, self.program.dtype)

    def sizes(self, width: int, height: int) -> Tensor | None:
        """What a row of SDXL carries of its size, [6] on the device: nothing cropped, nothing resized.

        Podell et al. 2023 (arXiv 2307.01952), 2.2; the defaults of StableDiffusionXLPipeline.
        """
        if not self.program.xl:
            return None
        told = [height, width, 0, 0, height, width]
        return torch.tensor(told, dtype=torch.float32, device=self.program.device)

    @torch.inference_mode()
    def advance(self, rows: Sequence[LcmRow], slots: int) -> None:
        """One UNet call, in at least `slots` places."""
        shape, columns = self._assembled(rows, slots)
        advanced = self.backend.step(shape, gather(columns, self.backend.slots(shape)))
        for row, latent in zip(rows, advanced.unbind(), strict=False):  # the other places are nobody's
            row.latents = latent
            row.position += 1

    def warm(self, rows: Sequence[LcmRow], slots: int, build: bool) -> None:
        """Have the back end ready for calls like this one; build: as Backend.warm."""
        self.backend.warm(self._assembled(rows, slots)[0], build)

    def _assembled(self, rows: Sequence[LcmRow], slots: int) -> tuple[Shape, dict[str, Any]]:
        """Of a call, the columns of its Batch: rows, unconditional halves of guided rows, padding.

        Padding repeats the first row, which costs nothing to assemble and cannot be NaN alone. It
        influences nobody: no operation of the UNet looks across the batch.
        """
        guided = [row for row in rows if row.negative is not None]
        padding = max(0, slots - len(rows) - len(guided))
        places = [*rows, *guided, *[rows[0]] * padding]
        halves = range(len(rows), len(rows) + len(guided))  # the unconditional ones
        read = [row.negative if at in halves else row.embedding for at, row in enumerate(places)]
        columns: dict[str, Any] = {
            "latents": [row.latents for row in places],
            "coefficients": [row.coefficients[row.position] for row in places],
            "text": [words.text for words in read],
            "guidance": [row.guidance for row in places],
            "noise": [row.noise[row.position] for row in places],
            "still": [row.still[row.position] for row in places],
            "mask": [row.mask for row in places],
        }
        if self.program.embedding is None:
            other = iter(halves)
            pairs = [at if row.negative is None else next(other) for at, row in enumerate(rows)]
            columns["pairs"] = [*pairs, *range(len(rows), len(places))]
        if self.program.xl:
            columns["pooled"] = [words.pooled for words in read]
            columns["sizes"] = [row.sizes for row in places]
        held = [at for at, row in enumerate(places[: halves.stop]) if self.steady or follows(row)]
        shape = self._shape(rows, len(places), len(held))
        if shape.seen:
            columns |= self._shown(places, halves, shape)
        if shape.controls:
            columns |= self._followed(places, held, shape)
        return shape, columns

    def _shape(self, rows: Sequence[LcmRow], places: int, held: int) -> Shape:
        """With those features of the lane that a row of this call has use for; in few sizes of the part that
        goes through ControlNets, so that each can be compiled or captured."""
        shown = self.steady or any(row.shown is not None for row in rows)
        wanted = [
            name
            for name in rows[0].features
            if (name.startswith(TOKENS) and shown) or (name.startswith(CONTROL) and held)
        ]
        controlled = 0
        if any(name.startswith(CONTROL) for name in wanted):
            controlled = places if self.steady else min(1 << (held - 1).bit_length(), places)
        features = tuple(sorted((*self.program.features, *wanted)))
        return Shape(places, *rows[0].latents.shape, *rows[0].embedding.text.shape, features, controlled)

    def _shown(self, places: Sequence[LcmRow], halves: range, shape: Shape) -> dict[str, Any]:
        """Tokens and their strength for every place, zero where no picture is shown."""
        nothing = self._zeros(shape.seen, shape.text)
        blank = Shown(nothing, nothing, self._zeros(1, 1))
        shown = [row.shown or blank for row in places]
        tokens = [one.negative if at in halves else one.tokens for at, one in enumerate(shown)]
        return {"tokens": tokens, "strength": [one.strength for one in shown]}

    def _followed(self, places: Sequence[LcmRow], held: Sequence[int], shape: Shape) -> dict[str, Any]:
        """Pictures of the places `held`, filled up with others that nobody holds; and for every place its
        scales, zero where no picture is followed now."""
        mine = {at: number for number, at in enumerate(held)}
        held = [*held, *[0] * (shape.controlled - len(held))]
        off = self._zeros(len(shape.controls))
        blank = Followed(self._zeros(len(off), 3, shape.height * PIXELS, shape.width * PIXELS), ())
        scales = [row.followed.scales[row.position] if row.followed else None for row in places]
        return {
            "pictures": [(places[at].followed or blank).pictures for at in held],
            "scales": [off if told is None or at not in mine else told for at, told in enumerate(scales)],
            "held": held,
            "holders": [mine.get(at, 0) for at in range(len(places))],
        }

    def _zeros(self, *size: int) -> Tensor:
        return torch.zeros(size, dtype=self.program.dtype, device=self.program.device)


def follows(row: LcmRow) -> bool:
    """Whether a ControlNet acts on the row's next step."""
    return row.followed is not None and row.followed.scales[row.position] is not None
