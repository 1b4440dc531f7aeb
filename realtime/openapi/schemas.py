"""What travels over HTTP beside the apps' own inputs and outputs, as the OpenAPI document says it.

These describe and do not serve: every part reads and writes its own wire, and the tests hold the answers
to these. Source: fal's queue and storage API; @fal-ai/client, `types/`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Open(BaseModel):
    """More keys may come; clients ignore those they do not know."""

    model_config = ConfigDict(extra="allow")


# ---- errors ----


class Error(Open):
    """What the caller did, or the limit crossed."""

    detail: str
    error_type: Annotated[str, Field(description="A word for programs; also the header X-Fal-Error-Type.")]


class FieldError(Open):
    """One field at fault, as pydantic says it."""

    loc: Annotated[list[str | int], Field(examples=[["body", "num_inference_steps"]])]
    msg: str
    type: str
    input: Annotated[Any, Field(description="What was sent, if it is short.")] = None
    ctx: Annotated[dict[str, Any] | None, Field(description="The limits crossed.")] = None


class ValidationError(Open):
    detail: list[FieldError]


# ---- streams ----


class Shown(Open):
    """A small picture of what there is so far."""

    url: Annotated[str, Field(description="A data URI.")]
    content_type: str
    width: Annotated[int, Field(description="Pixels.")]
    height: Annotated[int, Field(description="Pixels.")]


class Preview(Open):
    """What a step takes the finished pictures for."""

    partial: Literal[True]
    step: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    images: list[Shown]


# ---- tokens ----


class TokenRequest(Open):
    """A token for browsers, which must not hold a key. It opens sockets and streams until it expires."""

    allowed_apps: Annotated[
        list[str],
        Field(min_length=1, max_length=32, description="Aliases or ids.", examples=[["lcm"]]),
    ]
    token_expiration: Annotated[int | None, Field(ge=1, le=86_400, description="Seconds.")] = None


class Token(Open):
    token: str
    expires_in: Annotated[float, Field(description="Seconds.")]


# ---- queue ----


class Submitted(Open):
    status: Literal["IN_QUEUE"]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: Annotated[int | None, Field(description="Requests before this one.")] = None


class Log(Open):
    message: str
    level: Annotated[str, Field(examples=["INFO"])]
    source: str | None = None
    timestamp: Annotated[str, Field(description="ISO 8601.")]


class Status(Open):
    """A failed or cancelled request is COMPLETED too, with `error`; its result replays the failure."""

    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: Annotated[int | None, Field(description="While IN_QUEUE.")] = None
    logs: Annotated[list[Log] | None, Field(description="null unless asked for with `logs`.")]
    metrics: Annotated[dict[str, Any], Field(description="`inference_time` in seconds, once done.")] = {}
    error: str | None = None
    error_type: str | None = None


class Cancellation(Open):
    status: Annotated[str, Field(examples=["CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"])]


# ---- storage ----


class UploadRequest(Open):
    file_name: Annotated[str | None, Field(examples=["cat.png"])] = None
    content_type: Annotated[str | None, Field(examples=["image/png"])] = None


class Upload(Open):
    upload_url: Annotated[str, Field(description="PUT the bytes there, no key needed. Parts: see there.")]
    file_url: Annotated[str, Field(description="What to send as `image_url` afterwards.")]


class UploadToken(Open):
    token: str
    token_type: Literal["Bearer"]
    base_url: str
    expires_at: Annotated[str, Field(description="ISO 8601.")]


class Stored(Open):
    access_url: str
    uploadId: Annotated[str | None, Field(description="Of an upload in parts.")] = None


class Part(Open):
    partNumber: Annotated[int, Field(ge=1)]
    etag: str


class Parts(Open):
    parts: Annotated[list[Part], Field(min_length=1, max_length=1000)]


class Completed(Open):
    status: Literal["completed"]


class Jwk(Open):
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: Annotated[str, Field(description="The public key, base64url.")]


class Jwks(Open):
    keys: list[Jwk]
