"""What this server serves under its own name: health, metrics, the canvas and what that needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from realtime import canvas, health
from realtime.errors import MethodNotAllowed
from realtime.hosts import Role, Target
from realtime.service import Caller, Service

if TYPE_CHECKING:
    from realtime.gateway import Gateway


class Pages(Service):
    roles = frozenset({Role.PLAIN})

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def public(self, request: Request, target: Target) -> bool:
        return True  # all of them are

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        page = self._page(target.path, request.headers.get("host", ""))
        if page is not None and request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET", "HEAD")
        return page

    def _page(self, path: str, host: str) -> Response | None:
        gateway, engine = self._gateway, self._gateway.engine
        match path:
            case "/livez":
                status, body = health.live()
                return JSONResponse(body, status)
            case "/readyz":
                status, body = health.ready(
                    engine=engine.state, draining=gateway.draining, sockets=len(gateway.sockets)
                )
                return JSONResponse(body, status)
            case "/metrics":
                gateway.metrics.engine.stats = engine.stats
                return PlainTextResponse(gateway.metrics.render(), media_type="text/plain; version=0.0.4")
            case "/info":
                return JSONResponse(
                    canvas.info(engine, model=gateway.settings.model, draining=gateway.draining)
                )
        return canvas.page(path, host)
