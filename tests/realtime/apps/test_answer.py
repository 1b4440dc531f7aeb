"""The answer in the shape each client reads, and honest about what was not done as asked."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from engines.messages import Done, Job, Picture
from realtime.apps import all_apps, find

JPEG = b"\xff\xd8\xff\xe0 picture"
LCM, FAST = "fal-ai/lcm", "fal-ai/fast-lcm-diffusion"


def answer(
    endpoint: str = LCM,
    *,
    binary: bool = False,
    count: int = 1,
    drawn: tuple[int, int] = (512, 512),
    unsafe: bool = False,
    warnings: tuple[str, ...] = (),
    told: tuple[str, ...] = (),
    **fields: Any,
) -> dict[str, Any]:
    app = find(endpoint)
    assert app
    request = app.parse({"prompt": "a cat", "request_id": "r1", **fields})
    request.warnings.extend(warnings)
    job = Job("a cat", 42, 512, 512, count=count)
    pictures = [Picture(JPEG, "image/jpeg", 512, 512, unsafe)] * count
    timings = {"inference": 0.5, "steps": [{"seconds": 0.1, "batch": 2}]}
    done = Done(1, pictures, 42, list(drawn), timings, 0.0, warnings=list(told))
    return app.answer(request, job, done, binary=binary)


URI = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
AS_URL = {"url": URI, "content_type": "image/jpeg", "width": 512, "height": 512}
AS_BYTES = {"content": JPEG, "content_type": "image/jpeg", "width": 512, "height": 512}


def test_lcm_answers_what_its_page_documents() -> None:
    assert answer() == {
        "images": [AS_URL],
        "timings": {"inference": 0.5, "steps": [{"seconds": 0.1, "batch": 2}]},
        "seed": 42,
        "num_inference_steps": 4,
        "request_id": "r1",
        "nsfw_content_detected": [False],
        "safety_checked": False,
    }


def test_fast_lcm_answers_what_its_types_document() -> None:
    assert answer(FAST) == {
        "images": [AS_URL],
        "timings": {"inference": 0.5, "steps": [{"seconds": 0.1, "batch": 2}]},
        "seed": 42,
        "prompt": "a cat",
        "request_id": "r1",
        "has_nsfw_concepts": [False],
        "safety_checked": False,
    }


# fal-protocol: what the apps written against each id really read
SHAPES: list[tuple[str, bool, dict[str, Any], dict[str, Any]]] = [
    (LCM, False, {}, AS_URL),
    (LCM, True, {}, AS_URL),
    (LCM, True, {"image_url": "data:,x"}, AS_URL),
    (LCM, True, {"image_bytes": b"x"}, AS_BYTES),
    (LCM, True, {"image": b"x"}, AS_BYTES),
    (LCM, True, {"image_url": b"x"}, AS_BYTES),
    (LCM, True, {"_force_msgpack": b""}, AS_BYTES),
    (LCM, True, {"_force_msgpack": None}, AS_URL),
    (LCM, False, {"_force_msgpack": {}}, AS_URL),
    (LCM, False, {"image_bytes": {"0": 255}}, AS_URL),
    (LCM, False, {"image_bytes": "/9j/"}, AS_URL),
    ("110602490-lcm-sd15-i2i", False, {"image_url": "data:,x"}, AS_URL),
    ("110602490-lcm-sd15-i2i", True, {"image_url": "data:,x"}, AS_URL),
    (FAST, False, {}, AS_URL),
    (FAST, True, {}, AS_BYTES),
    (FAST + "/image-to-image", True, {"image_bytes": b"x"}, AS_BYTES),
    (FAST + "/image-to-image", True, {"image_url": "data:,x"}, AS_BYTES),
]


@pytest.mark.parametrize(("endpoint", "binary", "fields", "shape"), SHAPES)
def test_pictures_come_as_the_client_reads_them(
    endpoint: str, binary: bool, fields: dict[str, Any], shape: dict[str, Any]
) -> None:
    assert answer(endpoint, binary=binary, **fields)["images"] == [shape]


def test_image_bytes_are_echoed_at_the_top_to_who_sent_them_so() -> None:
    assert answer(binary=True, image=b"x")["image"] == JPEG
    assert answer(FAST + "/image-to-image", binary=True, image=b"x")["image"] == JPEG
    assert "image" not in answer(binary=True, image_bytes=b"x")
    assert "image" not in answer(binary=False, image="/9j/")


def test_a_text_answer_is_json() -> None:
    for app in all_apps():
        json.dumps(answer(app.id, image_url="data:,x", image="/9j/", warnings=("so",), drawn=(128, 128)))


def test_every_picture_is_answered() -> None:
    found = answer(count=3, unsafe=True)
    assert found["images"] == [AS_URL] * 3
    assert found["nsfw_content_detected"] == [True] * 3


def test_a_request_without_an_id_gets_an_empty_one() -> None:
    assert answer(request_id=None)["request_id"] == ""


def test_a_picture_drawn_at_another_size_says_so() -> None:
    assert answer(drawn=(128, 96))["rendered_size"] == {"width": 128, "height": 96}
    assert "rendered_size" not in answer()


def test_warnings_reach_the_client() -> None:
    assert answer(warnings=("negative_prompt has no effect",))["warnings"] == [
        "negative_prompt has no effect"
    ]
    assert answer(warnings=("of the plan",), told=("of the engine",))["warnings"] == [
        "of the plan",
        "of the engine",
    ]
    assert "warnings" not in answer()
