"""The storage service: fal's upload API, files under `/files/`, and pictures the other services keep."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from realtime import hosts
from realtime.errors import MethodNotAllowed, NotFound, TooLarge, Unauthorized
from realtime.hosts import Role, Target
from realtime.keys import Keys
from realtime.limits import Limits
from realtime.service import Caller, Service
from realtime.settings import Settings
from realtime.storage import files, lifecycle, uploads
from realtime.storage.body import Body, json_of
from realtime.storage.catalogue import UNKNOWN_UPLOAD, File
from realtime.storage.lifecycle import Acl, Lifecycle
from realtime.storage.shelf import Shelf
from realtime.tokens import Tokens

GONE = "there is no such file"
MAX_URL = 4096  # characters; a name has at most 3 * 255


class Storage(Service):
    """clock: Unix time. Raises sqlite3.Error or OSError if the state directory cannot be used."""

    roles = frozenset({Role.REST, Role.CDN, Role.PLAIN})

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        tokens: Tokens,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._keys, self._tokens, self._limits = settings, keys, tokens, limits
        self._clock = clock
        self._shelf = Shelf(settings, limits, clock)

    # ---- for the other services ----

    async def keep(
        self,
        data: bytes,
        content_type: str,
        *,
        caller: Caller,
        lifetime_s: float | None = None,
        name: str = "",
        acl: Acl | None = None,
    ) -> str:
        """The path under which `data` can be fetched from now on, such as "/files/9f.../picture.jpeg".

        lifetime_s: from now; None for as long as this server keeps files by default. name: made up from
        the type if empty. Raises NoSpace, StorageDown, TooLarge.
        """
        name = name or f"{secrets.token_hex(8)}.{content_type.partition('/')[2].partition('+')[0] or 'bin'}"
        wish = Lifecycle(lifetime_s=lifetime_s, acl=acl)
        file = await self._shelf.begin(caller.key_id, name, content_type, wish)
        await self._shelf.put(file, data)
        return uploads.path_of(file.id, file.name)

    async def open(self, url: str, caller: Caller) -> File | None:
        """The file of ours that a URL or its path names. None if it names none.

        Under which host name does not matter: the id in it has 128 random bits, so who names it means our
        file, whatever proxies stand between. Raises NotFound if it is gone or not for this caller.
        """
        try:
            path = unquote(urlsplit(url).path) if len(url) <= MAX_URL else ""
        except ValueError:
            return None
        *_, before, file_id, name = ["", "", *hosts.target("", path).path.split("/")]
        if before != "files" or not _is_id(file_id):
            return None
        file = await self._shelf.find(file_id)
        return None if file is None else self._readable(file, name, caller.key_id)

    async def content(self, url: str, caller: Caller, limit: int) -> bytes | None:
        """As `open`, the whole file. Raises NotFound; TooLarge if it has more than `limit` bytes."""
        file = await self.open(url, caller)
        if file is None:
            return None
        if file.size > limit:
            raise TooLarge(f"it has {file.size} bytes, the limit is {limit} bytes")
        try:
            return b"".join([block async for block in self._shelf.blocks(file, 0, file.size)])
        except FileNotFoundError:
            raise NotFound(GONE) from None

    async def sweep(self) -> int:
        """Remove files whose time is over, at most 200; how many were. Raises NoSpace, StorageDown."""
        return await self._shelf.sweep()

    async def run(self) -> None:
        await self._shelf.run()

    def close(self) -> None:
        """Only of a storage that `run` was not called of."""
        self._shelf.close()

    # ---- over HTTP ----

    def public(self, request: Request, target: Target) -> bool:
        """Files are for whoever has their URL; uploads prove themselves by a ticket or a token of ours."""
        if not target.path.startswith("/files/"):
            return False
        return not target.path.startswith("/files/upload") or _bearer(request) is not None

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        match target.path.strip("/").split("/"), request.method:
            case ["storage", "upload", "initiate" | "initiate-multipart" as way], "POST":
                return await self._initiate(request, target, caller, multipart=way != "initiate")
            case ["storage", "auth", "token"], "POST":
                return self._token(request, target, caller)
            case ["files", "upload"], "POST":
                return await self._upload(request, target, caller)
            case ["files", "upload", "multipart"], "POST":
                return await self._begin(request, target, caller)
            case ["files", file_id, name], "GET" | "HEAD":
                return await self._download(request, file_id, name)
            case ["files", file_id, name], "PUT":
                return await self._put(request, await self._ticketed(request, file_id, name), "1")
            case ["files", file_id, name, "complete"], "POST":
                return await self._complete(request, await self._ticketed(request, file_id, name))
            case ["files", file_id, name, number], "PUT":
                return await self._put(request, await self._ticketed(request, file_id, name), number)
            case ["files", file_id, name, "multipart", ticket, "complete"], "POST":
                return await self._complete(request, await self._theirs(request, file_id, name, ticket))
            case ["files", file_id, name, "multipart", ticket, number], "PUT":
                return await self._put(request, await self._theirs(request, file_id, name, ticket), number)
            case ["files", *_], "GET" | "HEAD":
                raise NotFound(GONE)
            case ["files", "upload", *_], _:
                raise MethodNotAllowed("POST")
            case ["files", *_], _:
                raise MethodNotAllowed("GET", "HEAD", "PUT", "POST")
            case ["storage", "auth", "token"] | ["storage", "upload", "initiate" | "initiate-multipart"], _:
                raise MethodNotAllowed("POST")
        return None

    async def _initiate(
        self, request: Request, target: Target, caller: Caller, *, multipart: bool
    ) -> Response:
        self._limits.upload(caller)
        name, content_type = uploads.wish(await json_of(request, self._settings.stall_s))
        wish = lifecycle.of(request.headers)
        file = await self._shelf.begin(caller.key_id, name, content_type, wish, multipart=multipart)
        url = _url(request, target, file)
        return JSONResponse({"upload_url": f"{url}?upload={file.ticket}", "file_url": url})

    def _token(self, request: Request, target: Target, caller: Caller) -> Response:
        seconds = self._settings.upload_s
        # fal-client uses it until then, so it must not be refused before: whole seconds, rounded down.
        ends = datetime.fromtimestamp(int(self._clock() + seconds), UTC)
        return JSONResponse(
            {
                "token": self._tokens.mint_upload(caller.key_id, seconds),
                "token_type": "Bearer",
                "base_url": hosts.base_of(request, target),
                "expires_at": ends.isoformat(),
            }
        )

    async def _upload(self, request: Request, target: Target, caller: Caller) -> Response:
        """The whole file in one body."""
        file = await self._asked(request, caller)
        await self._shelf.receive(file, 1, self._body(request))
        return JSONResponse({"access_url": _url(request, target, file)})

    async def _begin(self, request: Request, target: Target, caller: Caller) -> Response:
        file = await self._asked(request, caller, multipart=True)
        return JSONResponse({"access_url": _url(request, target, file), "uploadId": file.ticket})

    async def _asked(self, request: Request, caller: Caller, *, multipart: bool = False) -> File:
        """The file that fal-client's headers describe, begun."""
        token = _bearer(request)
        uploader = caller if token is None else Caller(self._tokens.check_upload(token))
        self._limits.upload(uploader)
        name = uploads.header_name(request.headers.get("x-fal-file-name"))
        content_type = uploads.type_of(request.headers.get("content-type"))
        wish = lifecycle.of(request.headers)
        return await self._shelf.begin(uploader.key_id, name, content_type, wish, multipart=multipart)

    async def _put(self, request: Request, file: File, number: str) -> Response:
        part = await self._shelf.receive(file, uploads.part_number(number), self._body(request))
        # JavaScript reads the body, Python the header.
        etag = f'"{part.etag}"'
        return JSONResponse({"partNumber": part.number, "etag": etag}, headers={"etag": etag})

    async def _complete(self, request: Request, file: File) -> Response:
        await self._shelf.finish(file, uploads.complete(await json_of(request, self._settings.stall_s)))
        return JSONResponse({"status": "completed"})

    async def _download(self, request: Request, file_id: str, name: str) -> Response:
        file = await self._shelf.find(file_id) if _is_id(file_id) else None
        if file is None:
            raise NotFound(GONE)
        self._readable(file, name, self._reader(request, file))
        now = self._clock()
        if files.unchanged(request.headers, file):
            return files.without_body(file, 304, now)
        span = files.span_of(request.headers, file)
        if span == (0, 0):
            return files.without_body(file, 416, now)
        blocks = self._shelf.blocks(file, *(span or (0, file.size)))
        body = blocks if request.method == "HEAD" else await _begun(blocks)
        return files.Download(file, body, span, now=now, stall_s=self._settings.stall_s)

    # ---- who may ----

    def _reader(self, request: Request, file: File) -> str | None:
        """The key that asks for a file with an access list; None for nobody, and where it does not matter."""
        if file.acl is None:
            return None
        try:
            if (token := _bearer(request)) is not None:
                return self._tokens.check_upload(token)
            return self._keys.check(request.headers.get("authorization"))
        except Unauthorized:
            return None

    def _readable(self, file: File, name: str, key_id: str | None) -> File:
        """Raises NotFound, for whatever reason."""
        over = file.expires is not None and self._clock() >= file.expires
        if over or not file.done or name != file.name or not file.readable_by(key_id):
            raise NotFound(GONE)
        return file

    async def _ticketed(self, request: Request, file_id: str, name: str) -> File:
        return await self._under_way(file_id, name, request.query_params.get("upload", ""))

    async def _theirs(self, request: Request, file_id: str, name: str, ticket: str) -> File:
        file = await self._under_way(file_id, name, ticket)
        if self._tokens.check_upload(_bearer(request) or "") != file.owner:
            raise NotFound(UNKNOWN_UPLOAD)
        return file

    async def _under_way(self, file_id: str, name: str, ticket: str) -> File:
        """Raises NotFound, whether the upload is over, another's, of a key that was revoked, or none."""
        file = await self._shelf.find(file_id) if _is_id(file_id) else None
        if file is None or name != file.name or self._clock() >= file.until:
            raise NotFound(UNKNOWN_UPLOAD)
        if not hmac.compare_digest(ticket.encode("utf-8", "surrogatepass"), file.ticket.encode()):
            raise NotFound(UNKNOWN_UPLOAD)
        if not self._keys.lets(file.owner):
            raise NotFound(UNKNOWN_UPLOAD)
        return file

    def _body(self, request: Request) -> Body:
        return Body(request, self._settings.max_upload_bytes, self._settings.stall_s)


def _url(request: Request, target: Target, file: File) -> str:
    return hosts.base_of(request, target) + uploads.path_of(file.id, file.name)


async def _begun(blocks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """`blocks`, the first one read: what is not there must be found out before the headers are sent."""
    try:
        first = await anext(blocks, b"")
    except FileNotFoundError:
        raise NotFound(GONE) from None
    return _chained(first, blocks)


async def _chained(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for block in rest:
            yield block


def _bearer(request: Request) -> str | None:
    """The token of an `Authorization: Bearer` header that is no API key (those have a colon)."""
    scheme, _, credentials = request.headers.get("authorization", "").strip().partition(" ")
    token = credentials.strip()
    return token if scheme.lower() == "bearer" and ":" not in token else None


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(mark in "0123456789abcdef" for mark in text)
