"""fal-ai/fast-lcm-diffusion and its image-to-image path: other names and defaults over the same planner.

Its msgpack answers carry `content` bytes, as all of fal's fast-* apps (fal-js demo `realtime`).
Source: the app's types in fal's client package.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec.structs import replace
from pydantic import ConfigDict, Field

from engines.messages import Done, Job
from realtime.apps.app import App, Request
from realtime.apps.fields import (
    Count,
    Format,
    Guidance,
    ImageBytes,
    ImageSize,
    ImageUrl,
    NegativePrompt,
    Prompt,
    RequestId,
    Seed,
    Size,
    Steps,
    Strength,
    SyncMode,
    Vae,
)
from realtime.apps.output import FastLcmOutput
from realtime.apps.plan import Wish
from realtime.errors import Unsupported

KINDS = {
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "runwayml/stable-diffusion-v1-5": "sdv1-5",
}


class FastLcm(Request):
    """Draws from a prompt."""

    model_config = ConfigDict(title="Fast LCM diffusion", json_schema_extra={"required": ["prompt"]})

    prompt: Prompt = ""
    model_name: Annotated[
        Literal["stabilityai/stable-diffusion-xl-base-1.0", "runwayml/stable-diffusion-v1-5"],
        Field(description="The model to use for generating the image."),
    ] = "stabilityai/stable-diffusion-xl-base-1.0"
    negative_prompt: NegativePrompt = ""
    image_size: Annotated[
        Size, Field(description="The size of the answer: a preset, or width and height in multiples of 8.")
    ] = ImageSize(width=1024, height=1024)
    num_inference_steps: Steps = 6
    seed: Seed = None
    guidance_scale: Guidance = 1.5
    sync_mode: SyncMode = True
    num_images: Count = 1
    enable_safety_checker: Annotated[
        bool, Field(description="Replace unsafe pictures by black ones, where a safety checker is loaded.")
    ] = True
    safety_checker_version: Annotated[
        Literal["v1", "v2"], Field(description="The safety checker to use; this server knows v1.")
    ] = "v1"
    expand_prompt: Annotated[bool, Field(description="Let a language model expand the prompt.")] = False
    format: Format = "jpeg"
    guidance_rescale: Annotated[
        float, Field(ge=0, le=1, description="Rescales classifier-free guidance against overexposure.")
    ] = 0.0
    request_id: RequestId = ""
    vae: Vae = "auto"

    def check(self) -> None:
        self.need_prompt(self.prompt)

    def wish(self) -> Wish:
        if self.expand_prompt:
            raise Unsupported.at("expand_prompt", "this server has no prompt expansion", "unsupported")
        if self.guidance_rescale:
            raise Unsupported.at("guidance_rescale", "this server cannot rescale guidance", "unsupported")
        if self.enable_safety_checker and self.safety_checker_version != "v1":
            self.warnings.append("safety_checker_version v2 is not known here, v1 is used")
        return Wish(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            steps=self.num_inference_steps,
            guidance=self.guidance_scale,
            count=self.num_images,
            format=self.format,
            safety=self.enable_safety_checker,
            kind=KINDS[self.model_name],
            kind_asked="model_name" in self.__pydantic_fields_set__,
            kind_field="model_name",
            size=self.image_size.pair if self.image_size else None,
            vae=self.vae,
        )


class FastLcmImageToImage(FastLcm):
    """Redraws a picture by a prompt."""

    model_config = ConfigDict(
        title="Fast LCM diffusion, image to image", json_schema_extra={"required": ["prompt", "image_url"]}
    )

    image_url: Annotated[
        ImageUrl, Field(description="The picture to start from, a data URI or an https URL.")
    ] = None
    image_bytes: Annotated[
        ImageBytes, Field(description="`image_url` as raw bytes (msgpack) or base64; goes before it.")
    ] = None
    image: Annotated[
        ImageBytes,
        Field(description="As `image_bytes`; a binary answer then also carries the result as `image`."),
    ] = None
    strength: Strength = 0.95
    preserve_aspect_ratio: Annotated[
        bool, Field(description="Fit the input's aspect ratio into `image_size` instead of cropping to it.")
    ] = False
    crop_output: Annotated[
        bool, Field(description="No effect: the answer has exactly the size asked for, nothing is snapped.")
    ] = False

    def check(self) -> None:
        self.need_one_of("image_url", "image_bytes", "image")

    def wish(self) -> Wish:
        return replace(
            super().wish(),
            strength=self.strength,
            image=self.first_of("image_bytes", "image", "image_url"),
            inside=self.preserve_aspect_ratio,
        )


def result(request: Request, job: Job, done: Done) -> dict[str, Any]:
    """The documented output of fal's fast-* apps, without `images`."""
    assert isinstance(request, FastLcm)
    return {
        "timings": done.timings,
        "seed": done.seed,
        "has_nsfw_concepts": [picture.unsafe for picture in done.pictures],
        "prompt": request.prompt,
        "request_id": request.request_id,
    }


APPS = (
    App("fal-ai/fast-lcm-diffusion", "fast-lcm-diffusion", FastLcm, result, FastLcmOutput, inline_bytes=True),
    App(
        "fal-ai/fast-lcm-diffusion/image-to-image",
        "fast-lcm-diffusion",
        FastLcmImageToImage,
        result,
        FastLcmOutput,
        inline_bytes=True,
    ),
)
