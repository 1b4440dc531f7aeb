"""fal-ai/lcm against its API page: every field, its default, its bounds, and what clients really send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.apps import find
from realtime.apps.lcm import ImageToImage, Lcm
from realtime.errors import InvalidInput

_APP = find("fal-ai/lcm")
assert _APP
APP = _APP


def lcm(**fields: Any) -> Lcm:
    request = APP.parse({"prompt": "a cat", **fields})
    assert isinstance(request, Lcm)
    return request


def refusal(**fields: Any) -> dict[str, Any]:
    """The first detail entry."""
    with pytest.raises(InvalidInput) as caught:
        lcm(**fields)
    assert caught.value.detail
    assert caught.value.status == 422
    return caught.value.detail[0]


# The "Schema, Input" section of the API page; None where it names no default.
DOCUMENTED: dict[str, Any] = {
    "model": "sdv1-5",
    "image_url": None,
    "mask_url": None,
    "strength": 0.8,
    "negative_prompt": "",
    "seed": None,
    "guidance_scale": 1.0,
    "num_inference_steps": 4,
    "image_size": None,
    "sync_mode": False,
    "num_images": 1,
    "enable_safety_checks": True,
    "request_id": "",
    "inpaint_mask_only": False,
    "controlnet_inpaint": False,
    "lora_scale": 1.0,
}


@pytest.mark.parametrize("field", DOCUMENTED)
def test_a_field_left_out_or_null_has_its_documented_default(field: str) -> None:
    assert getattr(lcm(), field) == DOCUMENTED[field]
    assert getattr(lcm(**{field: None}), field) == DOCUMENTED[field]


def test_nothing_documented_is_missing() -> None:
    extensions = {"image_bytes", "image", "mask_bytes", "format", "vae", "force_msgpack"}
    assert set(Lcm.model_fields) == set(DOCUMENTED) | {"prompt", "lora_url"} | extensions


def test_the_example_of_the_page_is_understood() -> None:
    request = lcm(
        model="sdv1-5",
        prompt="a black cat with glowing eyes, cute, adorable, disney, pixar, highly detailed, 8k",
        image_url="https://storage.googleapis.com/falserverless/model_tests/lcm/inpaint_image.png",
        mask_url="https://storage.googleapis.com/falserverless/model_tests/lcm/inpaint_mask.png",
        strength=0.8,
        negative_prompt="cartoon, illustration, animation. face. male, female",
        seed=42,
        guidance_scale=1,
        num_inference_steps=4,
        image_size={"width": 512, "height": 512},
        num_images=1,
        enable_safety_checks=True,
        lora_scale=1,
    )
    assert request.seed == 42
    assert request.image_size
    assert request.image_size.pair == (512, 512)


GOOD: list[tuple[str, Any, Any]] = [
    ("num_inference_steps", 1, 1),
    ("num_inference_steps", 12, 12),
    ("num_inference_steps", "4", 4),
    ("num_inference_steps", 4.0, 4),
    ("num_inference_steps", " 6 ", 6),
    ("strength", 0, 0.0),
    ("strength", 1, 1.0),
    ("strength", "0.65", 0.65),
    ("guidance_scale", 0, 0.0),
    ("guidance_scale", "1.5", 1.5),
    ("guidance_scale", 20, 20.0),
    ("seed", 0, 0),
    ("seed", "6252023", 6252023),
    ("seed", 2**53 - 1, 2**53 - 1),
    ("seed", 2**63 - 1, 2**63 - 1),
    ("num_images", 8, 8),
    ("num_images", "2", 2),
    ("sync_mode", 1, True),
    ("sync_mode", 0, False),
    ("sync_mode", "true", True),
    ("enable_safety_checks", 0, False),
    ("enable_safety_checks", "false", False),
    ("model", "sdxl", "sdxl"),
    ("format", "png", "png"),
    ("format", "JPG", "jpeg"),
    ("format", "webp", "webp"),
    ("request_id", "6c92a8ce-7a1b", "6c92a8ce-7a1b"),
    ("request_id", 17, "17"),
    ("request_id", "ä☃" * 10_000, "ä☃" * 10_000),
    ("image_url", "", None),
    ("mask_url", "", None),
    ("lora_scale", "0.5", 0.5),
    ("negative_prompt", "x" * 4000, "x" * 4000),
]


@pytest.mark.parametrize(("field", "sent", "meant"), GOOD)
def test_a_value_is_taken_as_it_was_meant(field: str, sent: Any, meant: Any) -> None:
    found = getattr(lcm(**{field: sent}), field)
    assert found == meant
    assert type(found) is type(meant)


BAD: list[tuple[str, Any, str]] = [
    ("num_inference_steps", 0, "greater_than_equal"),
    ("num_inference_steps", 13, "less_than_equal"),
    ("num_inference_steps", 4.5, "int_from_float"),
    ("num_inference_steps", "four", "int_parsing"),
    ("num_inference_steps", [], "int_type"),
    ("strength", -0.01, "greater_than_equal"),
    ("strength", 1.01, "less_than_equal"),
    ("strength", float("nan"), "finite_number"),
    ("strength", "nan", "finite_number"),
    ("guidance_scale", float("inf"), "finite_number"),
    ("guidance_scale", -1, "greater_than_equal"),
    ("guidance_scale", 21, "less_than_equal"),
    ("seed", -1, "greater_than_equal"),
    ("seed", 2**63, "less_than_equal"),
    ("seed", float("nan"), "finite_number"),
    ("seed", 0.5, "int_from_float"),
    ("num_images", 0, "greater_than_equal"),
    ("num_images", 9, "less_than_equal"),
    ("sync_mode", "perhaps", "bool_parsing"),
    ("enable_safety_checks", 2, "bool_parsing"),
    ("model", "sdxl-turbo", "literal_error"),
    ("format", "gif", "literal_error"),
    ("prompt", 7, "string_type"),
    ("prompt", "x" * 4001, "string_too_long"),
    ("prompt", "", "string_too_short"),
    ("prompt", " \n", "string_too_short"),
    ("prompt", None, "missing"),
    ("negative_prompt", "x" * 4001, "string_too_long"),
    ("image_size", "huge", "literal_error"),
    ("image_size", 512, "model_type"),
    ("image_size", [512, 512], "model_type"),
    ("image_url", {}, "bytes_lost"),
    ("image_bytes", {}, "bytes_lost"),
    ("image_url", 5, "image_source_type"),
    ("mask_url", ["a"], "image_source_type"),
    ("lora_url", {}, "string_type"),
    ("lora_scale", "much", "float_parsing"),
]


@pytest.mark.parametrize(("field", "sent", "type"), BAD)
def test_a_value_out_of_bounds_is_an_error_at_its_field(field: str, sent: Any, type: str) -> None:
    entry = refusal(**{field: sent})
    assert entry["loc"] == ["body", field]
    assert entry["type"] == type
    assert entry["msg"]


def test_a_prompt_may_be_empty_when_there_is_an_image() -> None:
    assert lcm(prompt="", image_url="data:,x").prompt == ""
    assert lcm(prompt=None, image_bytes=b"x").prompt == ""


@pytest.mark.parametrize(
    ("sent", "pair"),
    [
        ("square_hd", (1024, 1024)),
        ("square", (512, 512)),
        ("portrait_4_3", (768, 1024)),
        ("portrait_16_9", (576, 1024)),
        ("landscape_4_3", (1024, 768)),
        ("landscape_16_9", (1024, 576)),
        ({"width": 1280, "height": 720}, (1280, 720)),
        ({"width": "768", "height": 768.0}, (768, 768)),
        ({"width": 256}, (256, 512)),
        ({"width": None, "height": 8}, (512, 8)),
        ({}, (512, 512)),
        ({"width": 2048, "height": 2048, "depth": 3}, (2048, 2048)),
    ],
)
def test_a_size_is_a_preset_or_two_sides(sent: Any, pair: tuple[int, int]) -> None:
    size = lcm(image_size=sent).image_size
    assert size
    assert size.pair == pair


@pytest.mark.parametrize(
    ("sent", "where", "type"),
    [
        ({"width": 700}, ["width"], "multiple_of"),
        ({"width": 0}, ["width"], "greater_than"),
        ({"height": -8}, ["height"], "greater_than"),
        ({"height": 4104}, ["height"], "less_than_equal"),
        ({"height": "tall"}, ["height"], "int_parsing"),
        ({"width": 4096, "height": 4096}, [], "image_too_large"),
    ],
)
def test_a_bad_size_names_its_side(sent: Any, where: list[str], type: str) -> None:
    entry = refusal(image_size=sent)
    assert entry["loc"] == ["body", "image_size", *where]
    assert entry["type"] == type


def test_unknown_keys_do_not_matter() -> None:
    assert lcm(_force_msgpack=b"", force_msgpack=3, fps=30, **{"": 1, "a" * 1000: {}}).prompt == "a cat"


def test_all_fields_at_fault_are_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        lcm(num_inference_steps=13, strength=2, seed="x", guidance_scale=-1)
    assert caught.value.detail
    assert [entry["loc"][-1] for entry in caught.value.detail] == [
        "strength",
        "seed",
        "guidance_scale",
        "num_inference_steps",
    ]
    assert "strength: Input should be less than or equal to 1" in caught.value.reason


def test_an_error_echoes_short_values_only() -> None:
    assert refusal(num_inference_steps=13)["input"] == 13
    assert refusal(num_inference_steps=13)["ctx"] == {"le": 12}
    assert len(refusal(prompt="x" * 1_000_000)["input"]) <= 201
    assert "input" not in refusal(prompt=b"x" * 1_000_000)
    assert "input" not in refusal(prompt=["x" * 1_000_000])
    assert "input" not in refusal(strength=float("nan"))
    with pytest.raises(InvalidInput) as caught:
        lcm(prompt="secret" * 1000, seed="secret")
    assert "secret" not in caught.value.reason


def test_half_a_surrogate_pair_is_refused_and_not_echoed() -> None:
    for field in ("prompt", "request_id", "model", "image_size"):
        with pytest.raises(InvalidInput) as caught:
            lcm(**{field: "\ud800"})
        str(caught.value.frame()).encode()


def test_image_to_image_needs_an_image_and_says_so_as_fal_does() -> None:
    for name in ("fal-ai/lcm-sd15-i2i", "fal-ai/lcm/image-to-image"):
        app = find(name)
        assert app
        with pytest.raises(InvalidInput) as caught:
            app.parse({"prompt": "a cat", "image_url": None})
        assert caught.value.detail == [
            {"loc": ["body", "image_url"], "msg": "Field required", "type": "missing"}
        ]
        for field in ("image_url", "image_bytes", "image"):
            assert isinstance(app.parse({"prompt": "a cat", field: "data:,x"}), ImageToImage)


def test_the_first_frame_of_draw_fast_is_understood() -> None:
    app = find("110602490-lcm-sd15-i2i")
    assert app
    request = app.parse(
        {
            "request_id": "6c92a8ce",
            "prompt": "A random image",
            "image_url": "data:image/jpeg;base64,/9j/",
            "sync_mode": True,
            "strength": 0.65,
            "seed": 42,
            "enable_safety_checks": False,
        }
    )
    assert request.model_dump()["strength"] == 0.65
    assert not request.wants_bytes


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Lcm.model_fields, "_force_msgpack", "x"]), values, max_size=8))
def test_any_payload_is_a_request_or_an_error_by_field(payload: dict[str, Any]) -> None:
    try:
        APP.parse(payload)
    except InvalidInput as error:
        fields = {entry["loc"][1] for entry in error.detail or ()}
    else:
        fields = {"none"}
    assert fields
    assert fields <= {*Lcm.model_fields, "none"}
