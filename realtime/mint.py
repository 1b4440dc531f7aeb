"""`POST /tokens/`: a short-lived token for whoever shows a key, for a browser that must not have one.

A bare JSON string for fal's clients, an object at `/tokens/realtime` for the back ends of their
`tokenProvider`. Source: @fal-ai/client `auth.ts`, fal-client `_realtime_token`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from realtime.errors import BadFrame, Failure, MethodNotAllowed
from realtime.hosts import Role, Target
from realtime.service import Caller, Service
from realtime.tokens import MAX_APPS

if TYPE_CHECKING:
    from realtime.gateway import Gateway

STRING, OBJECT = "/tokens", "/tokens/realtime"
MAX_BODY = 64 * 1024
MAX_TOKEN_S = 24 * 3600.0


class Mint(Service):
    roles = frozenset({Role.REST, Role.PLAIN})

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def public(self, request: Request, target: Target) -> bool:
        # The key is judged here: what became of each request is counted.
        return target.path.rstrip("/") in (STRING, OBJECT)

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        if target.path.rstrip("/") not in (STRING, OBJECT):
            return None
        if request.method != "POST":
            raise MethodNotAllowed("POST")
        gateway = self._gateway
        try:
            gateway.check_origin(request.headers)
            key_id = gateway.keys.check(request.headers.get("authorization"))
            body = await _body(request)
            apps = body.get("allowed_apps") or body.get("app") or body.get("apps") or []
            apps = [apps] if isinstance(apps, str) else apps
            if not (
                isinstance(apps, list) and 0 < len(apps) <= MAX_APPS and all(isinstance(a, str) for a in apps)
            ):
                raise BadFrame(f"allowed_apps must name 1 to {MAX_APPS} apps")
            seconds = body.get("token_expiration") or body.get("duration") or gateway.settings.token_s
            if (
                isinstance(seconds, bool)
                or not isinstance(seconds, int | float)
                or not 0 < seconds <= MAX_TOKEN_S
            ):
                raise BadFrame(f"token_expiration must be 1 to {MAX_TOKEN_S:.0f} seconds")
        except Failure as failure:
            gateway.metrics.tokens.labels(failure.error_type).inc()
            raise
        token = gateway.tokens.mint(apps, seconds, key_id)
        gateway.metrics.tokens.labels("minted").inc()
        bare = target.path.rstrip("/") == STRING
        return JSONResponse(token if bare else {"token": token, "expires_in": seconds})


async def _body(request: Request) -> dict[str, Any]:
    """A small JSON object; nothing at all is an empty one. Raises BadFrame."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY:
            raise BadFrame(f"the body is longer than {MAX_BODY} bytes")
    try:
        body = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise BadFrame("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadFrame("the body must be a JSON object")
    return body
