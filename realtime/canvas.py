"""What the live canvas is given: its files, and what there is to draw with."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from starlette.responses import FileResponse, Response

from engines.embedded import WEIGHTS
from realtime.apps import all_apps
from realtime.errors import UnknownApp
from realtime.fleet import Engines

WEB = Path(__file__).parent.parent / "web"
SUGGESTIONS = WEIGHTS / "suggestions.json"  # what the embedded model is good at, by its training
HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?")
TYPES = {".js": "text/javascript", ".py": "text/x-python", ".webmanifest": "application/manifest+json"}
PAGES = {"/": "index.html", "/docs": "docs.html", "/favicon.ico": "icon.svg"}


def page(path: str, host: str) -> Response | None:
    """The file behind a path, under a policy that lets it load and reach nothing but this server.

    None if the path is none of the canvas. Raises UnknownApp if the canvas was not installed.
    """
    name = PAGES.get(path) or (path.removeprefix("/web/") if path.startswith("/web/") else "")
    if not name or not name.isprintable():
        return None
    file = (WEB / name).resolve()
    if not file.is_relative_to(WEB) or not file.is_file():
        if path in PAGES:
            raise UnknownApp("the canvas is not installed with this server")
        return None
    response = FileResponse(file, media_type=TYPES.get(file.suffix))
    sockets = f"ws://{host} wss://{host}" if HOST.fullmatch(host) else ""  # Safari's 'self' has no sockets
    response.headers["content-security-policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; manifest-src 'self'; "
        f"img-src 'self' data: blob:; connect-src 'self' {sockets}; worker-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    response.headers["x-content-type-options"] = "nosniff"
    response.headers["referrer-policy"] = "no-referrer"
    response.headers["cache-control"] = "no-cache"
    return response


def info(engine: Engines, *, model: str, draining: bool) -> dict[str, Any]:
    """Models, the state of the engine, apps with their schemas, and what to try with this model."""
    return {
        "models": [asdict(loaded) for loaded in engine.models],
        "engine": {
            "state": "draining" if draining else engine.state,
            "progress": asdict(engine.progress) if engine.progress else None,
        },
        "apps": _apps(),
        # {prompts, palette ("#rrggbb"), native_size (pixels), max_good_steps, knows (words, may be absent)}
        "suggestions": json.loads(SUGGESTIONS.read_text()) if model == "embedded" else {},
    }


@cache  # every open page asks each few seconds, and pydantic takes 11 ms
def _apps() -> list[dict[str, Any]]:
    return [{"id": app.id, "schema": app.request.model_json_schema()} for app in all_apps()]
