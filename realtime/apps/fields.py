"""Field types the apps share: bounds and words in one place, so that schemas, errors and controls agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

PROMPT_CHARS = 4000  # CLIP reads 77 tokens a chunk; more text than this only costs time
MAX_SEED = 2**63 - 1
MAX_STEPS = 12
MAX_IMAGES = 8
MAX_SIDE = 4096
MAX_PIXELS = 2048 * 2048  # of one answered picture; the largest preset is 1024 x 1024

Prompt = Annotated[
    str,
    Field(
        max_length=PROMPT_CHARS,
        description="What to draw. Be as descriptive as possible for best results.",
        examples=["a black cat with glowing eyes, cute, adorable, disney, pixar, highly detailed, 8k"],
        json_schema_extra={"ui": "text"},
    ),
]
NegativePrompt = Annotated[
    str,
    Field(
        max_length=PROMPT_CHARS,
        description="What not to draw: colors, objects, scenery, small details. Acts only with "
        "classifier-free guidance, so on models that embed the guidance scale it has no effect.",
    ),
]
Seed = Annotated[
    Annotated[int, Field(ge=0, le=MAX_SEED)] | None,
    Field(
        description="The same seed and prompt draw the same picture. Left out, one is chosen at random; "
        "the answer names the one used. 0 is a seed like any other."
    ),
]
Guidance = Annotated[
    float,
    Field(
        title="Guidance",
        ge=0,
        le=20,
        description="How closely to follow the prompt (classifier-free guidance scale).",
    ),
]
Steps = Annotated[
    int,
    Field(
        title="Steps",
        ge=1,
        le=MAX_STEPS,
        description="Denoising steps. More look better and take longer.",
    ),
]
Strength = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="How far the result may leave the input image: near 0 keeps it, 1 all but ignores it.",
    ),
]
Count = Annotated[
    int,
    Field(
        title="Pictures",
        ge=1,
        le=MAX_IMAGES,
        description="How many pictures to draw, with seeds seed, seed+1, ...",
    ),
]
RequestId = Annotated[
    str,
    Field(
        max_length=65536,
        coerce_numbers_to_str=True,
        description="Returned unchanged in the answer, so that the caller can match the two.",
    ),
]
SyncMode = Annotated[
    bool,
    Field(
        description="Return the picture in the answer itself, as a data URI, and keep no copy; else it is "
        "kept for a while and the answer has its URL. Over a realtime socket it always comes itself."
    ),
]


Vae = Annotated[
    Literal["auto", "tiny", "full"],
    Field(
        title="VAE",
        description="What turns latents into pictures, where the model has both: `tiny` is quick, `full` is "
        "finer. auto: tiny over a realtime socket, where the next picture is near, and full for requests. "
        "To settle on a fine picture, send the last frame again with `full`.",
    ),
]


def _format(value: Any) -> Any:
    value = value.lower() if isinstance(value, str) else value
    return "jpeg" if value == "jpg" else value


Format = Annotated[
    Literal["jpeg", "png", "webp"],
    BeforeValidator(_format),
    Field(description="File format of the pictures."),
]


def _source(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return value or None
    if isinstance(value, Mapping):
        if not value:
            raise PydanticCustomError(
                "bytes_lost",
                "is an empty object: a Blob or File does not survive the message format; "
                "send its bytes (Uint8Array) or a data URI",
            )
        return value  # a Uint8Array as JSON.stringify writes it; `images` reads it, off the event loop
    raise PydanticCustomError("image_source_type", "must be a data URI, an https URL, base64 text or bytes")


# A picture as the caller gave it: data URI, URL, base64, bytes, or {"0": 255, ...}. "" is none.
Source: TypeAlias = str | bytes | Mapping[str, Any]
ImageUrl = Annotated[
    Source | None,
    PlainValidator(_source),
    WithJsonSchema({"type": "string", "format": "uri", "ui": "image"}),
]
ImageBytes = Annotated[
    Source | None,
    PlainValidator(_source),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]

Preset = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]
# fal-ai/fal toolkit/image/image.py
PRESETS: dict[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}

Side = Annotated[int, Field(gt=0, le=MAX_SIDE, multiple_of=8)]


Text = Annotated[str, Field(max_length=2048)]


class ImageSize(BaseModel):
    """Width and height in pixels, multiples of 8."""

    width: Annotated[Side, Field(description="The width of the generated image.")] = 512
    height: Annotated[Side, Field(description="The height of the generated image.")] = 512

    @property
    def pair(self) -> tuple[int, int]:
        return self.width, self.height


def _preset(value: Any) -> Any:
    """What was sent as a map without nulls."""
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if v is not None} if None in value.values() else value
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise PydanticCustomError(
            "literal_error",
            "Input should be {expected}, or an object with width and height",
            {"expected": ", ".join(map(repr, PRESETS))},
        )
    width, height = PRESETS[value]
    return {"width": width, "height": height}


def _few_enough_pixels(size: ImageSize | None) -> ImageSize | None:
    if size and size.width * size.height > MAX_PIXELS:
        raise PydanticCustomError(
            "image_too_large",
            "{width}x{height} is {pixels} pixels, the limit is {limit}",
            {
                "width": size.width,
                "height": size.height,
                "pixels": size.width * size.height,
                "limit": MAX_PIXELS,
            },
        )
    return size


Size = Annotated[
    ImageSize | None,
    BeforeValidator(_preset, json_schema_input_type=Preset | ImageSize),
    AfterValidator(_few_enough_pixels),
]
