"""From a request to a complete job: model, pictures, size, seed, strength; and what is honestly refused."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engines.messages import Job, Model
from realtime.apps import find
from realtime.apps.app import Request
from realtime.apps.plan import SAFE_INTEGER, fit
from realtime.errors import EngineLost, ImageError, InvalidInput, Unsupported
from realtime.images import Media
from tests.pictures import data_uri, picture, png, turned

EMBEDDED = Model(
    "embedded", "sdv1-5", 128, 64, 256, 8, "cpu", "float32", "embedded", False, ["image", "mask"]
)
SDXL = replace(EMBEDDED, name="turbo", kind="sdxl", guidance="cfg")
PICTURE = picture(64, 48)


async def plan(
    media: Media, endpoint: str = "fal-ai/lcm", models: tuple[Model, ...] = (EMBEDDED,), **fields: Any
) -> tuple[Job, Request]:
    app = find(endpoint)
    assert app
    request = app.parse({"prompt": "a cat", **fields})
    return await app.plan(request, media, list(models)), request


async def test_a_bare_prompt_is_a_complete_job(media: Media) -> None:
    job, request = await plan(media)
    assert job == Job(
        "a cat", job.seed, 512, 512, steps=4, guidance=1.0, strength=1.0, safety=True, model="embedded"
    )
    assert request.warnings == []


async def test_every_input_reaches_the_job(media: Media) -> None:
    job, request = await plan(
        media,
        negative_prompt="dogs",
        seed=7,
        num_inference_steps=2,
        guidance_scale=2.5,
        strength=0.5,
        image_url=data_uri(PICTURE),
        mask_bytes=PICTURE,
        inpaint_mask_only=True,
        image_size="landscape_4_3",
        num_images=3,
        vae="full",
        enable_safety_checks=False,
        format="png",
        models=(replace(EMBEDDED, guidance="cfg", features=["image", "mask", "full-vae"]),),
    )
    assert job == Job(
        prompt="a cat",
        negative_prompt="dogs",
        seed=7,
        width=1024,
        height=768,
        steps=2,
        guidance=2.5,
        strength=0.5,
        image=PICTURE,
        mask=PICTURE,
        mask_only=True,
        count=3,
        format="png",
        safety=False,
        model="embedded",
        vae="full",
    )
    assert request.warnings == []


async def test_a_seed_is_kept_and_a_missing_one_is_drawn_inside_javascripts_integers(media: Media) -> None:
    assert (await plan(media, seed=0))[0].seed == 0
    drawn = {(await plan(media, num_images=8))[0].seed for _ in range(50)}
    assert len(drawn) == 50
    assert max(drawn) + 8 <= SAFE_INTEGER


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ((512, 512), (512, 512)),
        ((700, 500), (696, 496)),
        ((1024, 1024), (1024, 1024)),
        ((2048, 1024), (1024, 512)),
        ((1024, 2048), (512, 1024)),
        ((1500, 1000), (1024, 680)),
        ((1025, 7), (1024, 8)),
        ((5, 5), (8, 8)),
        ((4096, 4096), (1024, 1024)),
    ],
)
async def test_an_image_is_answered_in_its_own_size(
    sent: tuple[int, int], answered: tuple[int, int], media: Media
) -> None:
    for endpoint in ("fal-ai/lcm", "fal-ai/lcm-sd15-i2i", "fal-ai/lcm/image-to-image"):
        job, _ = await plan(media, endpoint, image_bytes=png(*sent))
        assert (job.width, job.height) == answered


async def test_the_size_asked_for_is_the_size_answered(media: Media) -> None:
    job, _ = await plan(media, image_bytes=PICTURE, image_size={"width": 1280, "height": 720})
    assert (job.width, job.height) == (1280, 720)


async def test_a_photo_on_its_side_is_answered_upright(media: Media) -> None:
    job, _ = await plan(media, image_bytes=turned(6, 640, 480))
    assert (job.width, job.height) == (480, 640)


def test_fitting_never_leaves_the_box_nor_loses_the_aspect() -> None:
    for width in range(1, 3000, 37):
        for height in range(1, 3000, 41):
            w, h = fit(width, height, 1024, 1024)
            assert w % 8 == h % 8 == 0
            assert 8 <= w <= 1024
            assert 8 <= h <= 1024
            scale = min(1.0, 1024 / max(width, height))
            assert w == 8 or width * scale - 8 < w <= width * scale + 1e-6
            assert h == 8 or height * scale - 8 < h <= height * scale + 1e-6


async def test_a_mask_of_another_size_is_refused_with_both_sizes(media: Media) -> None:
    with pytest.raises(ImageError, match="the mask is 32x32 pixels and the image 64x48") as caught:
        await plan(media, image_bytes=PICTURE, mask_url=data_uri(picture(32, 32)))
    assert caught.value.status == 422
    assert caught.value.detail
    assert caught.value.detail[0]["loc"] == ["body", "mask_url"]
    assert caught.value.detail[0]["type"] == "image_size_mismatch"


async def test_mask_and_image_are_compared_as_people_see_them(media: Media) -> None:
    job, _ = await plan(media, image_bytes=turned(6, 64, 48), mask_bytes=picture(48, 64))
    assert job.mask


async def test_a_mask_needs_an_image(media: Media) -> None:
    with pytest.raises(InvalidInput, match="mask_url: a mask was sent without the image"):
        await plan(media, mask_url=data_uri(PICTURE))


async def test_mask_only_means_nothing_without_a_mask(media: Media) -> None:
    job, _ = await plan(media, image_bytes=PICTURE, inpaint_mask_only=True, controlnet_inpaint=True)
    assert not job.mask_only


async def test_a_damaged_image_is_an_error_at_its_field(media: Media) -> None:
    for field in ("image_url", "image_bytes", "image"):
        with pytest.raises(ImageError) as caught:
            await plan(media, **{field: "data:image/png;base64,aGVsbG8="})
        assert caught.value.detail
        assert caught.value.detail[0]["loc"] == ["body", field]


async def test_bytes_go_before_a_url_and_the_answer_says_so(media: Media) -> None:
    job, request = await plan(media, image_bytes=PICTURE, image_url="https://example.com/a.png")
    assert job.image == PICTURE
    assert request.warnings == ["image_url is ignored: image_bytes was sent too"]


async def test_strength_is_clamped_to_what_the_steps_can_do(media: Media) -> None:
    job, request = await plan(media, image_bytes=PICTURE, strength=0.01)
    assert job.strength == 0.08
    assert request.warnings == ["strength 0.01 is drawn as 0.08, the least 4 steps can do"]
    for steps in range(1, 13):
        for strength in (0.0, 0.02, 0.1, 0.11, 0.2, 0.24, 0.65, 0.8, 1.0):
            job, request = await plan(
                media, image_bytes=PICTURE, strength=strength, num_inference_steps=steps
            )
            assert int(50 * job.strength) >= steps
            assert bool(request.warnings) == (job.strength != strength)


async def test_strength_means_nothing_without_an_image(media: Media) -> None:
    job, request = await plan(media, strength=0.0)
    assert job.strength == 1.0
    assert request.warnings == []


async def test_a_negative_prompt_without_effect_is_said(media: Media) -> None:
    _, request = await plan(media, negative_prompt="dogs")
    assert request.warnings == ["negative_prompt has no effect: embedded embeds the guidance scale"]
    _, request = await plan(media, negative_prompt="dogs", models=(replace(EMBEDDED, guidance="cfg"),))
    assert request.warnings == []


@pytest.mark.parametrize("endpoint", ["fal-ai/lcm", "fal-ai/fast-lcm-diffusion", "fal-ai/fast-sdxl"])
async def test_an_autoencoder_the_model_does_not_have_is_said(media: Media, endpoint: str) -> None:
    both = replace(EMBEDDED, kind="sdxl" if "fast" in endpoint else "sdv1-5")
    both = replace(both, features=["image", "mask", "full-vae", "tiny-vae"])
    for vae in ("auto", "tiny", "full"):
        job, request = await plan(media, endpoint, vae=vae, models=(both,))
        assert (job.vae, request.warnings) == (vae, [])
    tiny = replace(both, features=["image", "mask", "tiny-vae"])
    job, request = await plan(media, endpoint, vae="full", models=(tiny,))
    assert request.warnings == ["vae has no effect: embedded has no full one"]


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("model", {"model": "sdxl"}),
        ("lora_url", {"lora_url": "https://example.com/a.safetensors"}),
        ("controlnet_inpaint", {"controlnet_inpaint": True, "image_bytes": PICTURE, "mask_bytes": PICTURE}),
    ],
)
async def test_what_the_loaded_model_cannot_do_is_refused_by_name(
    field: str, fields: dict[str, Any], media: Media
) -> None:
    with pytest.raises(Unsupported) as caught:
        await plan(media, **fields)
    assert caught.value.detail
    assert caught.value.detail[0]["loc"] == ["body", field]
    assert caught.value.detail[0]["type"] == "unsupported"


@pytest.mark.parametrize(("missing", "field"), [("image", "image_bytes"), ("mask", "mask_bytes")])
async def test_a_model_without_a_feature_says_so(missing: str, field: str, media: Media) -> None:
    model = replace(EMBEDDED, features=[f for f in ("image", "mask") if f != missing])
    with pytest.raises(Unsupported, match=f"embedded takes no {missing}") as caught:
        await plan(media, models=(model,), image_bytes=PICTURE, mask_bytes=PICTURE)
    assert caught.value.detail
    assert caught.value.detail[0]["loc"] == ["body", field]


async def test_a_model_is_chosen_by_kind(media: Media) -> None:
    assert (await plan(media, models=(SDXL, EMBEDDED)))[0].model == "embedded"
    assert (await plan(media, models=(EMBEDDED, SDXL), model="sdxl"))[0].model == "turbo"


async def test_a_default_gives_way_to_what_is_loaded_and_the_answer_says_so(media: Media) -> None:
    job, request = await plan(media, models=(SDXL,))
    assert job.model == "turbo"
    assert request.warnings == ["drawn with turbo (sdxl): no sdv1-5 model is loaded here"]
    job, request = await plan(media, "fal-ai/fast-lcm-diffusion")
    assert job.model == "embedded"
    assert request.warnings == ["drawn with embedded (sdv1-5): no sdxl model is loaded here"]
    with pytest.raises(Unsupported, match="model_name: no sdxl model is loaded here; loaded: embedded"):
        await plan(media, "fal-ai/fast-lcm-diffusion", model_name="stabilityai/stable-diffusion-xl-base-1.0")


async def test_while_the_engine_starts_a_job_waits_for_the_default_model(media: Media) -> None:
    job, _ = await plan(media, models=(), image_bytes=PICTURE)
    assert job.model == ""
    with pytest.raises(EngineLost, match="the engine is starting"):
        await plan(media, models=(), model="sdxl")


async def test_warnings_are_not_repeated_when_a_request_is_planned_again(media: Media) -> None:
    app = find("fal-ai/lcm")
    assert app
    request = app.parse({"prompt": "a cat", "negative_prompt": "dogs"})
    for _ in range(3):
        await app.plan(request, media, [EMBEDDED])
    assert len(request.warnings) == 1


async def test_an_aspect_ratio_can_be_kept_inside_the_size(media: Media) -> None:
    endpoint = "fal-ai/fast-lcm-diffusion/image-to-image"
    job, _ = await plan(media, endpoint, image_bytes=picture(64, 32))
    assert (job.width, job.height) == (1024, 1024)
    job, _ = await plan(media, endpoint, image_bytes=picture(64, 32), preserve_aspect_ratio=True)
    assert (job.width, job.height) == (1024, 512)
