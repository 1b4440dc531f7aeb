"""fal-ai/fast-sdxl: its fields over the planner of a consistency model."""

from __future__ import annotations

from typing import Any

import pytest

from engines.messages import Model
from realtime.apps import find
from realtime.apps.app import Request
from realtime.errors import InvalidInput, Unsupported
from realtime.images import Media
from tests import pictures

MODEL = Model("some-lcm", "sdv1-5", 512, 256, 768, 8, "cpu", "float32", "embedded", False, ["image", "mask"])


def parse(path: str = "", **fields: Any) -> Request:
    app = find("fal-ai/fast-sdxl" + path)
    assert app
    return app.parse({"prompt": "a cat", **fields})


def test_pictures_are_kept_unless_asked_for_inside():
    assert not parse().inline
    assert parse(sync_mode=True).inline


@pytest.mark.parametrize(("asked", "drawn", "warned"), [(1, 1, False), (12, 12, False), (25, 12, True)])
def test_steps_of_sdxl_are_drawn_as_what_the_model_needs(asked: int, drawn: int, warned: bool):
    request = parse(num_inference_steps=asked)
    assert request.wish().steps == drawn
    assert any("steps" in warning for warning in request.warnings) is warned


def test_more_steps_than_fal_takes_are_refused():
    with pytest.raises(InvalidInput, match="num_inference_steps"):
        parse(num_inference_steps=51)


@pytest.mark.parametrize("name", ["loras", "embeddings"])
def test_weights_that_cannot_be_loaded_are_refused_by_name(name: str):
    assert parse(**{name: []}).wish()
    with pytest.raises(Unsupported, match=name):
        parse(**{name: [{"path": "https://x.example/lora.safetensors"}]}).wish()


def test_a_size_is_square_hd_unless_given():
    assert parse().wish().size == (1024, 1024)


async def test_image_to_image_keeps_the_size_of_its_input(media: Media):
    app = find("fal-ai/fast-sdxl/image-to-image")
    assert app
    request = app.parse({"prompt": "a cat", "image_url": pictures.data_uri(pictures.png(640, 360))})
    job = await app.plan(request, media, [MODEL])
    assert (job.width, job.height, job.strength) == (640, 360, 0.95)
    assert any("some-lcm" in warning for warning in request.warnings), "it is no SDXL, and it says so"


def test_image_to_image_needs_an_image():
    with pytest.raises(InvalidInput, match="image_url: Field required"):
        parse("/image-to-image")
