"""The documented outputs, for the OpenAPI document: what `App.answer` builds as plain dictionaries.

Answers are not validated against these while serving, tests/realtime/test_openapi.py holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Image(BaseModel):
    """One picture: at a URL, or in the answer itself when `sync_mode` is on."""

    url: Annotated[str, Field(description="Where to fetch it, or a data URI with the picture itself.")]
    content_type: Annotated[str, Field(examples=["image/jpeg"])]
    width: Annotated[int, Field(description="Pixels.")]
    height: Annotated[int, Field(description="Pixels.")]
    file_name: Annotated[str | None, Field(description="Of a picture at a URL.")] = None
    file_size: Annotated[int | None, Field(description="Bytes, of a picture at a URL.")] = None


class RenderedSize(BaseModel):
    """The size the model drew at, where the answer was resampled from it. Pixels."""

    width: int
    height: int


class Output(BaseModel):
    """What every app here answers."""

    model_config = ConfigDict(extra="allow")

    images: Annotated[list[Image], Field(description="The generated pictures.")]
    timings: Annotated[
        dict[str, Any],
        Field(
            description="Seconds of each stage. The server's: `receive` (first to last byte of the request; "
            "0 of one from the queue, whose body was there), `decode` (bytes to a valid request), `prepare` "
            "(opening pictures) and, over a WebSocket alone, `send` (until the answer is written: one that "
            "is kept cannot know). The engine's: `queue`, `text`, `vae_encode`, `steps`, `vae`, `encode`; "
            "`inference` is what the model took."
        ),
    ]
    seed: Annotated[
        int, Field(description="The seed of the first picture. Sent back, it draws the same pictures.")
    ]
    request_id: Annotated[str, Field(description="As it was sent.")]
    safety_checked: Annotated[bool, Field(description="Whether a safety checker looked at the pictures.")]
    rendered_size: RenderedSize | None = None
    warnings: Annotated[
        list[str] | None, Field(description="What was understood differently from what was sent.")
    ] = None


class LcmOutput(Output):
    """Of fal-ai/lcm and its siblings."""

    num_inference_steps: Annotated[int, Field(description="Denoising steps that were run.")]
    nsfw_content_detected: Annotated[list[bool], Field(description="For each picture.")]


class FastLcmOutput(Output):
    """Of fal's fast-* apps."""

    prompt: Annotated[str, Field(description="The prompt that was drawn.")]
    has_nsfw_concepts: Annotated[list[bool], Field(description="For each picture.")]
