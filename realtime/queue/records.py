"""What the queue's file holds, in the words of the rest of the queue."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asked for, complete."""

    id: str  # UUID
    tenant: str  # key id
    app: str  # as the URLs of this request name it, "fal-ai/lcm"
    endpoint: str  # with the sub-path, "fal-ai/lcm/image-to-image"
    body: bytes  # JSON object
    base: str  # what URLs of its pictures start with
    low: bool = False  # waits for all that are not
    start_by: float | None = None  # wall time
    retry: bool = True
    store: bool = True
    lifetime_s: float | None = None  # of its pictures
    acl: str = ""  # who may fetch them, a storage Acl in JSON; "" is whoever has the URL
    webhook: str = ""

    @property
    def digest(self) -> bytes:
        """Equal for equal orders of one client, whenever and by whatever name of ours they came."""
        same = replace(self, id="", body=b"", base="", start_by=None)
        return hashlib.blake2b(repr(same).encode() + self.body, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Receipt:
    id: str  # of an earlier order if this one repeats it
    position: int  # how many are drawn before it
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Crowded:
    """Not accepted."""

    waiting: int
    by: Literal["server", "tenant", "caller", "bytes"]  # whose limit it is


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may wait for one more to be accepted; None: any number."""

    server: int | None = None
    tenant: int | None = None  # of the same tenant
    caller: int | None = None  # as the client wishes: fal_max_queue_length


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended: an HTTP answer, ready to be sent again and again."""

    status: int
    headers: dict[str, str]
    body: bytes  # JSON
    inference_s: float = 0.0
    error: str = ""  # what a status says of a failure; "" is success
    error_type: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    ending: Ending
    store: bool  # False: its client asked that nothing is kept


@dataclass(frozen=True, slots=True)
class Claim:
    """A right to run a request, until the lease ends."""

    seq: int
    lease: int
    order: Order
    lost: int  # runs of it that came to nothing


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the log of a request."""

    level: str
    message: str
    timestamp: str  # ISO 8601


@dataclass(frozen=True, slots=True)
class Status:
    state: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    position: int = 0
    notes: tuple[Note, ...] = ()  # from the number that was asked for
    inference_s: float = 0.0
    error: str = ""
    error_type: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call that is due."""

    seq: int
    id: str
    tenant: str
    url: str
    tries: int  # before this one
    ending: Ending


@dataclass(frozen=True, slots=True)
class Depth:
    waiting: int = 0
    running: int = 0
    deliveries: int = 0


def _failure(status: int, error_type: str, text: str, **headers: str) -> Ending:
    return Ending(
        status,
        {"x-fal-error-type": error_type, **headers},
        json.dumps({"detail": text, "error_type": error_type}).encode(),
        error=text,
        error_type=error_type,
    )


CANCELLED = _failure(499, "client_cancelled", "the request was cancelled")
EXPIRED = _failure(
    504,
    "request_timeout",
    "the request was not begun in the time it gave",
    **{"x-fal-request-timeout-type": "user"},  # fal's clients do not retry then
)
LOST = _failure(503, "runner_disconnected", "the server ended while it drew this request")


def ending_of(row: Any) -> Ending:
    """A row with the columns of `endings`."""
    given = {field.name: row[field.name] for field in fields(Ending)}
    return Ending(**given | {"headers": json.loads(row["headers"])})
