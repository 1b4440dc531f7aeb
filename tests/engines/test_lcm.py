"""The pipeline as the step loop sees it: jobs in, files out, what is refused and what is remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from engines import lcm
from engines.backends.eager import Eager
from engines.backends.graphs import Graphs
from engines.lcm import Lcm
from engines.messages import Job
from engines.outlet import DECODE_GROUP
from engines.pipeline import Fault, Pipeline, Row
from engines.vae import levels
from tests.engines import tiny
from tests.engines.backends.tapes import Tapes

JOB = Job("the sea", 1, 64, 64, steps=2)
PICTURE, MASK = tiny.picture(1), tiny.stencil((0, 0, 32, 64))


@pytest.fixture
def fresh(folder: Any) -> Lcm:
    """A pipeline with empty counters."""
    made = Lcm(str(folder()), device="cpu", max_batch=2)
    made.load(lambda *_: None)
    return made


def test_the_pipeline_has_all_that_the_step_loop_drives(pipeline: Any) -> None:
    for protocol, made in ((Pipeline, pipeline()), (Row, pipeline().rows(JOB, None)[0])):
        named = {name for name in vars(protocol) if not name.startswith("_")} | set(protocol.__annotations__)
        assert len(named) > 4
        assert [name for name in named if not hasattr(made, name)] == []


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"steps": 0}, "invalid", "num_inference_steps"),
        ({"steps": 13}, "invalid", "num_inference_steps"),
        ({"count": 0}, "invalid", "num_images"),
        ({"count": 9}, "invalid", "num_images"),
        ({"width": 0}, "invalid", "image_size"),
        ({"strength": 1.01}, "invalid", "strength"),
        ({"strength": float("nan")}, "invalid", "strength"),
        ({"guidance": float("inf")}, "invalid", "guidance_scale"),
        ({"format": "gif"}, "unsupported", "format"),
        ({"mask": MASK}, "invalid", "mask_url"),
        ({"model": "sdxl"}, "unsupported", "model"),
    ],
)
def test_a_job_out_of_bounds_is_refused_before_any_work(
    pipeline: Any, change: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(Fault) as caught:
        pipeline().lane(replace(JOB, **change))
    assert (caught.value.code, caught.value.field) == (code, field)


def test_a_lane_says_what_its_rows_will_be(pipeline: Any) -> None:
    ours = pipeline()
    for job in (JOB, replace(JOB, width=512, height=512), replace(JOB, width=96, steps=7, count=2)):
        rows = ours.rows(job, None)
        assert len(rows) == job.count
        for row in rows:
            assert (row.lane, row.steps, row.slots) == ours.lane(job)
            assert (row.position, row.latents.shape[1:]) == (0, (row.size[1] // 8, row.size[0] // 8))
    assert ours.lane(replace(JOB, width=512, height=512))[0] == ours.lane(JOB)[0]
    assert ours.lane(replace(JOB, width=96))[0] != ours.lane(JOB)[0]


@pytest.mark.parametrize(
    ("size", "drawn"), [((64, 64), (64, 64)), ((512, 512), (64, 64)), ((700, 500), (80, 56))]
)
def test_the_answer_has_the_size_asked_whatever_was_drawn(
    pipeline: Any, size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    ours = pipeline()
    job = Job("the sea", 1, *size, steps=1, image=tiny.picture(1, 300, 200), strength=0.5)
    rows = tiny.drawn(ours, [job])
    (pixels,) = ours.decode(rows)
    assert ours.drawn(rows[0]) == drawn
    assert pixels.shape == (drawn[1], drawn[0], 3)
    assert tiny.opened(ours.encode(rows[0], pixels, job)[0]).size == size


def test_mask_only_returns_the_rest_of_the_input_unchanged(pipeline: Any) -> None:
    ours = pipeline()
    picture = tiny.picture(3, 160, 120)
    mask = tiny.stencil((0, 0, 80, 120), 160, 120)
    job = Job("the sea", 1, 160, 120, image=picture, mask=mask, mask_only=True, format="png")
    rows = tiny.drawn(ours, [job])
    answer = np.asarray(tiny.opened(ours.encode(rows[0], ours.decode(rows)[0], job)[0]))
    original = np.asarray(tiny.opened(picture))
    assert (answer[:, 80:] == original[:, 80:]).all()
    assert (answer[:, :70] != original[:, :70]).any(-1).mean() > 0.9


def test_a_stroke_thinner_than_a_latent_is_painted_over_when_the_rest_is_kept(pipeline: Any) -> None:
    ours = pipeline()
    thin = replace(JOB, image=PICTURE, mask=tiny.stencil((17, 0, 23, 64)), mask_only=True, format="png")
    one, other = (
        np.asarray(tiny.opened(ours.encode(row, ours.decode([row])[0], job)[0]))
        for job in (thin, replace(thin, prompt="a forest"))
        for row in tiny.drawn(ours, [job])
    )
    assert (one[:, 19:21] != other[:, 19:21]).any(-1).mean() > 0.5
    assert (one[:, :17] == other[:, :17]).all()
    assert (one[:, 23:] == other[:, 23:]).all()


def test_what_was_read_and_encoded_once_is_not_again(fresh: Lcm) -> None:
    def counters() -> dict[str, float]:
        return fresh.stats()

    job = replace(JOB, image=PICTURE, strength=0.6)
    tiny.drawn(fresh, [job])
    before = counters()
    rows = tiny.drawn(fresh, [replace(job, seed=2, strength=0.8)])
    after = counters()
    for name in ("text", "pictures", "posteriors"):
        assert after[f"cache_{name}_hits"] == before[f"cache_{name}_hits"] + 1
        assert after[f"cache_{name}_misses"] == before[f"cache_{name}_misses"]
        assert after[f"cache_{name}_bytes"] > 0
    assert rows[0].timings["vae_encode"] < 0.01

    tiny.drawn(fresh, [replace(job, mask=MASK)])  # the mask is new, the picture under it is not
    masked = counters()
    assert masked["cache_pictures_misses"] == after["cache_pictures_misses"] + 1
    assert masked["cache_posteriors_misses"] == after["cache_posteriors_misses"]


def test_a_cached_picture_draws_what_a_fresh_one_draws(fresh: Lcm, pipeline: Any) -> None:
    jobs = [
        replace(JOB, image=PICTURE, mask=mask, width=size) for mask in (None, MASK) for size in (64, 96, 64)
    ]
    for job in jobs:
        (ours,), (other,) = tiny.drawn(fresh, [job]), tiny.drawn(pipeline(max_batch=2), [job])
        assert (ours.latents == other.latents).all()


def test_a_picture_encoded_ahead_draws_what_one_encoded_at_its_turn_draws(fresh: Lcm) -> None:
    for job in (replace(JOB, image=PICTURE, strength=0.6), replace(JOB, image=PICTURE, mask=MASK, count=2)):
        late = tiny.drawn(fresh, [job])
        fresh.overlaps = True  # as on CUDA
        fresh.posteriors.budget = 0
        inputs = fresh.decode_inputs(job)
        assert inputs is not None
        posterior, seconds = inputs.encoded or (None, 0.0)
        assert posterior is not None
        assert seconds > 0
        for row, other in zip(tiny.drawn(fresh, [job]), late, strict=True):
            assert row.latents.equal(other.latents)
            assert row.timings["vae_encode"] > 0
        fresh.overlaps = False


def test_without_a_budget_nothing_is_kept_and_everything_works(folder: Any) -> None:
    made = Lcm(str(folder()), device="cpu", max_batch=2, cache_bytes=0)
    made.load(lambda *_: None)
    tiny.drawn(made, [replace(JOB, image=PICTURE)] * 2)
    assert {value for name, value in made.stats().items() if "hits" in name or "bytes" in name} == {0}


def test_every_row_tells_where_its_time_went(fresh: Lcm) -> None:
    rows = tiny.drawn(fresh, [replace(JOB, prompt="never seen", image=PICTURE, count=2)])
    fresh.decode(rows)
    for row in rows:
        assert set(row.timings) == {"text", "vae_encode", "vae"}
        assert all(seconds > 0 for seconds in row.timings.values())


def test_loading_tells_its_stages_in_order(folder: Any) -> None:
    told: list[tuple[str, float, float]] = []
    made = Lcm(str(folder()), device="cpu", max_batch=2)
    made.load(lambda stage, done, total, text: told.append((stage, done, total)))
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["import", "load", "warm"]
    assert all(0 <= done <= total for _, done, total in told)
    assert told[-1] == ("warm", 2, 2)
    assert made.models[0].name not in ("", str(folder()))
    assert "/" not in made.models[0].name


# ---- two autoencoders ----

TWO = {"vae": "kl", "beside": True}


def test_a_model_tells_which_autoencoders_it_has(pipeline: Any) -> None:
    for options, told in (({}, ["tiny-vae"]), ({"vae": "kl"}, ["full-vae"]), (TWO, ["full-vae", "tiny-vae"])):
        assert pipeline(**options).models[0].features == ["image", "mask", *told]


def test_a_job_leaves_through_the_autoencoder_it_asks_for(pipeline: Any) -> None:
    ours = pipeline(**TWO)
    jobs = [replace(JOB, vae=vae) for vae in ("auto", "full", "tiny")]
    rows = tiny.drawn(ours, jobs)
    assert ours.lane(jobs[1]) == ours.lane(jobs[2]), "they share calls"
    auto, full, fast = ours.decode(rows)
    assert np.array_equal(auto, full)
    for codec, pixels in ((ours.codec, full), (ours.tiny, fast)):
        expected = levels(codec.decode(rows[0].latents[None]))[0].numpy()
        assert abs(pixels.astype(int) - expected).max() <= 1
    assert not np.array_equal(full, fast)
    assert np.array_equal(ours.preview(rows[1], ours.peek(rows[1])), fast), "a preview is quick"


def test_no_preview_is_made_of_numbers_that_are_not_finite_nor_without_memory(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pipeline()
    (row,) = tiny.drawn(ours, [JOB])
    peeked, mark = ours.peek(row)
    with pytest.raises(Fault, match="not finite"):
        ours.preview(row, (torch.full_like(peeked, torch.nan), mark))

    def full(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("engines.sampler.estimate", full)
    with pytest.raises(Fault, match="memory"):
        ours.peek(row)
    ours._short = False


def test_a_prompt_is_known_once_it_was_encoded(fresh: Lcm) -> None:
    job = replace(JOB, prompt="never asked before")
    assert not fresh.knows(job)
    before = fresh.text.cache.misses
    fresh.rows(job, None)
    assert fresh.knows(job)
    assert fresh.text.cache.misses == before + 1, "asking is no use of it"


def test_with_one_autoencoder_it_does_all(pipeline: Any) -> None:
    for options in ({}, {"vae": "kl"}):
        ours = pipeline(**options)
        rows = tiny.drawn(ours, [replace(JOB, vae=vae) for vae in ("full", "tiny")])
        full, fast = ours.decode(rows)
        assert np.array_equal(full, fast)


def test_a_kept_row_is_decoded_as_the_row_itself_through_either_autoencoder(pipeline: Any) -> None:
    ours = pipeline(**TWO)
    inputs = {"image": PICTURE, "mask": MASK, "mask_only": True, "format": "png"}
    (row,) = tiny.drawn(ours, [replace(JOB, vae="tiny", **inputs)])
    kept, size = ours.keep(row)
    assert size == row.latents.nbytes + row.inputs.nbytes
    files = [
        ours.encode(one, ours.decode([one])[0], one.job)[0]
        for one in (row, *(ours.kept(kept, replace(row.job, vae=vae)) for vae in ("tiny", "full")))
    ]
    assert files[0] == files[1] != files[2]
    assert ours.drawn(ours.kept(kept, row.job)) == ours.drawn(row)


def test_the_seed_is_the_same_noise_through_either_autoencoder(pipeline: Any) -> None:
    """So that the picture of a moving hand and the one it settles on are of one kind."""
    ours = pipeline(**TWO)
    full, fast = (
        ours.rows(job, ours.decode_inputs(job))[0]
        for job in (replace(JOB, image=PICTURE, strength=0.8, vae=vae) for vae in ("full", "tiny"))
    )
    assert all(one.equal(other) for one, other in zip(full.noise, fast.noise, strict=True))
    posterior = ours.tiny.encode(ours.decode_inputs(replace(JOB, image=PICTURE)).picture)
    assert posterior.factor == ours.tiny.factor != ours.codec.factor
    assert not full.latents.equal(fast.latents)


def test_what_one_autoencoder_has_encoded_is_not_taken_for_the_others(pipeline: Any) -> None:
    ours = pipeline(**TWO)
    jobs = [replace(JOB, image=PICTURE, strength=0.8, vae=vae) for vae in ("tiny", "full")]
    first, second, *again = (ours.rows(job, ours.decode_inputs(job))[0].latents for job in jobs * 2)
    assert not first.equal(second)
    assert first.equal(again[0])
    assert second.equal(again[1])


# ---- previews ----


@pytest.mark.parametrize("options", [{}, {"vae": "kl"}])
def test_the_preview_of_the_last_step_is_the_picture(pipeline: Any, options: dict[str, Any]) -> None:
    ours = pipeline(**options)
    (row,) = ours.rows(JOB, None)
    for _ in range(JOB.steps):
        ours.step([row], ours.buckets[-1])
    assert np.array_equal(ours.preview(row, ours.peek(row)), ours.decode([row])[0])


def test_a_preview_shows_what_a_mask_keeps_as_it_is(pipeline: Any) -> None:
    ours = pipeline()
    job = replace(JOB, image=PICTURE, mask=MASK, strength=0.8, steps=4)
    inputs = ours.decode_inputs(job)
    (row,) = ours.rows(job, inputs)
    ours.step([row], 1)
    peeked, _ = ours.peek(row)
    kept = (row.mask == 0).expand_as(peeked)
    assert kept.any()
    assert not kept.all()
    clean = ours.codec.factor * ours.codec.encode(inputs.picture).mean
    assert np.allclose(peeked[kept], clean[kept], atol=1e-4), "without the noise of the step"
    assert not np.allclose(row.latents[kept], clean[kept], atol=1e-2)


def test_looking_at_a_row_changes_nothing(pipeline: Any) -> None:
    ours = pipeline()
    (seen,), (unseen,) = ours.rows(JOB, None), ours.rows(JOB, None)
    for _ in range(JOB.steps):
        for row in (seen, unseen):
            ours.step([row], 1)
        ours.preview(seen, ours.peek(seen))
    assert seen.latents.equal(unseen.latents)


@pytest.fixture
def taped(folder: Any, monkeypatch: pytest.MonkeyPatch) -> Lcm:
    """A loaded pipeline on a stand-in for CUDA graphs."""
    monkeypatch.setattr(lcm, "make", lambda _, program, **__: Graphs(Eager(program), program, Tapes()))
    monkeypatch.setattr(lcm, "Cuda", lambda _: Tapes())
    made = Lcm(str(folder()), device="cpu", max_batch=2)
    made.load(lambda *_: None)
    return made


def test_all_is_replayed_from_the_first_frame_on(taped: Lcm) -> None:
    before = taped.stats()
    job = replace(JOB, image=PICTURE, strength=0.5, prompt="a hill")
    found = tiny.drawn(taped, [job])
    taped.decode(found * DECODE_GROUP)
    after = taped.stats()
    assert after["encodes_replayed"] == before["encodes_replayed"] + 1
    assert after["prompts_replayed"] == before["prompts_replayed"] + 1
    assert after["decodes_replayed"] == before["decodes_replayed"] + DECODE_GROUP  # a CPU decodes one by one
    for name in ("graphs", "encodes", "prompts", "decodes"):
        assert after[f"{name}_recorded"] == before[f"{name}_recorded"] > 0


def test_pictures_of_recorded_calls_are_those_of_others(taped: Lcm, pipeline: Any) -> None:
    jobs = [
        replace(JOB, prompt=f"the sea {seed}", seed=seed, image=tiny.picture(seed), strength=0.5)
        for seed in range(4)
    ]
    for job in jobs:
        for found, expected in zip(tiny.drawn(taped, [job]), tiny.drawn(pipeline(), [job]), strict=True):
            assert torch.equal(found.latents, expected.latents)
            assert np.array_equal(taped.decode([found])[0], pipeline().decode([expected])[0])
    counts = taped.stats()
    for name in ("graphs", "decodes", "encodes", "prompts"):
        assert counts[f"{name}_replayed"] > 0
        assert counts[f"{name}_unfit"] == 0


def test_where_memory_is_short_all_recordings_are_given_back(taped: Lcm) -> None:
    tiny.drawn(taped, [replace(JOB, image=PICTURE, strength=0.5)])
    taped._relieve()
    for replays in taped._replays():
        assert not replays._plates
    tiny.drawn(taped, [replace(JOB, image=tiny.picture(2), strength=0.5, prompt="a hill")])
