"""fal-ai/lcm and its image-to-image sibling: latent consistency, few steps, from words, a picture or a mask.

Source: the API page of fal-ai/lcm; the SD1.5 image-to-image app is typed in fal's client package.
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
    ImageUrl,
    NegativePrompt,
    Prompt,
    RequestId,
    Seed,
    Size,
    Steps,
    Strength,
    SyncMode,
    Text,
    Vae,
)
from realtime.apps.output import LcmOutput
from realtime.apps.plan import Wish
from realtime.errors import Unsupported


class ImageToImage(Request):
    """Redraws a picture by a prompt. The answer has the input's size, 1024 pixels a side at most."""

    model_config = ConfigDict(
        title="LCM SD1.5 image to image", json_schema_extra={"required": ["prompt", "image_url"]}
    )

    prompt: Prompt = ""
    image_url: Annotated[
        ImageUrl,
        Field(
            description="The picture to start from, a data URI or an https URL. A side over 1024 pixels is "
            "brought to 1024, keeping the aspect ratio."
        ),
    ] = None
    mask_url: Annotated[
        ImageUrl,
        Field(
            description="What to fill: white is filled, black is kept. A data URI or an https URL of a "
            "picture of the same size as `image_url`."
        ),
    ] = None
    strength: Strength = 0.8
    negative_prompt: NegativePrompt = ""
    seed: Seed = None
    guidance_scale: Guidance = 1.0
    num_inference_steps: Steps = 4
    sync_mode: SyncMode = False
    num_images: Count = 1
    enable_safety_checks: Annotated[
        bool, Field(description="Replace unsafe pictures by black ones, where a safety checker is loaded.")
    ] = True
    request_id: RequestId = ""
    format: Format = "jpeg"
    image_bytes: Annotated[
        ImageBytes, Field(description="`image_url` as raw bytes (msgpack) or base64; goes before it.")
    ] = None
    image: Annotated[
        ImageBytes,
        Field(description="As `image_bytes`; a binary answer then also carries the result as `image`."),
    ] = None

    mask_bytes: Annotated[
        ImageBytes, Field(description="`mask_url` as raw bytes (msgpack) or base64; goes before it.")
    ] = None
    vae: Vae = "auto"

    def check(self) -> None:
        self.need_one_of("image_url", "image_bytes", "image")

    def wish(self) -> Wish:
        return Wish(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            steps=self.num_inference_steps,
            guidance=self.guidance_scale,
            count=self.num_images,
            format=self.format,
            safety=self.enable_safety_checks,
            strength=self.strength,
            image=self.first_of("image_bytes", "image", "image_url") if self.pictured else None,
            mask=self.first_of("mask_bytes", "mask_url") if self.pictured else None,
            vae=self.vae,
        )


class Lcm(ImageToImage):
    """Draws from a prompt; with an image, redraws it; with a mask too, fills the mask's white area."""

    model_config = ConfigDict(
        title="Latent Consistency (SDXL & SDv1.5)", json_schema_extra={"required": ["prompt"]}
    )

    model: Annotated[
        Literal["sdxl", "sdv1-5"], Field(description="The model to use for generating the image.")
    ] = "sdv1-5"
    image_size: Annotated[
        Size,
        Field(
            description="The size of the answer: a preset, or width and height in multiples of 8. Left out, "
            "512x512 from a prompt and the input's own size from an image."
        ),
    ] = None
    inpaint_mask_only: Annotated[
        bool, Field(description="Only the masked area is changed: the rest keeps the input's own pixels.")
    ] = False
    controlnet_inpaint: Annotated[
        bool, Field(description="Inpaint under a ControlNet. Only effective with a mask.")
    ] = False
    lora_url: Annotated[Text, Field(description="A LoRA to draw with.")] = ""
    lora_scale: Annotated[float, Field(ge=0, le=4, description="The weight of the LoRA of `lora_url`.")] = 1.0

    def check(self) -> None:
        if not self.prompt.strip() and not self.first_of("image_bytes", "image", "image_url"):
            self.need_prompt(self.prompt)

    def wish(self) -> Wish:
        if self.lora_url:
            raise Unsupported.at("lora_url", "this server cannot load LoRAs yet", "unsupported")
        wish = replace(
            super().wish(),
            kind=self.model,
            kind_asked="model" in self.__pydantic_fields_set__,
            mask_only=self.inpaint_mask_only,
            size=self.image_size.pair if self.image_size else None,
        )
        if self.controlnet_inpaint and wish.mask:
            raise Unsupported.at(
                "controlnet_inpaint", "no inpainting ControlNet is loaded here", "unsupported"
            )
        return wish


def result(request: Request, job: Job, done: Done) -> dict[str, Any]:
    """The documented output of fal-ai/lcm, without `images`."""
    assert isinstance(request, ImageToImage)
    return {
        "timings": done.timings,
        "seed": done.seed,
        "num_inference_steps": job.steps,
        "request_id": request.request_id,
        "nsfw_content_detected": [picture.unsafe for picture in done.pictures],
    }


APPS = (
    App("fal-ai/lcm", "lcm", Lcm, result, LcmOutput),
    App("fal-ai/lcm/image-to-image", "lcm", ImageToImage, result, LcmOutput),
    App("fal-ai/lcm-sd15-i2i", "lcm-sd15-i2i", ImageToImage, result, LcmOutput),
)
