"""Orders for the tests of the queue."""

from __future__ import annotations

from typing import Any

from realtime.queue.records import Ending, Order

APP, TENANT = "fal-ai/lcm", "ann"


def order(id: str, **given: Any) -> Order:
    """One of its own: no two with different ids are equal."""
    usual: dict[str, Any] = {
        "tenant": TENANT,
        "app": APP,
        "endpoint": APP,
        "body": b'{"prompt":"%s"}' % id.encode(),
        "base": "http://here",
    }
    return Order(id, **(usual | given))


def ending(text: str = "{}", status: int = 200) -> Ending:
    return Ending(status, {"x-fal-billable-units": "1"}, text.encode(), 0.25)
