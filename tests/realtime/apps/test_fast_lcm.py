"""fal-ai/fast-lcm-diffusion: other names and defaults, the same planner. Source: fal's client types."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.apps import find
from realtime.apps.app import Request
from realtime.errors import InvalidInput, Unsupported

DOCUMENTED: dict[str, Any] = {
    "model_name": "stabilityai/stable-diffusion-xl-base-1.0",
    "negative_prompt": "",
    "num_inference_steps": 6,
    "seed": None,
    "guidance_scale": 1.5,
    "sync_mode": True,
    "num_images": 1,
    "enable_safety_checker": True,
    "safety_checker_version": "v1",
    "expand_prompt": False,
    "format": "jpeg",
    "guidance_rescale": 0.0,
    "request_id": "",
}
FROM_IMAGE: dict[str, Any] = {"strength": 0.95, "preserve_aspect_ratio": False, "crop_output": False}


def parse(path: str = "", **fields: Any) -> Request:
    app = find("fal-ai/fast-lcm-diffusion" + path)
    assert app
    return app.parse({"prompt": "a cat", **fields})


@pytest.mark.parametrize("field", DOCUMENTED)
def test_a_field_left_out_has_its_documented_default(field: str) -> None:
    assert getattr(parse(), field) == DOCUMENTED[field]
    assert getattr(parse("/image-to-image", image_url="data:,x"), field) == DOCUMENTED[field]


@pytest.mark.parametrize("field", FROM_IMAGE)
def test_image_to_image_adds_fields_of_its_own(field: str) -> None:
    assert getattr(parse("/image-to-image", image_url="data:,x"), field) == FROM_IMAGE[field]
    assert not hasattr(parse(), field)


def test_a_size_is_square_hd_unless_given() -> None:
    assert parse().wish().size == (1024, 1024)
    assert parse(image_size=None).wish().size == (1024, 1024)
    assert parse(image_size="landscape_16_9").wish().size == (1024, 576)


def test_image_to_image_needs_an_image() -> None:
    with pytest.raises(InvalidInput, match="image_url: Field required"):
        parse("/image-to-image")


def test_text_to_image_needs_a_prompt() -> None:
    with pytest.raises(InvalidInput, match="prompt: is empty"):
        parse(prompt="")


@pytest.mark.parametrize(("field", "value"), [("expand_prompt", True), ("guidance_rescale", 0.7)])
def test_what_cannot_be_done_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(Unsupported, match=field):
        parse(**{field: value}).wish()


def test_the_first_frame_of_the_real_time_demo_is_understood() -> None:
    request = parse(
        _force_msgpack=b"",
        enable_safety_checker=False,
        image_size={"width": 768, "height": 768},
        sync_mode=True,
        num_images=1,
        num_inference_steps="4",
        seed="6252023",
        request_id="r",
    )
    wish = request.wish()
    assert (wish.steps, wish.seed, wish.size, wish.safety) == (4, 6252023, (768, 768), False)
    assert request.wants_bytes
