"""Whether the process lives, and whether it should be sent traffic. For orchestrators and balancers."""

from __future__ import annotations

from typing import Any


def live() -> tuple[int, dict[str, Any]]:
    """200 as long as the event loop turns: restart the process if this stops answering."""
    return 200, {"status": "alive"}


def ready(*, engine: str, draining: bool, sockets: int) -> tuple[int, dict[str, Any]]:
    """200 only when an engine takes work and the server is not going down: send it traffic."""
    body = {"status": "ready", "engine": engine, "sockets": sockets}
    if draining:
        return 503, body | {"status": "draining"}
    if engine != "ready":
        return 503, body | {"status": engine}
    return 200, body
