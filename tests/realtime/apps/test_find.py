"""Which app a path or an id of fal's clients names, and what its schema tells a form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from realtime.apps import all_apps, find

NAMES = {
    "fal-ai/lcm": "fal-ai/lcm",
    "/fal-ai/lcm/": "fal-ai/lcm",
    "fal-ai/lcm/realtime": "fal-ai/lcm",
    "fal-ai/lcm/ws": "fal-ai/lcm",
    "fal-ai/lcm/text-to-image": "fal-ai/lcm",
    "fal-ai/lcm/inpainting": "fal-ai/lcm",
    "fal-ai/lcm/image-to-image": "fal-ai/lcm/image-to-image",
    "fal-ai/lcm/image-to-image/realtime": "fal-ai/lcm/image-to-image",
    "110602490-lcm": "fal-ai/lcm",
    "110602490/lcm": "fal-ai/lcm",
    "fal-ai/lcm-sd15-i2i": "fal-ai/lcm-sd15-i2i",
    "110602490-lcm-sd15-i2i": "fal-ai/lcm-sd15-i2i",
    "110602490/lcm-sd15-i2i": "fal-ai/lcm-sd15-i2i",
    "110602490-lcm-sd15-i2i/ws": "fal-ai/lcm-sd15-i2i",
    "fal-ai/fast-lcm-diffusion": "fal-ai/fast-lcm-diffusion",
    "fal-ai/fast-lcm-diffusion/image-to-image": "fal-ai/fast-lcm-diffusion/image-to-image",
    "110602490-fast-lcm-diffusion/image-to-image": "fal-ai/fast-lcm-diffusion/image-to-image",
}


@pytest.mark.parametrize("name", NAMES)
def test_an_id_finds_its_app(name: str) -> None:
    app = find(name)
    assert app
    assert app.id == NAMES[name]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "lcm",
        "fal-ai",
        "fal-ai/",
        "fal-ai/lcm2",
        "fal-ai/lcm/upscale",
        "fal-ai/lcm/realtime/realtime",
        "other/lcm",
        "123-lcm",
        "110602490-sdxl-turbo-realtime",
        "fal-ai/fast-lcm-diffusion/inpainting",
        "../fal-ai/lcm",
        "FAL-AI/LCM",
        "1" * 10_000 + "-",
    ],
)
def test_an_unknown_id_finds_nothing(name: str) -> None:
    assert find(name) is None


def test_a_token_for_the_second_segment_covers_the_app_and_its_paths() -> None:
    for app in all_apps():
        assert app.alias == app.id.split("/")[1]


@pytest.mark.parametrize("app", all_apps(), ids=lambda app: app.id)
def test_a_schema_is_enough_to_build_a_form(app: Any) -> None:
    schema = app.request.model_json_schema()
    json.dumps(schema)
    assert schema["title"] not in ("", app.request.__name__)
    assert schema["description"]
    assert set(schema["required"]) <= set(schema["properties"])
    assert "force_msgpack" not in schema["properties"]
    assert "_force_msgpack" not in schema["properties"]
    for name, field in schema["properties"].items():
        assert field["title"], name
        assert field["description"], name
        assert {"type": "null"} not in field.get("anyOf", ()), name
        assert field.get("default", 0) is not None, name
        kinds = [field, *field.get("anyOf", ())]
        assert any("type" in kind or "$ref" in kind for kind in kinds), name
        if field.get("type") in ("integer", "number"):
            assert "minimum" in field, name
            assert "maximum" in field, name
