"""The paths of an app, of its queued requests, and of the tokens and keys that all apps share.

Realtime routes carry fal's `x-fal-protocol` (fal SDK, api.py `_build_protocol_operation`), as OpenAPI has no
words for sockets. Queue paths are written with `/__h/queue.fal.run` before them: on fal's own hosts the same
path is a run at fal.run and a submission at queue.fal.run.
"""

from __future__ import annotations

from realtime.apps import App
from realtime.hosts import PREFIX
from realtime.openapi import schemas
from realtime.openapi.grammar import Json, answer, body, events, operation, parameter, ref
from realtime.session import BUFFERING

QUEUE = f"{PREFIX}queue.fal.run"
OPEN: Json = {"security": [{}]}
EITHER: Json = {"security": [{"key": []}, {"token": []}]}
DRAWN = "400 401 403 413 422 429 503 504 507"  # what a drawing may come to

START_TIMEOUT = parameter(
    "header",
    "x-fal-request-timeout",
    {"type": "number", "exclusiveMinimum": 0},
    "Seconds until the model must have begun; else 504.",
)
LIFECYCLE = parameter(
    "header",
    "x-fal-object-lifecycle-preference",
    {"type": "string", "contentMediaType": "application/json"},
    'For the pictures made, such as `{"expiration_duration_seconds": 3600}`.',
)
SUBMITTING = (
    parameter("query", "fal_webhook", {"type": "string", "format": "uri"}, "Where to POST the result."),
    parameter("query", "fal_max_queue_length", {"type": "integer"}, "429 when more are waiting."),
    parameter("header", "x-fal-queue-priority", {"enum": ["normal", "low"]}, "Low waits for all normal."),
    START_TIMEOUT,
    LIFECYCLE,
)
LOGS = parameter("query", "logs", {"enum": ["0", "1", "true", "false"]}, "Whether to list what was logged.")
ID = parameter("path", "request_id", {"type": "string"}, "From the submission.")


def of_app(app: App, idle_s: float) -> Json:
    """Run, stream, realtime and submission of one endpoint. idle_s: when a silent socket is closed."""
    name = _name(app.id)
    words = (app.request.__doc__ or "").strip()
    given, made = body(ref(app.request)), answer("The pictures", ref(app.output))
    watched = ref(schemas.Preview), ref(app.output), ref(schemas.Error)
    return {
        f"/{app.id}": {
            "post": operation(
                f"{name}_run",
                "Run: ask and wait for the answer",
                {"200": made},
                DRAWN,
                tag=app.id,
                words=words,
                body=given,
                parameters=[START_TIMEOUT, LIFECYCLE],
                **EITHER,
            )
        },
        f"/{app.id}/stream": {
            "post": operation(
                f"{name}_stream",
                "Stream: watch it being drawn",
                {"200": events("A preview after a step, in the end the output, or an error", *watched)},
                DRAWN,
                tag=app.id,
                words="Previews after the denoising steps, as small pictures in the shape of the output, "
                "and then the output.",
                body=given,
                parameters=[START_TIMEOUT, LIFECYCLE],
                **EITHER,
            )
        },
        f"/{app.id}/realtime": {
            "x-fal-protocol": {
                "type": "realtime",
                "operationId": f"{name}_realtime",
                "config": {"buffering": BUFFERING, "sessionTimeout": idle_s, "maxBatchSize": 1},
                "contentType": "application/msgpack",
                "realtimeMode": "unary",
            },
            "post": operation(
                f"{name}_realtime_message",
                "Realtime: a WebSocket, one answer for each message",
                {"200": made},
                f"404 {DRAWN}",
                tag=app.id,
                words="Messages are msgpack maps or JSON text of these two shapes, answered in kind. "
                "`max_buffering` (1 to 60) in the URL says how many may wait; the newest win. It is "
                "written as a POST, OpenAPI having no other words for it; a real one is a 404.",
                body=given,
                **EITHER,
            ),
        },
        f"{QUEUE}/{app.id}": {
            "post": operation(
                f"{name}_submit",
                "Queue: ask now, fetch the answer later",
                {"200": answer("Accepted; it will end exactly once", ref(schemas.Submitted))},
                "400 401 403 413 422 429 503 507",
                tag=app.id,
                words=words,
                body=given,
                parameters=SUBMITTING,
            )
        },
    }


def of_requests(root: str) -> Json:
    """Status, result and cancellation of queued requests. `root`: owner and app, without a sub-path."""
    name = _name(root)
    at = f"{QUEUE}/{root}/requests/{{request_id}}"
    status, cancelled = ref(schemas.Status), ref(schemas.Cancellation)
    unknown = "401 403 404"
    return {
        f"{at}/status": {
            "get": operation(
                f"{name}_status",
                "Queue: how far it is",
                {"200": answer("Done", status), "202": answer("Waiting or running", status)},
                unknown,
                tag=root,
                parameters=[ID, LOGS],
            )
        },
        f"{at}/status/stream": {
            "get": operation(
                f"{name}_status_stream",
                "Queue: how far it is, as events",
                {"200": events("A status on each change, with new logs only; it ends when done", status)},
                unknown,
                tag=root,
                parameters=[ID, LOGS],
            )
        },
        at: {
            "get": operation(
                f"{name}_result",
                "Queue: the result",
                {"200": answer("What the run would have answered, failures too", {"type": "object"})},
                "400 401 403 404 413 422 429 499 503 504 507",
                tag=root,
                parameters=[ID],
            )
        },
        f"{at}/cancel": {
            "put": operation(
                f"{name}_cancel",
                "Queue: cancel",
                {
                    "200": answer("Taken out of the queue", cancelled),
                    "202": answer("It will stop", cancelled),
                    "400": answer("It was done already", cancelled),
                },
                unknown,
                tag=root,
                parameters=[ID],
            )
        },
    }


def shared() -> Json:
    """Tokens and webhooks."""
    wish = body(ref(schemas.TokenRequest))
    return {
        "/tokens/": {
            "post": operation(
                "token",
                "A token for a browser, as fal's clients ask for it",
                {"200": answer("The token", {"type": "string"})},
                "400 401 403 429",
                tag="tokens",
                body=wish,
            )
        },
        "/tokens/realtime": {
            "post": operation(
                "token_object",
                "A token for a browser, for the `tokenProvider` of one's own pages",
                {"200": answer("The token", ref(schemas.Token))},
                "400 401 403 429",
                tag="tokens",
                body=wish,
            )
        },
        "/.well-known/jwks.json": {
            "get": operation(
                "jwks",
                "Queue: the keys that webhooks are signed with",
                {"200": answer("RFC 7517, Ed25519", ref(schemas.Jwks))},
                "",
                tag="webhooks",
                **OPEN,
            )
        },
    }


def _name(id: str) -> str:
    return id.replace("/", "_").replace("-", "_")
