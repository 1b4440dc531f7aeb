"""SDXL: two text encoders, a pooled prompt and sizes; each picture as diffusers' own pipelines draw it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from msgspec.structs import replace
from torch import Generator

from engines.cache import Cache
from engines.messages import Job
from engines.pipeline import Fault
from engines.text import Text
from tests.engines import tiny
from tests.engines.oracle import call, oracle

PICTURE, MASK = tiny.picture(1), tiny.stencil((8, 16, 40, 64))
BASE: dict[str, Any] = {"xl": True, "lcm": False, "lora": True, "vae": "kl", "prediction": "epsilon"}


@pytest.mark.parametrize("prompt", ["a red circle on the sea", "", "Ünïcode ☂ 雨", "night " * 200])
@pytest.mark.parametrize("negative", ["", "blue"])
def test_embeddings_are_those_of_encode_prompt(
    folder: Any, pipeline: Any, prompt: str, negative: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionXLPipeline.from_pretrained(folder(xl=True))
        told = pipe.encode_prompt(prompt, None, "cpu", 1, True, negative or None)
    text = pipeline(xl=True).text
    for expected, embedding in (
        ((told[0], told[2]), text.embed(prompt, {})),
        ((told[1], told[3]), text.embed(negative, {}, negative=True)),
    ):
        assert embedding.text.shape == (77, tiny.WIDTH + tiny.SECOND)
        assert torch.equal(embedding.text, expected[0][0])
        assert torch.equal(embedding.pooled, expected[1][0])


def test_no_negative_prompt_is_zeros_only_where_the_model_says_so(pipeline: Any) -> None:
    text = pipeline(xl=True).text
    other = Text(text.encoders, Cache(10**6), blank=False)
    assert not text.embed("", {}, negative=True).text.any()
    assert text.embed("", {}).text.any(), "an empty prompt is a prompt"
    assert torch.equal(other.embed("", {}, negative=True).text, text.embed("", {}).text)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("size", [(64, 64), (96, 56)])
def test_text_to_image_is_bitwise_the_stock_pipeline(
    folder: Any, pipeline: Any, steps: int, size: tuple[int, int]
) -> None:
    pipe = oracle(StableDiffusionXLPipeline, folder(xl=True))
    for seed, prompt, guidance in ((0, "a red circle on the sea", 1.0), (9, "", 7.5)):
        job = Job(prompt, seed, *size, steps=steps, guidance=guidance)
        (row,) = tiny.drawn(pipeline(xl=True), [job])
        assert torch.equal(row.latents, call(pipe, job, width=size[0], height=size[1]))


@pytest.mark.parametrize("kind", ["image", "mask"])
@pytest.mark.parametrize("vae", ["tiny", "kl"])
@pytest.mark.parametrize(("steps", "strength"), [(1, 0.8), (4, 0.6)])
def test_pictures_and_masks_are_bitwise_the_stock_pipelines(
    folder: Any, pipeline: Any, kind: str, vae: str, steps: int, strength: float
) -> None:
    options: dict[str, Any] = {"xl": True, "vae": vae}
    job = Job("a blue hill", 3, 64, 64, steps=steps, strength=strength, guidance=2.0, image=PICTURE)
    extra: dict[str, Any] = {"image": tiny.opened(PICTURE), "strength": strength}
    if kind == "image":
        pipe = oracle(StableDiffusionXLImg2ImgPipeline, folder(**options), strength=strength)
    else:
        pipe = oracle(StableDiffusionXLInpaintPipeline, folder(**options), strength=strength)
        extra |= {"mask_image": tiny.opened(MASK), "width": 64, "height": 64}
        job = replace(job, mask=MASK)
    (row,) = tiny.drawn(pipeline(**options), [job])
    assert torch.equal(row.latents, call(pipe, job, **extra))


@pytest.mark.parametrize("guidance", [1.0, 1.7])
@pytest.mark.parametrize("negative", ["", "night"])
def test_a_base_model_with_lcm_lora_is_the_stock_pipeline_with_guidance(
    folder: Any, pipeline: Any, guidance: float, negative: str
) -> None:
    pipe = oracle(StableDiffusionXLPipeline, folder(**BASE), lora=True)
    job = Job("a red square", 5, 64, 64, steps=3, guidance=guidance, negative_prompt=negative)
    (row,) = tiny.drawn(pipeline(**BASE), [job])
    expected = call(pipe, job, width=64, height=64, negative_prompt=negative or None)
    assert torch.equal(row.latents, expected)


def test_pixels_are_those_of_the_stock_pipeline(folder: Any, pipeline: Any) -> None:
    ours, pipe = pipeline(**BASE), oracle(StableDiffusionXLPipeline, folder(**BASE), lora=True)
    job = Job("a green circle", 6, 64, 64, steps=2)
    (drawn,) = ours.decode(tiny.drawn(ours, [job]))
    generator = Generator().manual_seed(6)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "generator": generator}
    assert (drawn == pipe(job.prompt, width=64, height=64, **options).images[0]).all()


@pytest.mark.parametrize("options", [{"xl": True}, BASE], ids=["embedded", "cfg"])
def test_rows_of_all_kinds_in_one_batch_are_what_they_are_alone(pipeline: Any, options: Any) -> None:
    ours = pipeline(**options)
    jobs = [
        Job("a red circle", 0, 64, 64, steps=1, guidance=1.0),
        Job("the sea", 1, 64, 64, steps=3, guidance=1.5, image=PICTURE, strength=0.4, negative_prompt="blue"),
        Job("", 2, 64, 64, steps=4, guidance=4.0),
        Job("a hill", 3, 64, 64, steps=2, guidance=1.0, image=PICTURE, mask=MASK, strength=0.8),
    ]
    for job, row in zip(jobs, tiny.drawn(ours, jobs, bucket=8), strict=True):
        (alone,) = tiny.drawn(ours, [job])
        assert (row.latents - alone.latents).norm() <= 1e-5 * alone.latents.norm()


def test_prompt_pooled_prompt_and_sizes_all_reach_the_picture(pipeline: Any) -> None:
    ours = pipeline(xl=True)
    job = Job("a red circle", 1, 64, 64, steps=1)
    (reference,) = tiny.drawn(ours, [job])
    other = ours.text.embed("the sea", {})
    for change in ("text", "pooled", "sizes"):
        (row,) = ours.rows(job, None)
        if change == "sizes":
            row.sizes = row.sizes * 2
        else:
            row.embedding = row.embedding._replace(**{change: getattr(other, change)})
        ours.step([row], 1)
        assert (row.latents - reference.latents).norm() > 1e-3 * reference.latents.norm(), change


def test_a_model_says_that_it_is_sdxl(pipeline: Any) -> None:
    (told,) = pipeline(xl=True).models
    assert (told.kind, told.guidance) == ("sdxl", "embedded")
    with pytest.raises(Fault, match="is not loaded here"):
        pipeline(xl=True).lane(Job("a", 1, 64, 64, model="sdv1-5"))
