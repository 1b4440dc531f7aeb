"""What answers HTTP beside the gateway's own few pages: runs, the queue, storage, the proxy, the docs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from realtime.hosts import Role, Target


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Everything made belongs to a caller, and no other ever sees it (their 403 is a 404)."""

    key_id: str  # of an API key, or of the key behind a token; "" on an open server


class Service(ABC):
    """One part of fal's HTTP API. The gateway asks its services in turn; the first answer counts.

    `request.state.request_id` is the id this answer carries as `x-fal-request-id`, unless the service
    sets that header itself. A Failure that is raised becomes the answer.
    """

    roles: Collection[Role] = frozenset(Role)  # asked for these only; PLAIN is every role at once

    def public(self, request: Request, target: Target) -> bool:
        """Whether this request is this service's and needs no API key: it is for anybody, or proves itself
        by its URL or by a token that the service checks. `respond` then gets Caller("")."""
        return False

    @abstractmethod
    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        """None: not mine. Raises Failure."""

    async def run(self) -> None:
        """Work in the background, until cancelled. An exception out of it ends the server."""
        return None
