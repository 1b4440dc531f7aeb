"""The OpenAPI document: valid, complete, and true of the server that hands it out."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import validate

from realtime.apps import all_apps
from tests.pictures import data_uri, picture
from tests.realtime.talk import ask, opened
from tests.servers import KEY, Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

APPS = [app.id for app in all_apps()]
PICTURE = data_uri(picture())


def read(server: Server, path: str = "/openapi.json", **headers: str) -> Any:
    status, found, body = server.ask("GET", path, headers=headers)
    assert (status, found["content-type"]) == (200, "application/json")
    return json.loads(body)


def schema(document: Any, reference: Any) -> Any:
    """A schema of the document that stands alone."""
    name = reference["$ref"].rsplit("/", 1)[-1]
    return document["components"]["schemas"][name] | {"components": document["components"]}


def given(document: Any, app: str) -> Any:
    content = document["paths"][f"/{app}"]["post"]["requestBody"]["content"]
    return schema(document, content["application/json"]["schema"])


def made(document: Any, app: str) -> Any:
    content = document["paths"][f"/{app}"]["post"]["responses"]["200"]["content"]
    return schema(document, content["application/json"]["schema"])


def run(server: Server, app: str, **fields: Any) -> tuple[int, Any]:
    wish = {"prompt": "a boat", "seed": 3, "sync_mode": True, "image_url": PICTURE, "image_size": "square"}
    status, _, body = server.ask("POST", f"/{app}", wish | fields)
    return status, json.loads(body)


def test_the_document_of_all_apps_is_valid_openapi(server: Server):
    document = read(server)
    validate(document)
    assert document["openapi"].startswith("3.1")
    for app in APPS:
        for way in (f"/{app}", f"/{app}/stream", f"/{app}/realtime", f"/__h/queue.fal.run/{app}"):
            assert "post" in document["paths"][way]


@pytest.mark.parametrize("app", APPS)
def test_each_app_has_a_document_of_its_own(server: Server, app: str):
    document = read(server, f"/{app}/openapi.json")
    validate(document)
    assert document == read(server, f"/openapi.json?endpoint_id={app}")
    assert document["info"]["x-fal-metadata"]["endpointId"] == app
    drawing = {
        path for path in document["paths"] if path.endswith("/realtime") and path != "/tokens/realtime"
    }
    assert drawing == {f"/{app}/realtime"}


def test_an_app_is_found_by_every_name_it_answers_to(server: Server):
    lcm = read(server, "/fal-ai/lcm/openapi.json")
    assert read(server, "/110602490-lcm/openapi.json") == lcm
    assert read(server, "/__h/fal.run/fal-ai/lcm/openapi.json") == lcm
    mapped = read(server, "/fal-ai/lcm/openapi.json", host="fal.run")
    assert mapped.pop("servers") == [{"url": "http://fal.run"}]
    lcm.pop("servers")
    assert mapped == lcm


def test_an_app_nobody_serves_has_no_document(server: Server):
    for path in ("/fal-ai/nothing/openapi.json", "/openapi.json?endpoint_id=fal-ai/nothing"):
        status, body = server.get(path)
        assert status == 404
        assert "fal-ai/nothing" in json.loads(body)["detail"]
    assert server.ask("POST", "/openapi.json")[0] == 405


def test_the_document_names_the_server_as_its_reader_reached_it():
    with serve(trusted_proxies=["127.0.0.1/32"]) as server:
        assert read(server)["servers"] == [{"url": server.url}]
        behind = {"x-forwarded-proto": "https", "x-forwarded-host": "pictures.example"}
        document = read(server, **behind, **{"x-forwarded-prefix": "/draw"})
        assert document["servers"] == [{"url": "https://pictures.example/draw"}]


def test_a_key_is_asked_for_where_keys_are_configured_but_not_to_read(server: Server, keyed_server: Server):
    for here, nobody in ((server, True), (keyed_server, False)):
        document = read(here)
        runs = document["paths"]["/fal-ai/lcm"]["post"]
        assert ({} in document["security"], {} in runs["security"]) == (nobody, nobody)
        assert {"key": []} in runs["security"]
        assert {"token": []} in runs["security"]
    assert KEY not in json.dumps(read(keyed_server))


async def test_realtime_routes_are_marked_as_fal_marks_them(server: Server):
    """fal SDK 1.83.0, api.py `_build_protocol_operation`."""
    for path, item in read(server)["paths"].items():
        if not path.endswith("/realtime") or path.startswith("/tokens"):
            assert "x-fal-protocol" not in item
            continue
        protocol = item["x-fal-protocol"]
        assert (protocol["type"], protocol["contentType"]) == ("realtime", "application/msgpack")
        assert set(protocol["config"]) == {"buffering", "sessionTimeout", "maxBatchSize"}
        async with opened(server, path) as ws:
            assert "images" in await ask(ws, {"prompt": "a", "image_url": PICTURE})


@pytest.mark.parametrize("app", APPS)
def test_what_an_app_answers_is_what_its_document_says(server: Server, app: str):
    document = read(server)
    for fields in ({}, {"num_images": 2, "request_id": "mine"}, {"sync_mode": False}):
        status, answer = run(server, app, **fields)
        assert status == 200, answer
        jsonschema.validate(answer, made(document, app), jsonschema.Draft202012Validator)
        known = set(made(document, app)["properties"])
        assert set(answer) <= known
        assert {key for image in answer["images"] for key in image} <= set(
            document["components"]["schemas"]["Image"]["properties"]
        )


@pytest.mark.parametrize("app", APPS)
def test_the_bounds_in_the_document_are_the_bounds_of_the_server(server: Server, app: str):
    document, refused = read(server), 0
    errors = document["components"]["schemas"]["ValidationError"] | {"components": document["components"]}
    for name, field in given(document, app)["properties"].items():
        beyond = [field[edge] + step for edge, step in (("minimum", -1), ("maximum", 1)) if edge in field]
        if "enum" in field:
            beyond.append("no such thing")
        if field.get("type") == "string" and "maxLength" in field:
            beyond.append("x" * (field["maxLength"] + 1))
        for value in beyond:
            status, answer = run(server, app, **{name: value})
            assert (status, answer["detail"][0]["loc"][:2]) == (422, ["body", name]), (name, value)
            jsonschema.validate(answer, errors)
            refused += 1
    assert refused > 10


def test_every_example_and_default_in_the_document_is_valid(server: Server):
    document = read(server)
    for app in APPS:
        for field in given(document, app)["properties"].values():
            rules = field | {"components": document["components"]}
            for value in [*field.get("examples", []), *([field["default"]] if "default" in field else [])]:
                jsonschema.validate(value, rules, jsonschema.Draft202012Validator)


def test_tokens_answer_as_documented(server: Server):
    document = read(server)
    for path in ("/tokens/", "/tokens/realtime"):
        operation = document["paths"][path]["post"]
        wish = {"allowed_apps": ["lcm"], "token_expiration": 60}
        jsonschema.validate(
            wish, schema(document, operation["requestBody"]["content"]["application/json"]["schema"])
        )
        status, _, body = server.ask("POST", path, wish)
        rules = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        jsonschema.validate(json.loads(body), rules | {"components": document["components"]})


def held(server: Server, operation: Any, method: str, url: str, **sent: Any) -> httpx.Response:
    """What is answered to this, held to what the operation says of such an answer."""
    found = httpx.request(method, url, **sent)
    said = operation["responses"][str(found.status_code)]
    if "$ref" in said:
        said = read(server)["components"]["responses"][said["$ref"].rsplit("/", 1)[-1]]
    assert set(said.get("headers", ())) <= set(found.headers)
    rules = said.get("content", {}).get("application/json", {}).get("schema")
    if rules:
        jsonschema.validate(found.json(), rules | {"components": read(server)["components"]})
    assert bool(found.content) == ("content" in said)
    return found


def test_files_are_sent_and_fetched_as_documented(server: Server):
    paths = read(server)["paths"]
    initiate, file = "/storage/upload/initiate", "/files/{file_id}/{name}"
    begun = held(
        server, paths[initiate]["post"], "POST", server.url + initiate, json={"file_name": "a"}
    ).json()
    held(server, paths[file]["put"], "PUT", begun["upload_url"], content=b"0123456789")
    held(server, paths[file]["put"], "PUT", begun["file_url"], content=b"x", params={"upload": "no"})
    asked = [
        ({}, 200),
        ({"range": "bytes=2-3"}, 206),
        ({"range": "bytes=10-"}, 416),
        ({"if-none-match": "*"}, 304),
    ]
    for method in ("GET", "HEAD"):
        for headers, status in asked:
            found = held(server, paths[file][method.lower()], method, begun["file_url"], headers=headers)
            assert found.status_code == status
        gone = held(server, paths[file][method.lower()], method, f"{server.url}/files/{'0' * 32}/a")
        assert gone.status_code == 404


@pytest.mark.parametrize("way", ["a ticket", "a token"])
def test_parts_are_sent_and_made_a_file_as_documented(server: Server, way: str):
    paths = read(server)["paths"]
    file, query, headers = "/files/{file_id}/{name}", {}, {}
    if way == "a ticket":
        path = "/storage/upload/initiate-multipart"
        begun = held(server, paths[path]["post"], "POST", server.url + path, json={}).json()
        at = url = begun["file_url"]
        query = {"upload": begun["upload_url"].partition("=")[2]}
    else:
        path = "/storage/auth/token"
        token = held(server, paths[path]["post"], "POST", server.url + path).json()["token"]
        path, headers = "/files/upload/multipart", {"authorization": f"Bearer {token}"}
        begun = held(server, paths[path]["post"], "POST", server.url + path, headers=headers).json()
        url, file = begun["access_url"], file + "/multipart/{upload_id}"
        at = f"{url}/multipart/{begun['uploadId']}"
        missing = held(server, paths[file + "/{number}"]["put"], "PUT", at + "/1", content=b"a")
        assert missing.status_code == 401
    sent = {"params": query, "headers": headers}
    put, complete = paths[file + "/{number}"]["put"], paths[file + "/complete"]["post"]
    parts = [held(server, put, "PUT", f"{at}/{n}", content=b"ab", **sent).json() for n in (1, 2)]
    ends = [({}, 422), ({"parts": [{"partNumber": 3, "etag": "e"}]}, 400), ({"parts": parts}, 200)]
    for body, status in ends:
        assert held(server, complete, "POST", at + "/complete", json=body, **sent).status_code == status
    assert held(server, put, "PUT", f"{at}/3", content=b"late", **sent).status_code == 400
    assert httpx.get(url).content == b"abab"
