"""The step call in numbers: what a batch assembles and what comes back to its rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from engines import sampler
from engines.backends.program import Batch, Shape
from engines.denoiser import Denoiser, LcmRow
from engines.lcm import Lcm
from engines.messages import Job
from tests.engines import tiny

PICTURE, MASK = tiny.picture(1), tiny.stencil((0, 0, 32, 64))
JOBS = [
    Job("the sea", 1, 64, 64, steps=3, guidance=1.5),
    Job("a red circle", 2, 64, 64, steps=1, guidance=1.0),
    Job("a hill", 3, 64, 64, steps=2, guidance=6.0, image=PICTURE, strength=0.6),
    Job("a blue square", 4, 64, 64, steps=2, guidance=2.0, image=PICTURE, mask=MASK, strength=0.8),
]


def rows_of(pipeline: Lcm, jobs: Sequence[Job]) -> list[LcmRow]:
    return [row for job in jobs for row in pipeline.rows(job, pipeline.decode_inputs(job))]


@torch.inference_mode()
def by_hand(denoiser: Denoiser, rows: Sequence[LcmRow], places: int) -> list[Tensor]:
    """The latents after one step: the UNet over all places, the sampler over the rows alone."""
    guided = [row for row in rows if row.negative is not None]
    padding = [rows[0]] * (places - len(rows) - len(guided))
    batch = [*rows, *guided, *padding]
    texts = [row.embedding.text for row in rows] + [row.negative.text for row in guided if row.negative]
    texts += [row.embedding.text for row in padding]
    embeds = denoiser.program.embedding is not None
    output = denoiser.unet(
        torch.stack([row.latents for row in batch]),
        torch.stack([row.coefficients[row.position][0] for row in batch]),
        encoder_hidden_states=torch.stack(texts),
        timestep_cond=torch.stack([row.guidance for row in batch]) if embeds else None,
    ).sample
    expected, other = [], len(rows)
    for at, row in enumerate(rows):
        told = output[at : at + 1]
        if row.negative is not None:
            told = sampler.guided(told, output[other : other + 1], row.guidance[None])
            other += 1
        parts = (row.coefficients, row.noise, row.still)
        coefficients, noise, still = (part[row.position][None] for part in parts)
        prediction = denoiser.program.prediction
        now = row.latents[None]
        expected.append(sampler.step(now, told, coefficients, noise, still, row.mask[None], prediction)[0])
    return expected


@pytest.mark.parametrize("options", [{}, {"lcm": False, "lora": True}], ids=["embedded", "cfg"])
@pytest.mark.parametrize("places", [8, 12])
def test_a_call_gives_every_row_the_numbers_of_its_own_step(
    pipeline: Callable[..., Lcm], options: dict[str, bool], places: int
) -> None:
    ours = pipeline(**options)
    rows = rows_of(ours, JOBS)
    expected = by_hand(ours.denoiser, rows, places)
    ours.denoiser.advance(rows, places)
    for row, latents in zip(rows, expected, strict=True):
        assert row.position == 1
        assert torch.equal(row.latents, latents)


class Slotted:
    """A back end with static slots, which it keeps full of NaN between calls."""

    name = "slotted"

    def __init__(self, denoiser: Denoiser) -> None:
        self.run = denoiser.program
        self.into: dict[Shape, Batch] = {}

    def slots(self, shape: Shape) -> Batch:
        return self.into.setdefault(shape, self.run.empty(shape))

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        assert all(ours is theirs for ours, theirs in zip(self.into[shape], batch, strict=True))
        advanced: Tensor = self.run(*batch)
        for tensor in batch:
            if tensor is not None and tensor.is_floating_point():
                tensor.fill_(torch.nan)
        return advanced


@pytest.mark.parametrize("options", [{}, {"lcm": False, "lora": True}], ids=["embedded", "cfg"])
def test_rows_gathered_into_static_slots_come_out_the_same(
    pipeline: Callable[..., Lcm], options: dict[str, bool]
) -> None:
    ours = pipeline(**options)
    expected, rows = rows_of(ours, JOBS), rows_of(ours, JOBS)
    slotted = copy.copy(ours.denoiser)
    slotted.backend = Slotted(slotted)
    while expected := [row for row in expected if row.position < row.steps]:
        ours.denoiser.advance(expected, 8)
        rows = [row for row in rows if row.position < row.steps]
        slotted.advance(rows, 8)
        for row, other in zip(rows, expected, strict=True):
            assert torch.equal(row.latents, other.latents)
