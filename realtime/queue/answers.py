"""The bodies fal's clients read: of a submit, of a status, of what went wrong.

Source: fal-js `queue.ts`, fal-client `_parse_status`, fal-swift `QueueStatus`; fal's queue documentation.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from realtime.errors import Failure, NoSpace, TooMuch
from realtime.queue.records import Crowded, Note, Receipt, Status


def urls(base: str, app: str, id: str) -> dict[str, str]:
    """Where the client finds its request. The sub-path it was submitted to is not in it."""
    url = f"{base}/{app}/requests/{id}"
    return {
        "request_id": id,
        "response_url": url,
        "status_url": f"{url}/status",
        "cancel_url": f"{url}/cancel",
    }


def submitted(receipt: Receipt, urls: dict[str, str]) -> dict[str, Any]:
    return {
        "status": "IN_QUEUE",
        "gateway_request_id": receipt.id,
        **urls,
        "queue_position": receipt.position,
        "logs": None,
        "metrics": {},
    }


def status(status: Status, urls: dict[str, str], logs: bool) -> dict[str, Any]:
    """logs: whether the client asked for them; the key is read in any case."""
    said: dict[str, Any] = {"status": status.state, **urls}
    if status.state == "IN_QUEUE":
        said["queue_position"] = status.position
    said["logs"] = [_line(note) for note in status.notes] if logs else None
    said["metrics"] = {"inference_time": status.inference_s} if status.state == "COMPLETED" else {}
    if status.error:
        said |= {"error": status.error, "error_type": status.error_type}
    return said


def _line(note: Note) -> dict[str, Any]:
    return {
        "message": note.message,
        "level": note.level,
        "source": "USER",
        "timestamp": note.timestamp,
        "labels": {"level": note.level},  # fal-swift
    }


def unknown() -> Response:
    """Of nobody, or of somebody else: the same answer."""
    return _refused(404, "not_found", "Request not found", status="NOT_FOUND")


def erased() -> Response:
    return _refused(404, "not_found", "The result is not kept any more", status="NOT_FOUND")


def unfinished() -> Response:
    return _refused(400, "bad_request", "Request is still in progress")


def too_late() -> Response:
    return _refused(400, "bad_request", "Request is already completed", status="ALREADY_COMPLETED")


def _refused(code: int, error_type: str, detail: str, **more: str) -> Response:
    said = {**more, "detail": detail, "error_type": error_type}
    return JSONResponse(said, code, {"x-fal-error-type": error_type})


def crowded(crowded: Crowded) -> Failure:
    waiting = f"{crowded.waiting} requests wait"
    match crowded.by:
        case "server":
            return TooMuch(f"{waiting}, the most this queue takes")
        case "tenant":
            return TooMuch(f"{crowded.waiting} requests of this key wait, the most it may have")
        case "caller":
            return TooMuch(f"{waiting}, as many as fal_max_queue_length allows, or more")
    return NoSpace("the queue's file is full; it has room again as results age, or raise RT_QUEUE_BYTES")
