"""What every app shares: tolerant requests, errors by field, and the way from a request to its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import CoreSchema

from engines.messages import Done, Job, Model
from realtime import answer
from realtime.apps.fields import Source
from realtime.apps.output import Output
from realtime.apps.plan import Wish, pictures, plan
from realtime.errors import InvalidInput
from realtime.images import Media

PICTURES = frozenset({"image", "image_url", "image_bytes", "mask_url", "mask_bytes"})  # fields that take one
ECHO_CHARS = 200  # of a refused value in its error entry: enough to recognise it, never a picture


def title(name: str) -> str:
    """A field's label in a form: "image_url" becomes "Image url"."""
    return name.replace("_", " ").capitalize()


class Request(BaseModel):
    """A documented input. Unknown keys are tolerated, as fal does; NaN and infinities are not."""

    model_config = ConfigDict(
        extra="ignore",
        allow_inf_nan=False,
        protected_namespaces=(),  # fal names fields `model` and `model_name`
        field_title_generator=lambda name, _: title(name),
    )

    # Demo apps for serverless-client 0.7-0.9 send it (an empty Uint8Array) to get binary frames.
    force_msgpack: SkipJsonSchema[Any] = Field(default=None, validation_alias="_force_msgpack")

    @property
    def wants_bytes(self) -> bool:
        """The caller speaks in raw bytes and reads `images[].content` (fal-js demo `realtime`)."""
        return self.force_msgpack is not None or (
            self.pictured and any(type(getattr(self, name, None)) is bytes for name in PICTURES)
        )

    @property
    def wants_echo(self) -> bool:
        """The caller sent `image` as bytes and reads `image` back (fal-js demo `camera-turbo`, old)."""
        return "image" in self.__pydantic_fields_set__ and isinstance(getattr(self, "image", None), bytes)

    @property
    def inline(self) -> bool:
        """Over HTTP: pictures go into the answer as data URIs, instead of URLs to fetch them at."""
        return bool(getattr(self, "sync_mode", False))

    @property
    def warnings(self) -> list[str]:
        """What was understood differently from what the words say. Filled by `App.plan`."""
        # Not a private attribute of pydantic's: one costs every request 2 us.
        warnings: list[str] = self.__dict__.setdefault("_warnings", [])
        return warnings

    def check(self) -> None:
        """Rules across fields. Raises InvalidInput."""

    def wish(self) -> Wish:
        """This request in the planner's words. Raises Unsupported for what no model here can do."""
        raise NotImplementedError

    def need_prompt(self, prompt: str) -> None:
        """Raises InvalidInput unless the prompt says something: there is no image to start from."""
        if "prompt" not in self.model_fields_set:
            raise InvalidInput.at("prompt", "Field required", "missing")
        if not prompt.strip():
            raise InvalidInput.at("prompt", "is empty; say what to draw", "string_too_short", min_length=1)

    def need_one_of(self, field: str, *instead: str) -> None:
        """Raises InvalidInput at `field` unless it or one of the others is set."""
        if all(getattr(self, name) is None for name in (field, *instead)):
            raise InvalidInput.at(field, "Field required", "missing")

    @property
    def pictured(self) -> bool:
        """Whether any field that takes a picture was sent."""
        return not self.__pydantic_fields_set__.isdisjoint(PICTURES)

    def first_of(self, *fields: str) -> tuple[str, Source] | None:
        """(name, picture) of the first of these fields that is set; a further one earns a warning."""
        found = [(name, value) for name in fields if (value := getattr(self, name)) is not None]
        for name, _ in found[1:]:
            self.warnings.append(f"{name} is ignored: {found[0][0]} was sent too")
        return found[0] if found else None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # Web controls read the schema: an optional integer is an integer box, empty, not "null".
        schema = handler(core)
        for name, field in handler.resolve_ref_schema(schema).get("properties", {}).items():
            field.setdefault("title", title(name))
            if field.get("default", ...) is None:
                del field["default"]
            if {"type": "null"} in field.get("anyOf", ()):
                one, *others = [kind for kind in field.pop("anyOf") if kind != {"type": "null"}]
                field.update({"anyOf": [one, *others]} if others else one)
        return schema


@dataclass(frozen=True, slots=True)
class App:
    """One endpoint. `answer` is pure; `parse` and `plan` raise Failure and nothing else."""

    id: str  # canonical, "fal-ai/lcm"
    alias: str  # second path segment: what a token's allowed_apps names
    request: type[Request]
    result: Callable[[Request, Job, Done], dict[str, Any]]  # the answer without its images
    output: type[Output] = Output  # what the whole answer is documented to be
    inline_bytes: bool = False  # a msgpack request is answered with `content` bytes, not a data URI

    def parse(self, payload: Mapping[str, Any]) -> Request:
        """The request, defaults filled in. A null is a missing key (JavaScript's `undefined`).

        Raises InvalidInput whose `detail` names every field at fault, in pydantic's shape.
        """
        if None in payload.values():
            payload = {key: value for key, value in payload.items() if value is not None}
        try:
            # `model_validate` does the same and takes 0.5 us longer.
            request: Request = self.request.__pydantic_validator__.validate_python(payload)
        except ValidationError as error:
            raise invalid(error) from None
        request.check()
        return request

    def plan_at_once(self, request: Request, models: list[Model]) -> Job | None:
        """As `plan`, or None if something has to be waited for: a picture, or the first engine."""
        if not models:
            return None
        request.__dict__.pop("_warnings", None)  # of an earlier plan
        wish = request.wish()
        if wish.image is not None or wish.mask is not None:
            return None
        job, warnings = plan(wish, models)
        if warnings:
            request.warnings.extend(warnings)
        return job

    async def plan(self, request: Request, media: Media, models: list[Model]) -> Job:
        """The complete job: pictures opened, size, seed and model chosen.

        models: what the engine has loaded, the default first; empty while it starts.
        Raises Failure: ImageError, FetchError, Unsupported, EngineLost.
        """
        request.__dict__.pop("_warnings", None)  # of an earlier plan
        wish = request.wish()
        job, warnings = plan(wish, models, *await pictures(wish, media, models))
        request.warnings.extend(warnings)
        return job

    def answer(
        self, request: Request, job: Job, done: Done, *, binary: bool, urls: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The documented output. binary: the request came as msgpack, so bytes may be in the answer.

        urls: where the pictures are kept, one each, if they are.
        """
        if urls is not None:
            images = answer.links(done.pictures, urls)
        else:
            as_bytes = binary and (self.inline_bytes or request.wants_bytes)
            images = answer.images(done.pictures, as_bytes=as_bytes)
        body = {"images": images, **self.result(request, job, done)}
        answer.note(body, request.warnings, job, done)
        if binary and request.wants_echo:
            body["image"] = done.pictures[0].data
        return body


def invalid(error: ValidationError) -> InvalidInput:
    """fal's 422 body from pydantic's errors, without echoing long values back."""
    detail = [_entry(dict(item)) for item in error.errors(include_url=False)]
    said = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in detail[:3])
    return InvalidInput(said, detail)


def _entry(item: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"loc": ["body", *item["loc"]], "msg": item["msg"], "type": item["type"]}
    value = item.get("input")
    if isinstance(value, str):
        shown = value if len(value) <= ECHO_CHARS else value[:ECHO_CHARS] + "…"
        entry["input"] = shown.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
    elif isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        entry["input"] = value
    if ctx := {k: v for k, v in item.get("ctx", {}).items() if isinstance(v, str | int | float)}:
        entry["ctx"] = ctx
    return entry
