"""The document itself, for some apps or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from realtime import __version__
from realtime.apps import App
from realtime.openapi import paths, schemas, storage
from realtime.openapi.grammar import Json, api_key, failures

WORDS = (
    "fal's API, served by this machine; fal's own clients speak it unmodified, and `/docs` shows how to "
    "point them here. A run takes GET too, with its input in the query."
)


def document(apps: Sequence[App], origin: str, *, idle_s: float, keys_required: bool) -> Json:
    """origin: scheme, host and path prefix under which the reader reached this server.

    idle_s: when a silent socket is closed. keys_required: whether a request needs an API key.
    """
    found: Json = {}
    for app in apps:
        found |= paths.of_app(app, idle_s)
    for root in dict.fromkeys("/".join(app.id.split("/")[:2]) for app in apps):
        found |= paths.of_requests(root)
    found |= paths.shared() | storage.paths()
    if not keys_required:
        for item in found.values():
            for operation in item.values():
                ways = operation.get("security", ())
                if {"key": []} in ways and {} not in ways:
                    operation["security"] = [*ways, {}]
    one = apps[0] if len(apps) == 1 else None
    return {
        "openapi": "3.1.0",
        "info": {
            "title": one.request.model_config.get("title", one.id) if one else "realtime",
            "version": __version__,
            "description": WORDS,
            **({"x-fal-metadata": {"endpointId": one.id}} if one else {}),
        },
        "servers": [{"url": origin}],
        "security": [{"key": []}, *([] if keys_required else [{}])],
        "paths": found,
        "components": {
            "schemas": _schemas(apps),
            "responses": failures(),
            "securitySchemes": {
                "key": api_key("header", "Authorization", "`Key <id>:<secret>`"),
                "token": api_key("query", "fal_jwt_token", "A token of `/tokens/` in place of the key"),
                "upload": {"type": "http", "scheme": "bearer", "description": "Of `/storage/auth/token`"},
            },
        },
    }


def _schemas(apps: Sequence[App]) -> Json:
    shared = [
        model
        for model in vars(schemas).values()
        if isinstance(model, type) and issubclass(model, schemas.Open)
    ]
    apps_own = [model for app in apps for model in (app.request, app.output)]
    models: list[type[BaseModel]] = [*shared, *apps_own]
    wanted: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (model, "validation") for model in dict.fromkeys(models) if model is not schemas.Open
    ]
    _, definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    found: Json = definitions["$defs"]
    return found
