"""The sampler against diffusers' LCMScheduler, number by number."""

from __future__ import annotations

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler
from hypothesis import given
from hypothesis import strategies as st

from engines import sampler

SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@given(steps=st.integers(1, 50), strength=st.floats(0, 1))
def test_timesteps_are_those_of_the_lcm_scheduler(steps: int, strength: float) -> None:
    if int(50 * strength) < steps:
        strength = steps / 50
        if int(50 * strength) < steps:  # 50 * (29 / 50) is 28.999...
            strength = (steps + 0.5) / 50
    scheduler = LCMScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps, strength=min(strength, 1.0))
    assert sampler.timesteps(steps, strength) == scheduler.timesteps.tolist()


@given(steps=st.integers(1, 12), strength=st.floats(0, 1))
def test_every_strength_gives_exactly_the_steps_asked(steps: int, strength: float) -> None:
    schedule = sampler.timesteps(steps, strength)
    assert len(schedule) == len(set(schedule)) == steps
    assert schedule == sorted(schedule, reverse=True)
    assert schedule[-1] >= 19


def test_a_strength_too_small_for_the_steps_is_raised_to_the_smallest_that_has_them() -> None:
    assert sampler.timesteps(4, 0.0) == sampler.timesteps(4, 4 / 50) == [79, 59, 39, 19]


@pytest.mark.parametrize("steps", [0, -1, 51])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=r"the model has 1\.\.50"):
        sampler.timesteps(steps)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_steps_of_rows_at_different_timesteps_equal_schedulers_of_their_own(
    prediction: str, clip: float | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [(steps, strength) for steps in (1, 2, 5, 8) for strength in (1.0, 0.62)]
    table = sampler.tables(LCMScheduler(**SCHEDULER).alphas_cumprod)
    expected, estimated, given_ = [], [], []
    for steps, strength in rows:
        scheduler = LCMScheduler(
            **SCHEDULER,
            prediction_type=prediction,
            clip_sample=clip is not None,
            clip_sample_range=clip or 1.0,
        )
        scheduler.set_timesteps(steps, strength=strength)
        noise = torch.randn(steps, 4, 8, 8, generator=generator)
        latents, output = torch.randn(2, 1, 4, 8, 8, generator=generator)
        at = steps // 2
        scheduler._step_index = at
        replayed = torch.Generator()  # the scheduler draws itself: let it draw what the plan was given
        replayed.manual_seed(steps)
        if at < steps - 1:
            noise[at + 1] = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(steps))[0]
        t = scheduler.timesteps[at]
        stepped, denoised = scheduler.step(output, t, latents, generator=replayed, return_dict=False)
        expected.append(stepped)
        estimated.append(denoised)
        plan = sampler.plan(table, sampler.timesteps(steps, strength), noise)
        given_.append(
            (latents[0], output[0], plan.coefficients[at], plan.noise[at], plan.still[at], plan.mask)
        )
    columns = [torch.stack(column) for column in zip(*given_, strict=True)]
    stepped = sampler.step(*columns, prediction, clip)
    assert torch.equal(stepped, torch.cat(expected))
    for after, (_, _, *ours), denoised in zip(stepped, given_, estimated, strict=True):
        torch.testing.assert_close(sampler.estimate(after, *ours, None), denoised[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 1.5, 7.5, 8.0])
@pytest.mark.parametrize("size", [256, 33])
def test_guidance_embedding_is_that_of_the_lcm_pipeline(guidance: float, size: int) -> None:
    oracle = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    expected = oracle(None, torch.tensor(guidance - 1).repeat(1), size)[0]
    assert torch.equal(sampler.guidance_embedding(guidance, size), expected)


def test_what_the_mask_keeps_ends_as_the_picture_and_the_rest_as_drawn() -> None:
    table = sampler.tables(LCMScheduler(**SCHEDULER).alphas_cumprod)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    clean = torch.full((4, 8, 8), 0.25)
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    kept = sampler.plan(table, [999, 499], noise, clean, mask)
    free = sampler.plan(table, [999, 499], noise)
    for plan in (kept, free):
        assert plan.noise[-1].abs().max() == 0  # the last step adds none
    args = torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    ends = [
        sampler.step(
            *args, p.coefficients[-1:], p.noise[-1:], p.still[-1:], p.mask[None], prediction="v_prediction"
        )[0]
        for p in (kept, free)
    ]
    assert torch.equal(ends[0][:, :, 4:], clean[:, :, 4:])
    assert torch.equal(ends[0][:, :, :4], ends[1][:, :, :4])
    assert not torch.equal(kept.still[0], kept.still[1])  # kept parts are noised until the last step


def test_an_estimate_has_what_the_mask_keeps_without_its_noise() -> None:
    table = sampler.tables(LCMScheduler(**SCHEDULER).alphas_cumprod)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    clean, mask = torch.full((4, 8, 8), 0.25), torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    plan = sampler.plan(table, [999, 499], noise, clean, mask)
    ours = plan.coefficients[0], plan.noise[0], plan.still[0], plan.mask
    args = torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    after = sampler.step(*args, *(part[None] for part in ours), prediction="v_prediction")[0]
    found = sampler.estimate(after, *ours, clean)
    torch.testing.assert_close(found[:, :, 4:], clean[:, :, 4:], atol=1e-4, rtol=1e-4)
    free = sampler.plan(table, [999, 499], noise)
    theirs = free.coefficients[0], free.noise[0], free.still[0], free.mask
    other = sampler.step(*args, *(part[None] for part in theirs), prediction="v_prediction")[0]
    expected = sampler.estimate(other, *theirs, None)
    torch.testing.assert_close(found[:, :, :4], expected[:, :, :4], atol=1e-4, rtol=1e-4)
