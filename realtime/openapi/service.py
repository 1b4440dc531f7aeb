"""`/openapi.json` for all apps, or for one as `?endpoint_id=owner/app` or `/{owner}/{app}/openapi.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from realtime.apps import all_apps, find
from realtime.errors import MethodNotAllowed, UnknownApp
from realtime.hosts import Role, Target, origin_of
from realtime.openapi.document import document
from realtime.service import Caller, Service

if TYPE_CHECKING:
    from realtime.gateway import Gateway

FILE = "/openapi.json"


class OpenApi(Service):
    roles = frozenset({Role.PLAIN, Role.RUN})

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def public(self, request: Request, target: Target) -> bool:
        return target.path.endswith(FILE)

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        if not self.public(request, target):
            return None
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET", "HEAD")
        apps = all_apps()
        endpoint = target.path.removesuffix(FILE).strip("/") or request.query_params.get("endpoint_id")
        if endpoint:
            app = find(endpoint)
            if app is None:
                raise UnknownApp(f'Application "{endpoint[:100]}" not found')
            apps = [app]
        return JSONResponse(
            document(
                apps,
                origin_of(request),
                idle_s=self._gateway.settings.idle_s,
                keys_required=self._gateway.keys.required,
            )
        )
