"""What headers and query ask of a submit, beside the input of the app.

Source: fal-js `queue.ts`, fal-client `_headers.py`, fal's page on common parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

from realtime.errors import InvalidInput

YES, NO = ("1", "true", "yes"), ("0", "false", "no")


def low_priority(headers: Mapping[str, str]) -> bool:
    """Raises InvalidInput for any priority but normal and low."""
    name = "x-fal-queue-priority"
    priority = headers.get(name, "normal").lower()
    if priority not in ("normal", "low"):
        raise wrong("header", name, "must be normal or low")
    return priority == "low"


def retries(headers: Mapping[str, str]) -> bool:
    """Whether a run that came to nothing may be tried again."""
    return headers.get("x-fal-no-retry", "").lower() not in YES


def stored(headers: Mapping[str, str]) -> bool:
    """Whether the answer may be kept after its client has it."""
    return headers.get("x-fal-store-io", "").lower() not in NO


def longest_queue(query: Mapping[str, str]) -> int | None:
    """How many may wait for this request to be accepted; None: any number. Raises InvalidInput."""
    name = "fal_max_queue_length"
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise wrong("query", name, "must be a whole number, 0 or more")
    return int(text)


def logs(query: Mapping[str, str]) -> bool:
    """JavaScript asks with 1, Python with true."""
    return query.get("logs", "").lower() in YES


def for_queue(headers: Mapping[str, str], query: Mapping[str, str]) -> bool:
    """Under this server's own name a submit has the path of a run; only these words differ."""
    return bool({"fal_webhook", "fal_max_queue_length"} & query.keys()) or "x-fal-queue-priority" in headers


def wrong(place: str, name: str, text: str) -> InvalidInput:
    """A header or query parameter that cannot be."""
    return InvalidInput(f"{name}: {text}", [{"loc": [place, name], "msg": text, "type": "value_error"}])
