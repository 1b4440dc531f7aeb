"""The words of OpenAPI that the paths are written in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from realtime.openapi import schemas

Json = dict[str, Any]
SSE = "text/event-stream"

# What goes wrong anywhere: status, component, what it means.
ERRORS = {
    "400": ("BadRequest", "The request is not understood"),
    "401": ("Unauthorized", "No key, or a wrong one"),
    "403": ("Forbidden", "A page of an origin this server does not know"),
    "404": ("NotFound", "There is no such thing, or it is somebody else's"),
    "413": ("TooLarge", "More bytes than this server takes"),
    "422": ("Invalid", "A field is missing, mistyped or out of bounds, or a picture cannot be used"),
    "429": ("TooMany", "A limit of this key or server; come back later"),
    "499": ("Cancelled", "Whoever asked cancelled it"),
    "503": ("Unavailable", "The server is going down, its engine died, or its storage fails"),
    "504": ("TimedOut", "Not begun, or not done, in the time given"),
    "507": ("Full", "The server's disk is full, or what this key may store"),
}


def ref(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def operation(
    id: str,
    summary: str,
    answers: dict[str, Json],
    errors: str,
    *,
    tag: str,
    words: str = "",
    body: Json | None = None,
    parameters: Sequence[Json] = (),
    **more: Any,
) -> Json:
    """answers: by status. errors: the other statuses it may have, separated by blanks, all in ERRORS."""
    found: Json = {"operationId": id, "summary": summary, "tags": [tag]}
    if words:
        found["description"] = words
    if parameters:
        found["parameters"] = list(parameters)
    if body:
        found["requestBody"] = body
    found["responses"] = answers | {
        status: {"$ref": f"#/components/responses/{ERRORS[status][0]}"} for status in errors.split()
    }
    return found | more


def body(schema: Json, kind: str = "application/json") -> Json:
    return {"required": True, "content": {kind: {"schema": schema}}}


def answer(words: str, schema: Json, kind: str = "application/json") -> Json:
    return {"description": words, "content": {kind: {"schema": schema}}}


def events(words: str, *data: Json) -> Json:
    """Server-sent events, each with one of these as JSON. Of the stream as a whole 3.1 has no words."""
    said = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": [*data]}}
    return answer(words, {"type": "object", "required": ["data"], "properties": {"data": said}}, SSE)


def parameter(place: str, name: str, schema: Json, words: str) -> Json:
    required = {"required": True} if place == "path" else {}
    return {"in": place, "name": name, "schema": schema, "description": words, **required}


def api_key(place: str, name: str, words: str) -> Json:
    return {"type": "apiKey", "in": place, "name": name, "description": words}


def failures() -> Json:
    """The components behind ERRORS."""
    plain = ref(schemas.Error)
    fields = {"anyOf": [ref(schemas.ValidationError), plain]}
    return {
        name: answer(words, fields if status == "422" else plain) for status, (name, words) in ERRORS.items()
    }
