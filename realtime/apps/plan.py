"""From what is asked to one complete job: which model, which pictures, which size, which seed."""

from __future__ import annotations

import secrets

from msgspec import Struct

from engines.messages import Job, Model
from realtime.apps.fields import Source
from realtime.errors import EngineLost, ImageError, InvalidInput, Unsupported
from realtime.images import Image, Media

SAFE_INTEGER = 2**53 - 1  # the largest a JavaScript client reads back exactly (ECMA-262 21.1.2.6)
INPUT_SIDE = 1024  # a larger input picture is answered at this longest side (fal-ai/lcm, `image_url`)
SQUARE = (512, 512)  # fal-ai/lcm: text-to-image without a size
TRAINING_STEPS = 50  # of the schedule LCM was distilled on: strength has this many notches


class Wish(Struct, frozen=True, gc=False):
    """What a request asks for, whatever its app calls it. Sizes in pixels."""

    prompt: str
    negative_prompt: str
    seed: int | None
    steps: int
    guidance: float
    count: int
    format: str
    safety: bool
    kind: str = "sdv1-5"  # or "sdxl"
    kind_asked: bool = False  # False: it is only the documented default, another loaded model will do
    kind_field: str = "model"
    strength: float = 1.0
    image: tuple[str, Source] | None = None  # (request field, picture)
    mask: tuple[str, Source] | None = None
    mask_only: bool = False
    size: tuple[int, int] | None = None  # None: the input picture's, or SQUARE
    inside: bool = False  # `size` is a box the input picture's aspect is fitted into
    vae: str = "auto"  # or "tiny", "full"


def plan(
    wish: Wish, models: list[Model], image: Image | None = None, mask: Image | None = None
) -> tuple[Job, list[str]]:
    """(job, warnings). The pictures are the wish's, opened; models: the default first, [] while the engine
    starts. Raises Failure."""
    model, warnings = choose(wish, models)
    if model and wish.negative_prompt and model.guidance == "embedded":
        warnings.append(f"negative_prompt has no effect: {model.name} embeds the guidance scale")
    if model and wish.vae != "auto" and f"{wish.vae}-vae" not in model.features:
        warnings.append(f"vae has no effect: {model.name} has no {wish.vae} one")
    strength = 1.0
    if image:
        strength = wish.strength
        if int(TRAINING_STEPS * strength) < wish.steps:
            strength = wish.steps / TRAINING_STEPS
            warnings.append(
                f"strength {wish.strength:g} is drawn as {strength:g}, the least {wish.steps} steps can do"
            )
    width, height = _size(wish, image)
    job = Job(  # four by position: a call with more than fifteen names goes through a dictionary
        wish.prompt,
        secrets.randbelow(SAFE_INTEGER - wish.count) if wish.seed is None else wish.seed,
        width,
        height,
        negative_prompt=wish.negative_prompt,
        steps=wish.steps,
        guidance=wish.guidance,
        strength=strength,
        image=image.data if image else None,
        mask=mask.data if mask else None,
        mask_only=wish.mask_only and mask is not None,
        count=wish.count,
        format=wish.format,
        safety=wish.safety,
        model=model.name if model else "",
        vae=wish.vae,
    )
    return job, warnings


def choose(wish: Wish, models: list[Model]) -> tuple[Model | None, list[str]]:
    """The model to draw with, None for "the default, once there is one". Raises Unsupported, EngineLost."""
    if not models:
        if wish.kind_asked and wish.kind != "sdv1-5":
            raise EngineLost(f"the engine is starting; ask for {wish.kind} again when it is ready")
        return None, []
    warnings: list[str] = []
    model = models[0] if models[0].kind == wish.kind else _of_kind(wish.kind, models)
    if model is None:
        loaded = ", ".join(f"{model.name} ({model.kind})" for model in models)
        if wish.kind_asked:
            raise Unsupported.at(
                wish.kind_field, f"no {wish.kind} model is loaded here; loaded: {loaded}", "unsupported"
            )
        model = models[0]
        warnings.append(f"drawn with {model.name} ({model.kind}): no {wish.kind} model is loaded here")
    if wish.image or wish.mask:
        for feature, source in (("image", wish.image), ("mask", wish.mask)):
            if source and feature not in model.features:
                raise Unsupported.at(source[0], f"the model {model.name} takes no {feature}", "unsupported")
    return model, warnings


def _of_kind(kind: str, models: list[Model]) -> Model | None:
    return next((model for model in models if model.kind == kind), None)


async def pictures(wish: Wish, media: Media, models: list[Model]) -> tuple[Image | None, Image | None]:
    """(image, mask), opened unless no model here would take them. Raises Failure."""
    choose(wish, models)
    if wish.image is None:
        if wish.mask is not None:
            raise InvalidInput.at(wish.mask[0], "a mask was sent without the image it belongs to")
        return None, None
    field, source = wish.image
    image = await media.open(source, field)
    if wish.mask is None:
        return image, None
    field, source = wish.mask
    mask = await media.open(source, field)
    if (mask.width, mask.height) != (image.width, image.height):
        raise ImageError.at(
            field,
            f"the mask is {mask.width}x{mask.height} pixels and the image {image.width}x{image.height}; "
            "they must have the same size",
            "image_size_mismatch",
            mask=[mask.width, mask.height],
            image=[image.width, image.height],
        )
    return image, mask


def _size(wish: Wish, image: Image | None) -> tuple[int, int]:
    if image is None:
        return wish.size or SQUARE
    if wish.size is None:
        return fit(image.width, image.height, INPUT_SIDE, INPUT_SIDE)
    if wish.inside:
        return fit(image.width, image.height, *wish.size, grow=True)
    return wish.size


def fit(width: int, height: int, box_width: int, box_height: int, *, grow: bool = False) -> tuple[int, int]:
    """The size of a picture shrunk into a box, aspect kept, floored to multiples of 8 and at least 8.

    grow: a picture smaller than the box is enlarged to it.
    """
    scale = min(box_width / width, box_height / height)
    if not grow:
        scale = min(1.0, scale)
    # 1024 / 700 * 700 is 1023.999..: floor only what is really short of a pixel.
    return max(8, int(width * scale + 1e-6) // 8 * 8), max(8, int(height * scale + 1e-6) // 8 * 8)
