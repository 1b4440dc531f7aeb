"""fal-ai/fast-sdxl and its image-to-image path, drawn by a consistency model: the same fields, fewer steps.

Whoever wrote for fal's SDXL finds it here under its name; what is not SDXL about the answer is among its
warnings. Source: the app's types in fal's client package; fal-client's own tests call it.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec.structs import replace
from pydantic import ConfigDict, Field

from realtime.apps.app import App
from realtime.apps.fast_lcm import FastLcm, FastLcmImageToImage, result
from realtime.apps.fields import MAX_STEPS, Size, SyncMode
from realtime.apps.output import FastLcmOutput
from realtime.apps.plan import Wish
from realtime.errors import Unsupported

Steps = Annotated[
    int,
    Field(
        title="Steps",
        ge=1,
        le=50,
        description=f"Denoising steps. This server's models need few: more than {MAX_STEPS} are drawn as "
        f"{MAX_STEPS}.",
    ),
]
Weights = Annotated[tuple[Any, ...], Field(max_length=16, description="Not loaded here; must be empty.")]


class FastSdxl(FastLcm):
    """Draws from a prompt."""

    model_config = ConfigDict(title="Fast SDXL", json_schema_extra={"required": ["prompt"]})

    num_inference_steps: Steps = 6
    sync_mode: SyncMode = False
    loras: Weights = ()
    embeddings: Weights = ()

    def wish(self) -> Wish:
        for name in ("loras", "embeddings"):
            if getattr(self, name):
                raise Unsupported.at(name, f"this server cannot load {name}", "unsupported")
        asked = self.num_inference_steps
        if asked > MAX_STEPS:
            self.warnings.append(f"drawn in {MAX_STEPS} steps instead of {asked}")
        return replace(super().wish(), steps=min(asked, MAX_STEPS))


class FastSdxlImageToImage(FastSdxl, FastLcmImageToImage):
    """Redraws a picture by a prompt. The answer has the input's size, 1024 pixels a side at most."""

    model_config = ConfigDict(
        title="Fast SDXL, image to image", json_schema_extra={"required": ["prompt", "image_url"]}
    )

    image_size: Annotated[
        Size,
        Field(
            description="The size of the answer: a preset, or width and height in multiples of 8. Left out, "
            "the input's own size."
        ),
    ] = None


APPS = (
    App("fal-ai/fast-sdxl", "fast-sdxl", FastSdxl, result, FastLcmOutput, inline_bytes=True),
    App(
        "fal-ai/fast-sdxl/image-to-image",
        "fast-sdxl",
        FastSdxlImageToImage,
        result,
        FastLcmOutput,
        inline_bytes=True,
    ),
)
