"""Who shares a UNet call does not matter to anybody in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engines.denoiser import LcmRow
from engines.lcm import BUCKETS, Lcm
from engines.messages import Job
from engines.pipeline import Fault, Unloadable
from tests.engines import tiny

CHEAP = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

PICTURE, MASK = tiny.picture(1), tiny.stencil((0, 0, 32, 64))

jobs = st.builds(
    lambda inputs, **options: Job(width=64, height=64, image=inputs[0], mask=inputs[1], **options),
    inputs=st.sampled_from([(None, None), (PICTURE, None), (PICTURE, MASK)]),
    prompt=st.sampled_from(["a red circle", "the sea", ""]),
    seed=st.integers(0, 3),
    steps=st.integers(1, 3),
    guidance=st.sampled_from([1.0, 1.5, 6.0]),
    strength=st.sampled_from([0.3, 0.8, 1.0]),
)


def admitted(pipeline: Lcm, job: Job) -> LcmRow:
    (row,) = pipeline.rows(job, pipeline.decode_inputs(job))
    return row


@CHEAP
@given(job=jobs, others=st.lists(jobs, max_size=4), place=st.integers(0, 4), data=st.data())
@pytest.mark.parametrize("bucket", [6, 8])
def test_at_one_bucket_size_a_row_is_the_same_whoever_shares_the_batch_and_wherever_it_sits(
    pipeline: Callable[..., Lcm], bucket: int, job: Job, others: list[Job], place: int, data: Any
) -> None:
    ours = pipeline()
    alone, shared = admitted(ours, job), admitted(ours, job)
    while alone.position < alone.steps:
        ours.step([alone], bucket)
    company = [admitted(ours, other) for other in others]
    while shared.position < shared.steps:  # the others join, finish and leave as they like
        here = [row for row in company if row.position < row.steps and data.draw(st.booleans())]
        here.insert(min(place, len(here)), shared)
        ours.step(here, bucket)
    assert torch.equal(alone.latents, shared.latents)


@CHEAP
@given(job=jobs, others=st.lists(jobs, max_size=2), place=st.integers(0, 2))
def test_guided_rows_of_a_base_model_do_not_matter_to_others_either(
    pipeline: Callable[..., Lcm], job: Job, others: list[Job], place: int
) -> None:
    ours = pipeline(lcm=False, lora=True)
    alone, shared = admitted(ours, job), admitted(ours, job)
    company = [admitted(ours, other) for other in others]
    company.insert(min(place, len(company)), shared)
    ours.step([alone], 6)
    ours.step(company, 6)
    assert torch.equal(alone.latents, shared.latents)


def test_the_same_seed_and_prompt_is_the_same_picture(pipeline: Callable[..., Lcm]) -> None:
    ours = pipeline()
    job = Job("a red circle", 7, 64, 64)
    files = []
    for _ in range(2):
        rows = tiny.drawn(ours, [job])
        files.append(ours.encode(rows[0], ours.decode(rows)[0], job)[0])
    assert files[0] == files[1]


def test_image_i_of_a_job_is_the_image_of_seed_plus_i(pipeline: Callable[..., Lcm]) -> None:
    ours = pipeline()
    for image in (None, tiny.picture(1)):
        job = Job("the sea", 40, 64, 64, steps=2, count=3, image=image, strength=0.6)
        rows = tiny.drawn(ours, [job], bucket=4)
        single = tiny.drawn(ours, [replace(job, seed=42, count=1)], bucket=4)
        assert torch.equal(rows[2].latents, single[0].latents)
        assert not torch.equal(rows[1].latents, rows[2].latents)


def test_pictures_of_other_buckets_differ_by_one_level_in_few_places(pipeline: Callable[..., Lcm]) -> None:
    """What is left where no single bucket is pinned: sums are taken in another order."""
    ours = pipeline()
    job = Job("a green circle", 3, 64, 64, steps=3)
    reference = ours.decode(tiny.drawn(ours, [job], bucket=1))[0].astype(int)
    for bucket in BUCKETS[1:]:
        difference = abs(ours.decode(tiny.drawn(ours, [job], bucket))[0].astype(int) - reference)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001


@pytest.mark.parametrize("company", [0, 1, 3])
def test_deterministic_files_are_equal_byte_for_byte_whatever_the_load(
    pipeline: Callable[..., Lcm], company: int
) -> None:
    ours = pipeline(max_batch=4, deterministic=True)
    assert ours.buckets == (4,)
    job = Job("a green circle", 11, 64, 64, steps=3, format="png")
    quiet = tiny.drawn(ours, [job])
    busy = tiny.drawn(ours, [job, *(Job("the sea", n, 64, 64, steps=1 + n) for n in range(company))])
    files = [ours.encode(rows[0], ours.decode(rows)[0], job)[0] for rows in (quiet, busy)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("max_batch", "options", "expected"),
    [
        (0, {}, (1, 2, 3, 4)),  # by device
        (5, {}, (1, 2, 3, 4)),
        (8, {}, (1, 2, 3, 4, 6, 8)),
        (16, {}, BUCKETS),
        (1, {"lcm": False, "lora": True}, (1, 2)),
    ],
)
def test_buckets_end_at_the_largest_batch_and_hold_a_guided_row(
    pipeline: Callable[..., Lcm], max_batch: int, options: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert pipeline(max_batch=max_batch, **options).buckets == expected


def test_a_call_that_does_not_fit_is_halved_until_it_does(
    pipeline: Callable[..., Lcm], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pipeline()
    jobs = [Job("the sea", seed, 64, 64, steps=1) for seed in range(5)]
    expected = [row.latents for row in tiny.drawn(ours, jobs)]
    fits = 2
    forward = ours.denoiser.unet.forward

    def limited(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(ours.denoiser.unet, "forward", limited)
    rows = tiny.drawn(ours, jobs)
    for row, latents in zip(rows, expected, strict=True):
        torch.testing.assert_close(row.latents, latents, rtol=1e-4, atol=1e-5)
    fits = 0
    rows = [admitted(ours, job) for job in jobs]
    with pytest.raises(Fault) as caught:
        ours.step(rows, 8)
    assert caught.value.code == "out_of_memory"
    assert caught.value.rows == rows
    assert [row.position for row in rows] == [0] * 5


def test_calls_that_do_not_fit_at_the_start_are_never_made(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = UNet2DConditionModel.forward

    def limited(unet: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(unet, sample, *args, **kwargs)

    fits = 3
    monkeypatch.setattr(UNet2DConditionModel, "forward", limited)
    ours = Lcm(str(folder()), device="cpu", max_batch=16)
    ours.load(lambda *_: None)
    assert ours.buckets == (1, 2, 3)
    fits = 0
    with pytest.raises(Unloadable, match="no memory for this model"):
        Lcm(str(folder()), device="cpu", max_batch=16).load(lambda *_: None)


def test_weights_that_do_not_fit_are_said_in_one_line_and_other_errors_are_not_taken_for_that(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for message, expected in (
        ("CUDA out of memory. Tried to allocate 2.00 GiB", Unloadable),
        ("CUDA error: device-side assert triggered", RuntimeError),
    ):

        def load(*_: Any, message: str = message) -> Any:
            raise RuntimeError(message)

        monkeypatch.setattr("engines.lcm.weights.load", load)
        with pytest.raises(expected) as caught:
            Lcm(str(folder()), device="cpu", max_batch=16).load(lambda *_: None)
        assert "\n" not in str(caught.value)


def test_other_errors_of_a_step_are_not_taken_for_full_memory(
    pipeline: Callable[..., Lcm], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pipeline()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(ours.denoiser.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        ours.step([admitted(ours, Job("", 0, 64, 64))], 1)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_row_of_nan_is_a_fault_and_its_neighbours_are_pictures(
    pipeline: Callable[..., Lcm], poison: float
) -> None:
    ours = pipeline()
    jobs = [Job("the sea", seed, 64, 64, steps=2) for seed in range(3)]
    rows = [admitted(ours, job) for job in jobs]
    rows[1].latents[0, 3, 3] = poison
    ours.step(rows, 3)
    ours.step(rows, 3)
    first, broken, last = ours.decode(rows)
    assert isinstance(broken, Fault)
    assert broken.code == "internal"
    healthy = tiny.drawn(ours, [jobs[0], jobs[2], jobs[2]], bucket=3)
    for picture, other in zip((first, last), ours.decode(healthy), strict=False):
        assert (picture == other).all()
