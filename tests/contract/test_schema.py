"""What the OpenAPI document allows, and what it does not, sent to a server: no 5xx, every answer as it says.

The examples are the same in every run. `make schema` sends 200 to each operation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit
from zlib import crc32

import httpx
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
    """A server whose queue has known better days, and to which files are sent."""

    server: Server
    ids: list[str]  # of requests: drawn, refused, cancelled
    authorization: str  # to upload with
    files: dict[str, dict[str, str]]  # "whole", "parts", "by token": what its paths and queries are made of


@pytest.fixture(scope="module")
def busy() -> Iterator[Busy]:
    with serve(queue_at_once=16, webhook_private=True) as server:
        ids = []
        for wish in ({"prompt": "a"}, {}, {"prompt": "!slow 5"}):
            ids.append(json.loads(server.ask("POST", QUEUE, wish)[2])["request_id"])
        server.ask("PUT", f"{QUEUE}/requests/{ids[-1]}/cancel")
        authorization = f"Bearer {told(server, '/storage/auth/token')['token']}"
        yield Busy(server, ids, authorization, files_of(server, authorization))
        assert not [line for line in server.log if "Traceback" in line]


def told(server: Server, path: str, **headers: str) -> dict[str, str]:
    status, _, body = server.ask("POST", path, {}, headers)
    assert status == 200
    return dict(json.loads(body))


def files_of(server: Server, authorization: str) -> dict[str, dict[str, str]]:
    """One file that is there, one that is sent in JavaScript's parts, and one in Python's."""
    initiate = "/storage/upload/initiate"
    whole, parts = told(server, initiate), told(server, f"{initiate}-multipart")
    assert httpx.put(whole["upload_url"], content=b"0123456789").status_code == 200
    by_token = told(server, "/files/upload/multipart", authorization=authorization)
    return {
        "whole": parameters(whole["upload_url"]),
        "parts": parameters(parts["upload_url"]),
        "by token": parameters(by_token["access_url"]) | {"upload_id": by_token["uploadId"]},
    }


def parameters(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    _, _, file_id, name = parts.path.split("/")
    return {"file_id": file_id, "name": name, "upload": parts.query.removeprefix("upload=")}


@schema.parametrize()
@pytest.mark.timeout(20 + 2 * EXAMPLES)
@settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_the_document_has(case: schemathesis.Case, busy: Busy) -> None:
    tame(case, busy)
    by_token = {"headers": {"Authorization": busy.authorization}} if "/multipart/" in case.path else {}
    case.call_and_validate(base_url=busy.server.url, excluded_checks=NOT_HELD, **by_token)


def tame(case: schemathesis.Case, busy: Busy) -> None:
    """Nothing is fetched from strangers or told to them, no time is too short to draw in (a 504), and most
    requests and files that are asked for are there."""
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
    if (file_id := (case.path_parameters or {}).get("file_id")) and crc32(str(file_id).encode()) % 4:
        below = case.path.removeprefix("/files/{file_id}/{name}")
        file = busy.files["by token" if "/multipart/" in below else "parts" if below else "whole"]
        case.path_parameters |= {name: file[name] for name in case.path_parameters.keys() & file.keys()}
        if "upload" in (case.query or {}):
            case.query["upload"] = file["upload"]
