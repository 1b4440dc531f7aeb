"""Every way a request can fail, and what each client sees of it.

    Failure
    |-- BadFrame            the bytes are no message (msgpack, JSON, map)        400
    |-- InvalidInput        a field is missing, mistyped or out of bounds        422
    |   |-- Unsupported     a documented input this server's models cannot do    422
    |   |-- ImageError      the bytes are no picture, or too large a one         422
    |   `-- FetchError      a URL could not be fetched, or may not be            422
    |-- Unauthorized        no key, or a token forged, expired or for other apps 401
    |-- Forbidden           a web page of an origin this server does not know    403
    |-- UnknownApp          no such endpoint                                     404
    |-- NotFound            no such file or upload, or not for this caller       404
    |-- MethodNotAllowed    this path takes another method                       405
    |-- NotYet              a part of fal's API this server does not have        501
    |-- TooLarge            a body of more bytes than are taken                  413
    |-- TooMuch             a limit of this key or server; come back later       429
    |-- Draining            the server is going down; come back elsewhere        503
    |-- EngineLost          the engine died twice under this request             503
    |-- StartTimeout        not begun in the time the caller gave it             504
    |-- RunTimeout          not done in the time this server gives a run         504
    |-- Poison              this very request killed engines before              422
    |-- Busy                another program holds the queue's file               503
    |-- NoSpace             the disk, or what a key may store, takes no more     507
    |-- StorageDown         the bucket or catalogue behind storage fails         503
    `-- Internal            our bug; details are in the log, not in the answer   500

Nothing else decides an HTTP status, an `x-fal-error` code or a close code. A failure never closes a
socket, except Unauthorized (fal's clients drop their token on it and reconnect), Forbidden and Draining.
Client behaviour: @fal-ai/client realtime.ts, fal-client `RealtimeError`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Failure(Exception):
    """`reason` is shown to the caller: what they did and the limit crossed. No paths, prompts, tokens."""

    code: ClassVar[str] = "INTERNAL_ERROR"  # `error` of an x-fal-error frame
    status: ClassVar[int] = 500  # HTTP
    error_type: ClassVar[str] = "internal_error"  # fal's `error_type` / X-Fal-Error-Type
    close: ClassVar[int | None] = None  # WebSocket close code after the error frame

    def __init__(self, reason: str, detail: list[dict[str, Any]] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail  # pydantic-style entries {loc, msg, type, input?, ctx?}

    def frame(self, request_id: str | None = None) -> dict[str, Any]:
        """The text frame fal clients turn into onError / RealtimeError; extra fields survive in `body`."""
        body: dict[str, Any] = {"type": "x-fal-error", "error": self.code, "reason": self.reason}
        if request_id is not None:
            body["request_id"] = request_id
        if self.detail:
            body["detail"] = self.detail
        return body

    @property
    def headers(self) -> dict[str, str]:
        """Of the HTTP answer, lower case. What cost nothing is billed nothing."""
        return {"x-fal-error-type": self.error_type, "x-fal-billable-units": "0"}

    def body(self) -> dict[str, Any]:
        """The JSON body of the HTTP answer."""
        if self.detail:
            return {"detail": self.detail}
        return {"detail": self.reason, "error_type": self.error_type}


class BadFrame(Failure):
    code, status, error_type = "BAD_REQUEST", 400, "bad_request"


class InvalidInput(Failure):
    code, status, error_type = "VALIDATION_ERROR", 422, "validation_error"

    @classmethod
    def at(cls, field: str, message: str, type: str = "value_error", **ctx: Any) -> InvalidInput:
        """One field at fault, in pydantic's shape."""
        entry: dict[str, Any] = {"loc": ["body", field], "msg": message, "type": type}
        if ctx:
            entry["ctx"] = ctx
        return cls(f"{field}: {message}", [entry])


class Unsupported(InvalidInput):
    code, error_type = "UNSUPPORTED", "unsupported"


class ImageError(InvalidInput):
    code, error_type = "IMAGE_ERROR", "image_load_error"


class FetchError(InvalidInput):
    code, error_type = "FILE_DOWNLOAD_ERROR", "file_download_error"


class Unauthorized(Failure):
    # 1000: any other code is shown to the page as onError, though an expired token is everyday life.
    code, status, error_type, close = "Unauthorized", 401, "unauthorized", 1000

    def frame(self, request_id: str | None = None) -> dict[str, Any]:
        # Not an x-fal-error: this exact object makes fal's JS clients drop their token silently.
        return {"status": "error", "error": "Unauthorized"}


class Forbidden(Failure):
    code, status, error_type, close = "FORBIDDEN", 403, "forbidden", 1008


class MethodNotAllowed(Failure):
    code, status, error_type = "METHOD_NOT_ALLOWED", 405, "method_not_allowed"

    def __init__(self, *allowed: str) -> None:
        super().__init__("Method Not Allowed")
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        return super().headers | {"allow": ", ".join(self.allowed)}  # RFC 9110, 15.5.6


class NotYet(Failure):
    code, status, error_type = "NOT_IMPLEMENTED", 501, "not_implemented"


class UnknownApp(Failure):
    code, status, error_type = "NOT_FOUND", 404, "not_found"


class NotFound(Failure):
    code, status, error_type = "NOT_FOUND", 404, "not_found"


class TooLarge(Failure):
    code, status, error_type = "TOO_LARGE", 413, "request_too_large"


class TooMuch(Failure):
    code, status, error_type = "TOO_MANY_REQUESTS", 429, "concurrent_requests_limit"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "x-fal-needs-retry": "1"}


class Draining(Failure):
    code, status, error_type, close = "SHUTTING_DOWN", 503, "runner_scheduling_failure", 1012


class EngineLost(Failure):
    code, status, error_type = "ENGINE_LOST", 503, "runner_disconnected"


class StartTimeout(Failure):
    code, status, error_type = "REQUEST_TIMEOUT", 504, "request_timeout"

    @property
    def headers(self) -> dict[str, str]:
        # fal's clients retry a 504, but not one with this header.
        return {**super().headers, "x-fal-request-timeout-type": "user"}


class RunTimeout(StartTimeout):
    code, error_type = "GENERATION_TIMEOUT", "generation_timeout"


class Poison(Failure):
    code, status, error_type = "REQUEST_REFUSED", 422, "runner_server_error"


class Busy(Failure):
    code, status, error_type = "BUSY", 503, "runner_scheduling_failure"


class NoSpace(Failure):
    # Not a code that fal's clients retry: a full disk is not emptied by asking again.
    code, status, error_type = "NO_SPACE", 507, "insufficient_storage"


class StorageDown(Failure):
    code, status, error_type = "STORAGE_DOWN", 503, "downstream_service_unavailable"


class Internal(Failure):
    pass


def of_engine(code: str, reason: str, field: str = "") -> Failure:
    """The failure for a `Refused` message of an engine. Unknown codes are our bug: Internal."""
    kinds: dict[str, type[InvalidInput]] = {
        "unsupported": Unsupported,
        "image": ImageError,
        "invalid": InvalidInput,
    }
    if code in kinds:
        return kinds[code].at(field, reason, kinds[code].error_type) if field else kinds[code](reason)
    plain: dict[str, type[Failure]] = {
        "engine_lost": EngineLost,
        "poison": Poison,
        "out_of_memory": TooMuch,
        "draining": Draining,
    }
    return plain.get(code, Internal)(reason)
