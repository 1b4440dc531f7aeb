"""Storage's paths: how a file gets there, in one body or in parts, and how it is fetched.

The two ways of uploading are those of fal's clients: a URL that lets (JavaScript), or a token (Python).
"""

from __future__ import annotations

from typing import Any

from realtime.openapi import schemas
from realtime.openapi.grammar import Json, answer, body, operation, parameter, ref
from realtime.storage.uploads import MAX_PARTS

BEGUN = "400 401 403 413 422 429 503 507"  # what asking for an upload may come to
SENT = "400 404 413 503 507"  # what bytes may come to
NAMED = "400 404 413 422 503"  # what naming the parts may come to

FILE = "/files/{file_id}/{name}"
WHICH = (
    parameter("path", "file_id", {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "From the answer."),
    parameter("path", "name", {"type": "string", "minLength": 1}, "From the answer."),
)
TICKET = parameter("query", "upload", {"type": "string"}, "As in `upload_url`.") | {"required": True}
UPLOAD = parameter("path", "upload_id", {"type": "string", "minLength": 1}, "`uploadId` of the answer.")
NUMBER = parameter("path", "number", {"type": "integer", "minimum": 1, "maximum": MAX_PARTS}, "Of the part.")
NAME = parameter("header", "x-fal-file-name", {"type": "string"}, "Its name.")
FETCHING = (
    *WHICH,
    parameter("header", "range", {"type": "string"}, "One range of bytes; of several all is sent."),
    parameter("header", "if-range", {"type": "string"}, "All is sent unless this is its etag."),
    parameter("header", "if-none-match", {"type": "string"}, "Nothing is sent if this is its etag."),
)

OPEN: Json = {"security": [{}]}
TOKEN: Json = {"security": [{"upload": []}]}
BEARER: Json = {"security": [{"upload": []}, {"key": []}]}
READER: Json = {"security": [{}, {"upload": []}, {"key": []}]}


def paths() -> Json:
    raw = body({}, "application/octet-stream")
    wish, parts = body(ref(schemas.UploadRequest)), body(ref(schemas.Parts))
    upload, stored = answer("Where the bytes go", ref(schemas.Upload)), ref(schemas.Stored)
    put = {"200": answer("It is there", ref(schemas.Part)) | _headers("etag")}
    done = {"200": answer("It is served from now on", ref(schemas.Completed))}
    return {
        "/storage/upload/initiate": {
            "post": _of(
                "upload",
                "a URL to PUT a file to",
                {"200": upload},
                BEGUN,
                words="PUT the bytes to `upload_url`, then send `file_url` as an input. No key for either.",
                body=wish,
            )
        },
        "/storage/upload/initiate-multipart": {
            "post": _of(
                "upload_parts",
                "a URL to PUT a large file to, in parts",
                {"200": upload},
                BEGUN,
                words="PUT each part to the path of `upload_url` with `/1`, `/2`, ... after it and the same "
                "query, and POST the answers, as `{parts: [...]}`, with `/complete` after it.",
                body=wish,
            )
        },
        FILE: {
            "get": _of(
                "file",
                "fetch a file",
                _fetched("*/*"),
                "404 503",
                words="No key is needed, but for a file whose lifecycle has an access list.",
                parameters=FETCHING,
                **READER,
            ),
            "head": _of(
                "file_headers",
                "what fetching a file would say",
                _fetched() | {"404": {"description": "There is no such file"}},
                "",
                parameters=FETCHING,
                **READER,
            ),
            "put": _of(
                "upload_bytes",
                "send a file to its `upload_url`",
                put,
                SENT,
                words="Sent again, the last one counts.",
                body=raw,
                parameters=[*WHICH, TICKET],
                **OPEN,
            ),
        },
        f"{FILE}/{{number}}": {
            "put": _of(
                "upload_part",
                "send a part of a file to its `upload_url`",
                put,
                SENT,
                body=raw,
                parameters=[*WHICH, NUMBER, TICKET],
                **OPEN,
            )
        },
        f"{FILE}/complete": {
            "post": _of(
                "complete_parts",
                "make a file of its parts",
                done,
                NAMED,
                words="In the order of their numbers, however they are named. Others are thrown away.",
                body=parts,
                parameters=[*WHICH, TICKET],
                **OPEN,
            )
        },
        "/storage/auth/token": {
            "post": _of(
                "upload_token",
                "a token to upload with",
                {"200": answer("The token", ref(schemas.UploadToken))},
                "401 403",
            )
        },
        "/files/upload": {
            "post": _of(
                "upload_file",
                "upload a file in one body",
                {"200": answer("Where it is", stored)},
                BEGUN,
                body=raw,
                parameters=[NAME],
                **BEARER,
            )
        },
        "/files/upload/multipart": {
            "post": _of(
                "begin_parts",
                "begin to upload a large file, in parts",
                {"200": answer("Where the parts go", stored)},
                "400 401 403 422 429 503 507",
                words="No body. PUT each part to `access_url` with `/multipart/{uploadId}/1`, ... after it.",
                parameters=[NAME],
                **BEARER,
            )
        },
        f"{FILE}/multipart/{{upload_id}}/{{number}}": {
            "put": _of(
                "upload_part_by_token",
                "send a part of a file",
                put,
                f"401 {SENT}",
                body=raw,
                parameters=[*WHICH, UPLOAD, NUMBER],
                **TOKEN,
            )
        },
        f"{FILE}/multipart/{{upload_id}}/complete": {
            "post": _of(
                "complete_parts_by_token",
                "make a file of its parts, sent with a token",
                done,
                f"401 {NAMED}",
                body=parts,
                parameters=[*WHICH, UPLOAD],
                **TOKEN,
            )
        },
    }


def _of(id: str, summary: str, answers: dict[str, Json], errors: str, **more: Any) -> Json:
    return operation(id, f"Storage: {summary}", answers, errors, tag="storage", **more)


def _fetched(kind: str = "") -> dict[str, Json]:
    """The answers about a file that is there, with bytes of that content type, or without."""
    content: Json = {"content": {kind: {}}} if kind else {}
    always = ("etag", "accept-ranges", "cache-control", "content-disposition")
    return {
        "200": {"description": "All of it", **content, **_headers(*always)},
        "206": {"description": "The range asked for", **content, **_headers(*always, "content-range")},
        "304": {"description": "It is what the caller has", **_headers(*always)},
        "416": {"description": "It has no such bytes", **_headers(*always, "content-range")},
    }


def _headers(*names: str) -> Json:
    return {"headers": {name: {"required": True, "schema": {"type": "string"}} for name in names}}
