"""What the OpenAPI document allows, and what it does not, sent to a server: no 5xx, every answer as it says.

The examples are the same in every run. `make schema` sends 200 to each operation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from zlib import crc32

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from realtime.apps import all_apps
from realtime.openapi.document import document
from tests.pictures import data_uri, picture
from tests.servers import Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

EXAMPLES = int(os.environ.get("RT_TEST_EXAMPLES", "3"))
NOWHERE = "http://127.0.0.1:9/x"  # on loopback, where nobody listens
PICTURE = data_uri(picture())
FETCHED = ("image_url", "mask_url")
TIMEOUT = "x-fal-request-timeout"
QUEUE = "/__h/queue.fal.run/fal-ai/lcm"
NOT_HELD = [
    checks.negative_data_rejection,  # fal's clients send words for numbers and unknown keys; they are taken
    checks.positive_data_acceptance,  # a schema has no words for "a picture that can be decoded"
    *(checks.unsupported_method, checks.allow_header_conformance),  # GET with its input in the query: a run
]

schema = schemathesis.openapi.from_dict(
    document(all_apps(), NOWHERE, idle_s=300.0, keys_required=False)
).exclude(path_regex="^(?!/tokens).*/realtime$")  # of sockets: over HTTP, a 404


@dataclass(frozen=True)
class Busy:
    """A server whose queue has known better days."""

    server: Server
    ids: list[str]  # of requests: drawn, refused, cancelled


@pytest.fixture(scope="module")
def busy() -> Iterator[Busy]:
    with serve(queue_at_once=16, webhook_private=True) as server:
        ids = []
        for wish in ({"prompt": "a"}, {}, {"prompt": "!slow 5"}):
            ids.append(json.loads(server.ask("POST", QUEUE, wish)[2])["request_id"])
        server.ask("PUT", f"{QUEUE}/requests/{ids[-1]}/cancel")
        yield Busy(server, ids)
        assert not [line for line in server.log if "Traceback" in line]


@schema.parametrize()
@pytest.mark.timeout(20 + 2 * EXAMPLES)
@settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_the_document_has(case: schemathesis.Case, busy: Busy) -> None:
    tame(case, busy)
    case.call_and_validate(base_url=busy.server.url, excluded_checks=NOT_HELD)


def tame(case: schemathesis.Case, busy: Busy) -> None:
    """Nothing is fetched from strangers or told to them, no time is too short to draw in (a 504), and most
    requests that are asked for are there."""
    if isinstance(case.body, dict):
        for name in FETCHED:
            if isinstance(url := case.body.get(name), str) and "//" in url:
                case.body[name] = PICTURE if len(url) % 2 else NOWHERE
    if isinstance((case.query or {}).get("fal_webhook"), str):
        case.query["fal_webhook"] = NOWHERE
    with suppress(KeyError, TypeError, ValueError):
        if 0 < float(case.headers[TIMEOUT]) < 60:
            case.headers[TIMEOUT] = "60"
    if given := (case.path_parameters or {}).get("request_id"):
        known = [*busy.ids, given]
        case.path_parameters["request_id"] = known[crc32(str(given).encode()) % len(known)]
