"""One row equals diffusers' own pipelines; many rows together equal each alone."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import torch
from diffusers import (
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.image_processor import VaeImageProcessor
from msgspec.structs import replace
from torch import Generator

from engines.backends import inductor
from engines.backends.eager import Eager
from engines.embedded import WEIGHTS
from engines.lcm import Lcm
from engines.messages import Job
from engines.vae import levels
from tests.engines import tiny
from tests.engines.oracle import call, oracle

PICTURE = tiny.picture(1)
MASK = tiny.stencil((8, 16, 40, 64))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_text_to_image_is_bitwise_the_lcm_pipeline(
    folder: Any, pipeline: Any, prediction: str, steps: int
) -> None:
    ours = pipeline(prediction=prediction)
    pipe = oracle(LatentConsistencyModelPipeline, folder(prediction=prediction))
    for seed, prompt, guidance in ((0, "a red circle on the sea", 1.0), (2**63 - 1, "", 7.5)):
        job = Job(prompt, seed, 64, 64, steps=steps, guidance=guidance)
        (row,) = tiny.drawn(ours, [job])
        assert torch.equal(row.latents, call(pipe, job, width=64, height=64))


@pytest.mark.parametrize("vae", ["tiny", "kl"])
@pytest.mark.parametrize(("steps", "strength"), [(1, 0.8), (4, 0.8), (4, 0.31), (6, 1.0), (3, 0.06)])
def test_image_to_image_is_bitwise_the_lcm_pipeline(
    folder: Any, pipeline: Any, vae: str, steps: int, strength: float
) -> None:
    pipe = oracle(LatentConsistencyModelImg2ImgPipeline, folder(vae=vae))
    job = Job("a blue hill", 3, 64, 64, steps=steps, strength=strength, guidance=2.0, image=PICTURE)
    (row,) = tiny.drawn(pipeline(vae=vae), [job])
    assert torch.equal(row.latents, call(pipe, job, image=tiny.opened(PICTURE), strength=strength))


@pytest.mark.parametrize("vae", ["tiny", "kl"])
@pytest.mark.parametrize(("steps", "strength"), [(1, 1.0), (4, 1.0), (4, 0.7), (2, 0.3)])
def test_inpainting_is_bitwise_the_stock_pipeline_at_the_same_timesteps(
    folder: Any, pipeline: Any, vae: str, steps: int, strength: float
) -> None:
    pipe = oracle(StableDiffusionInpaintPipeline, folder(vae=vae), strength=strength)
    job = Job("the sea", 4, 64, 64, steps=steps, strength=strength, image=PICTURE, mask=MASK)
    (row,) = tiny.drawn(pipeline(vae=vae), [job])
    expected = call(
        pipe,
        job,
        image=tiny.opened(PICTURE),
        mask_image=tiny.opened(MASK),
        strength=strength,
        width=64,
        height=64,
    )
    assert torch.equal(row.latents, expected)


@pytest.mark.parametrize("guidance", [1.0, 1.7])
@pytest.mark.parametrize("kind", ["text", "image", "mask"])
def test_a_base_model_with_lcm_lora_is_the_stock_pipeline_with_guidance(
    folder: Any, pipeline: Any, guidance: float, kind: str
) -> None:
    options: dict[str, Any] = {"lcm": False, "lora": True, "vae": "kl", "prediction": "epsilon"}
    path, ours = folder(**options), pipeline(**options)
    job = Job("a red square", 5, 64, 64, steps=3, guidance=guidance, negative_prompt="night", strength=0.6)
    extra: dict[str, Any] = {"negative_prompt": "night", "strength": 0.6, "image": tiny.opened(PICTURE)}
    if kind == "text":
        pipe = oracle(StableDiffusionPipeline, path, lora=True)
        extra = {"negative_prompt": "night", "width": 64, "height": 64}
    elif kind == "image":
        pipe = oracle(StableDiffusionImg2ImgPipeline, path, lora=True, strength=0.6)
        job = replace(job, image=PICTURE)
    else:
        pipe = oracle(StableDiffusionInpaintPipeline, path, lora=True, strength=0.6)
        extra |= {"mask_image": tiny.opened(MASK), "width": 64, "height": 64}
        job = replace(job, image=PICTURE, mask=MASK)
    assert ours.models[0].guidance == "cfg"
    assert ours.lane(job)[2] == (2 if guidance > 1 else 1)
    (row,) = tiny.drawn(ours, [job])
    assert torch.equal(row.latents, call(pipe, job, **extra))


@pytest.mark.parametrize("vae", ["tiny", "kl"])
def test_pixels_are_those_of_the_lcm_pipeline(folder: Any, pipeline: Any, vae: str) -> None:
    ours, pipe = pipeline(vae=vae), oracle(LatentConsistencyModelPipeline, folder(vae=vae))
    job = Job("a green circle", 6, 64, 64, steps=2)
    rows = tiny.drawn(ours, [job])
    generator = Generator().manual_seed(6)
    image = pipe(job.prompt, 64, 64, 2, guidance_scale=1.0, generator=generator).images[0]
    (drawn,) = ours.decode(rows)
    assert (drawn == image).all()
    data, unsafe = ours.encode(rows[0], drawn, replace(job, format="png"))
    assert list(tiny.opened(data).get_flattened_data()) == list(image.get_flattened_data())
    assert not unsafe


@pytest.mark.parametrize("lcm", [True, False])
@pytest.mark.parametrize("count", [2, 4, 7, 16])
def test_rows_of_all_kinds_in_one_batch_are_what_they_are_alone(pipeline: Any, lcm: bool, count: int) -> None:
    ours = pipeline() if lcm else pipeline(lcm=False, lora=True)
    rows = count if lcm else count // 2  # guided rows take two places
    jobs = [_mixed(seed) for seed in range(rows)]
    together = tiny.drawn(ours, jobs, bucket=count)
    for job, row in zip(jobs, together, strict=True):
        (alone,) = tiny.drawn(ours, [job])
        assert (row.latents - alone.latents).norm() <= 1e-5 * alone.latents.norm()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
def test_pictures_of_all_kinds_through_compiled_code_are_those_of_diffusers(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Lcm(str(folder()), device="cpu", max_batch=4, backend="inductor")
    ours.read(lambda *_: None)
    text = Job("a red circle on the sea", 1, 64, 64, steps=4, guidance=7.5)
    drawing = Job("a blue hill", 2, 64, 64, steps=4, strength=0.8, guidance=2.0, image=PICTURE)
    inpainting = Job("the sea", 3, 64, 64, steps=4, strength=1.0, image=PICTURE, mask=MASK)
    jobs = [text, drawing, inpainting, replace(text, seed=4, prompt="", guidance=1.0)]
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)  # whatever else this machine does now
    ours.denoiser.warm(ours.rows(text, None), 4, build=True)
    assert ours.stats()["compiled"] == 1, ours.denoiser.backend.reasons()
    monkeypatch.delattr(Eager, "program")  # no step is eager
    drawn = tiny.drawn(ours, jobs, bucket=4)
    lcm, size = LatentConsistencyModelPipeline, {"width": 64, "height": 64}
    inpaint = oracle(StableDiffusionInpaintPipeline, folder(), strength=1.0)
    given = {"image": tiny.opened(PICTURE), "strength": 0.8}
    masked = {"image": tiny.opened(PICTURE), "mask_image": tiny.opened(MASK), "strength": 1.0}
    expected = [
        call(oracle(lcm, folder()), jobs[0], **size),
        call(oracle(LatentConsistencyModelImg2ImgPipeline, folder()), drawing, **given),
        call(inpaint, inpainting, **masked, **size),
        call(oracle(lcm, folder()), jobs[3], **size),
    ]
    for row, latents in zip(drawn, expected, strict=True):
        assert (row.latents - latents).norm() <= 1e-5 * latents.norm()


@pytest.mark.skipif(not (WEIGHTS / "model_index.json").is_file(), reason="weights are not in this copy")
def test_the_embedded_model_is_bitwise_the_lcm_pipeline() -> None:
    ours = Lcm("embedded", device="cpu", max_batch=1)
    ours.load(lambda *_: None)
    side = ours.models[0].native
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = LatentConsistencyModelPipeline.from_pretrained(WEIGHTS, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.to(memory_format=torch.channels_last)
    job = Job("a red circle on a blue background", 1, side, side, steps=4, guidance=4.0)
    (row,) = tiny.drawn(ours, [job])
    assert torch.equal(row.latents, call(pipe, job, width=side, height=side))


def test_every_input_changes_the_picture(pipeline: Any) -> None:
    """Nothing above holds vacuously."""
    base = Job("a red circle", 1, 64, 64, steps=2, guidance=2.0, strength=0.7, image=PICTURE, mask=MASK)
    changes: list[dict[str, Any]] = [
        {"prompt": "a blue circle"},
        {"seed": 2},
        {"steps": 3},
        {"guidance": 3.0},
        {"strength": 0.5},
        {"image": tiny.picture(2)},
        {"mask": tiny.stencil((0, 0, 32, 32))},
        {"mask": None},
    ]
    ours = pipeline()
    reference, *others = tiny.drawn(ours, [base, *(replace(base, **change) for change in changes)])
    for change, other in zip(changes, others, strict=True):
        difference = (other.latents - reference.latents).norm() / reference.latents.norm()
        assert difference > 1e-3, change


def test_the_negative_prompt_changes_guided_pictures_only(pipeline: Any) -> None:
    ours = pipeline(lcm=False, lora=True)
    for guidance, changes in ((1.0, False), (1.5, True)):
        jobs = [
            Job("a red circle", 1, 64, 64, guidance=guidance, negative_prompt=text) for text in ("", "night")
        ]
        one, other = (tiny.drawn(ours, [job])[0].latents for job in jobs)
        assert torch.equal(one, other) is not changes


def test_uint8_pixels_round_as_diffusers_does() -> None:
    values = torch.linspace(-1.2, 1.2, 3 * 64 * 64).reshape(1, 3, 64, 64)
    expected = VaeImageProcessor().postprocess(values, output_type="pil")[0]
    assert (levels(values)[0].numpy() == expected).all()


def _mixed(seed: int) -> Job:
    """A different kind of job for every seed."""
    return Job(
        prompt=["a red circle", "the sea", "a green hill of night", ""][seed % 4],
        seed=seed,
        width=64,
        height=64,
        steps=1 + seed % 8,
        guidance=[1.0, 1.5, 4.0][seed % 3],
        strength=[0.4, 0.8, 1.0][seed % 3],
        image=[None, tiny.picture(seed)][seed % 2],
        mask=[None, MASK][seed % 4 == 3],
        negative_prompt=["", "blue"][seed % 2],
    )
