"""The storage service: fal's upload API, files under `/files/`, and pictures the other services keep."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from realtime import log
from realtime.errors import (
    BadFrame,
    Failure,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
)
from realtime.hosts import Role, Target, base_of
from realtime.hosts import target as target_of
from realtime.keys import Keys
from realtime.limits import Limits
from realtime.service import Caller, Service
from realtime.settings import Settings
from realtime.storage import files, lifecycle, uploads
from realtime.storage.catalogue import UNKNOWN_UPLOAD, Catalogue, File, Part, folder_of
from realtime.storage.lifecycle import Acl, Lifecycle
from realtime.storage.objects import BLOCK, Objects
from realtime.tokens import Tokens

MAX_BODY = 1024 * 1024  # bytes of JSON; a thousand parts are named in 100 KB
BODIES = 32  # of one key that are received at once; the others wait for their turn
SWEEP_S = 10.0
SWEPT = 200  # files at once
GONE = "there is no such file"

logger = log.get("realtime.storage")


@dataclass(frozen=True)
class Stored:
    """A file that is there, for our own use."""

    file: File
    _objects: Objects

    async def blocks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Bytes [start, stop) in order. Raises FileNotFoundError if it was removed meanwhile."""
        stop = self.file.size if stop is None else stop
        at = 0
        for part in self.file.parts:
            first, last = max(start - at, 0), min(stop - at, part.size)
            if first < last:
                async for block in self._objects.read(self.file.key(part), first, last):
                    yield block
            at += part.size


class Storage(Service):
    """Raises sqlite3.Error or OSError at the start if the state directory cannot be used."""

    roles = frozenset({Role.REST, Role.CDN, Role.PLAIN})

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        tokens: Tokens,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._settings, self._keys, self._tokens, self._limits = settings, keys, tokens, limits
        self._clock = clock
        self._catalogue = Catalogue(settings.state_dir / "files.sqlite3")
        self._objects = Objects(
            settings.storage_url, settings.state_dir / "objects", reserve=settings.disk_reserve
        )
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(BODIES))

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
        file = self._new(caller, name, content_type, wish)
        await self._catalogue.create(file)
        await self._write(file, 1, data, len(data))
        await self._catalogue.finish(file.id, None, self._clock())
        return uploads.path_of(file.id, file.name)

    async def content(self, url: str, caller: Caller, limit: int) -> bytes | None:
        """As `open`, the whole file. Raises NotFound; TooLarge if it has more than `limit` bytes."""
        stored = await self.open(url, caller)
        if stored is None:
            return None
        if stored.file.size > limit:
            raise TooLarge(f"it has {stored.file.size} bytes, the limit is {limit} bytes")
        try:
            return b"".join([block async for block in stored.blocks()])
        except FileNotFoundError:
            raise NotFound(GONE) from None

    async def open(self, url: str, caller: Caller) -> Stored | None:
        """The file of ours that a URL or its path names, so that we need not fetch from ourselves.

        None if it is none of ours. Under which host name does not matter: the id in it has 128 random
        bits, so who names it means our file, whatever proxies stand between. Raises NotFound if it is
        ours but gone or not for this caller.
        """
        parts = target_of("", unquote(urlsplit(url).path)).path.split("/")
        while len(parts) > 4 and parts[1] != "files":
            del parts[1]  # a prefix that a proxy put before our paths
        if len(parts) != 4 or parts[1] != "files" or not _is_id(parts[2]):
            return None
        file = await self._catalogue.find(parts[2])
        if file is None:
            return None
        return self._readable(file, parts[3], caller.key_id)

    async def run(self) -> None:
        """The expiry sweep, until cancelled."""
        await asyncio.to_thread(self._objects.tidy, self._clock() - self._settings.upload_s)
        while True:
            try:
                while await self.sweep() == SWEPT:
                    pass
            except Failure as failure:
                logger.warning("storage.sweep", reason=failure.reason)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """Remove up to `SWEPT` files whose time is over; how many were. Raises NoSpace, StorageDown."""
        due = await self._catalogue.due(self._clock(), SWEPT)
        for file_id in due:
            await self._forget(file_id)
        return len(due)

    def close(self) -> None:
        self._catalogue.close()

    # ---- over HTTP ----

    def public(self, request: Request, target: Target) -> bool:
        """Files are for whoever has their URL; uploads prove themselves by a ticket or a token of ours."""
        if not target.path.startswith("/files/"):
            return False
        return not target.path.startswith("/files/upload") or _bearer(request) is not None

    async def respond(self, request: Request, target: Target, caller: Caller) -> Response | None:
        match target.path.strip("/").split("/"), request.method:
            case ["storage", "upload", "initiate" | "initiate-multipart" as kind], "POST":
                return await self._initiate(request, target, caller, multipart=kind != "initiate")
            case ["storage", "auth", "token"], "POST":
                return self._token(request, target, caller)
            case ["files", "upload"], "POST":
                return await self._upload(request, target, self._uploader(request, caller))
            case ["files", "upload", "multipart"], "POST":
                return await self._begin(request, target, self._uploader(request, caller))
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
            case ["files", *_] | ["storage", "auth", "token"] | ["storage", "upload", "initiate"], _:
                raise MethodNotAllowed("Method Not Allowed")
        return None

    async def _initiate(
        self, request: Request, target: Target, caller: Caller, *, multipart: bool
    ) -> Response:
        self._limits.upload(caller)
        name, content_type = uploads.wish(await _small(request))
        file = self._new(caller, name, content_type, lifecycle.of(request.headers), multipart=multipart)
        self._objects.room(0)
        await self._catalogue.create(file)
        url = base_of(request, target) + uploads.path_of(file.id, file.name)
        return JSONResponse({"upload_url": f"{url}?upload={file.ticket}", "file_url": url})

    def _token(self, request: Request, target: Target, caller: Caller) -> Response:
        seconds = self._settings.upload_s
        ends = datetime.fromtimestamp(self._clock() + seconds, UTC)
        return JSONResponse(
            {
                "token": self._tokens.mint_upload(caller.key_id, seconds),
                "token_type": "Bearer",
                "base_url": base_of(request, target),
                # A token is used until then and not renewed before: it must not be refused by then.
                "expires_at": ends.replace(microsecond=0).isoformat(),
            }
        )

    def _uploader(self, request: Request, caller: Caller) -> Caller:
        token = _bearer(request)
        return caller if token is None else Caller(self._tokens.check_upload(token))

    async def _upload(self, request: Request, target: Target, caller: Caller) -> Response:
        """The whole file in one body."""
        file = self._asked(request, caller)
        await self._catalogue.create(file)
        await self._receive(request, file, 1)
        return JSONResponse({"access_url": base_of(request, target) + uploads.path_of(file.id, file.name)})

    async def _begin(self, request: Request, target: Target, caller: Caller) -> Response:
        file = self._asked(request, caller, multipart=True)
        self._objects.room(0)
        await self._catalogue.create(file)
        url = base_of(request, target) + uploads.path_of(file.id, file.name)
        return JSONResponse({"access_url": url, "uploadId": file.ticket})

    def _asked(self, request: Request, caller: Caller, *, multipart: bool = False) -> File:
        self._limits.upload(caller)
        return self._new(
            caller,
            uploads.header_name(request.headers.get("x-fal-file-name")),
            uploads.type_of(request.headers.get("content-type")),
            lifecycle.of(request.headers),
            multipart=multipart,
        )

    async def _put(self, request: Request, file: File, number: str) -> Response:
        part = await self._receive(request, file, uploads.part_number(number))
        # JavaScript reads the body, Python the header.
        etag = f'"{part.etag}"'
        return JSONResponse({"partNumber": part.number, "etag": etag}, headers={"etag": etag})

    async def _complete(self, request: Request, file: File) -> Response:
        left = await self._catalogue.finish(file.id, uploads.complete(await _small(request)), self._clock())
        await self._objects.delete([f"{file.folder}/{etag}" for etag in left])
        return JSONResponse({"status": "completed"})

    async def _download(self, request: Request, file_id: str, name: str) -> Response:
        file = await self._catalogue.find(file_id) if _is_id(file_id) else None
        if file is None:
            raise NotFound(GONE)
        stored = self._readable(file, name, self._reader(request, file))
        now = self._clock()
        if files.unchanged(request.headers, file):
            return files.without_body(file, 304, now)
        span = files.span_of(request.headers, file)
        if span == (0, 0):
            return files.without_body(file, 416, now)
        start, stop = span or (0, file.size)
        body = _empty() if request.method == "HEAD" else await _begun(stored.blocks(start, stop))
        return files.Download(file, body, span, now=now, stall_s=self._settings.stall_s)

    def _reader(self, request: Request, file: File) -> str:
        """The key a file with an ACL is asked for with; that there is such a file is told to no other."""
        if file.acl is None:
            return ""
        try:
            token = _bearer(request)
            if token is not None:
                return self._tokens.check_upload(token)
            return self._keys.check(request.headers.get("authorization"))
        except Unauthorized:
            raise NotFound(GONE) from None

    # ---- how ----

    def _new(
        self,
        caller: Caller,
        name: str,
        content_type: str,
        wish: Lifecycle,
        *,
        multipart: bool = False,
    ) -> File:
        until = self._clock() + self._settings.upload_s
        return File(
            id=secrets.token_hex(16),
            owner=caller.key_id,
            name=name,
            content_type=content_type,
            ticket=secrets.token_urlsafe(24),
            multipart=multipart,
            acl=wish.acl,
            lifetime_s=wish.lifetime_s or self._settings.file_s or None,
            expires=until,
            until=until,
        )

    def _readable(self, file: File, name: str, key_id: str) -> Stored:
        """Raises NotFound, for whatever reason."""
        over = file.expires is not None and self._clock() >= file.expires
        if over or not file.done or name != file.name or not file.readable_by(key_id):
            raise NotFound(GONE)
        return Stored(file, self._objects)

    async def _ticketed(self, request: Request, file_id: str, name: str) -> File:
        return await self._under_way(file_id, name, request.query_params.get("upload", ""))

    async def _theirs(self, request: Request, file_id: str, name: str, ticket: str) -> File:
        file = await self._under_way(file_id, name, ticket)
        if self._tokens.check_upload(_bearer(request) or "") != file.owner:
            raise NotFound(UNKNOWN_UPLOAD)
        return file

    async def _under_way(self, file_id: str, name: str, ticket: str) -> File:
        """Raises NotFound, whether the upload is over, another's or none."""
        file = await self._catalogue.find(file_id) if _is_id(file_id) else None
        known = (
            file is not None
            and name == file.name
            and hmac.compare_digest(ticket.encode("utf-8", "surrogatepass"), file.ticket.encode())
        )
        if file is None or not known or self._clock() >= file.until:
            raise NotFound(UNKNOWN_UPLOAD)
        return file

    async def _receive(self, request: Request, file: File, number: int) -> Part:
        """A body becomes a part, and the file complete if it has no others. Raises Failure."""
        limit = self._settings.max_upload_bytes
        text = request.headers.get("content-length", "")
        announced = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
        if announced > limit:
            raise TooLarge(f"the file has {announced} bytes, the limit is {limit} bytes")
        body = Body(request, limit, self._settings.stall_s)
        async with self._turns[file.owner]:
            try:
                part = await self._write(file, number, body, announced)
            finally:
                self._limits.uploaded(file.owner, body.size)
        if not file.multipart:
            await self._catalogue.finish(file.id, None, self._clock())
        return part

    async def _write(self, file: File, number: int, body: Body | bytes, announced: int) -> Part:
        """Bytes first, then their row. Whatever goes wrong between leaves what the sweep removes."""
        self._objects.room(announced)
        etag = secrets.token_hex(16)
        key = f"{file.folder}/{etag}"
        if isinstance(body, bytes):
            await self._objects.write(key, body)
            part = Part(number, etag, len(body))
        else:
            await self._objects.write(key, body.blocks())
            part = Part(number, etag, body.size)
        try:
            replaced = await self._catalogue.put(
                file.id,
                part,
                max_file=self._settings.max_upload_bytes,
                max_stored=self._limits.quota(file.owner).stored_bytes,
            )
        except Failure:
            await self._objects.delete([key])
            raise
        if replaced is not None:
            await self._objects.delete([f"{file.folder}/{replaced}"])
        return part

    async def _forget(self, file_id: str) -> None:
        await self._objects.delete_under(folder_of(file_id))
        await self._catalogue.remove(file_id)


class Body:
    """A request's body in blocks, bounded as it arrives, whatever its length was said to be."""

    def __init__(self, request: Request, limit: int, stall_s: float) -> None:
        self.size = 0  # bytes so far
        self._request, self._limit, self._stall_s = request, limit, stall_s

    async def blocks(self) -> AsyncIterator[bytes]:
        """Raises TooLarge, BadFrame for one that stops arriving, ClientDisconnect for one that ends early."""
        held = bytearray()
        pieces = self._request.stream()
        while True:
            try:
                async with asyncio.timeout(self._stall_s):
                    piece = await anext(pieces, b"")
            except TimeoutError:
                raise BadFrame(f"the body stopped arriving for {self._stall_s:g} s") from None
            self.size += len(piece)
            if self.size > self._limit:
                raise TooLarge(f"the file has more than {self._limit} bytes, the limit")
            held += piece
            if len(held) >= BLOCK or (held and not piece):
                yield bytes(held)
                held.clear()
            if not piece:  # Starlette's mark of the end
                return


async def _small(request: Request) -> bytes:
    """A JSON body. Raises TooLarge."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise TooLarge(f"the body is longer than {MAX_BODY} bytes")
    return bytes(body)


async def _begun(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`body`, its first block read: what is not there must be found out before the headers are sent."""
    try:
        first = await anext(body, b"")
    except FileNotFoundError:
        raise NotFound(GONE) from None
    return _chained(first, body)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in rest:
        yield block


async def _empty() -> AsyncIterator[bytes]:
    return
    yield b""


def _bearer(request: Request) -> str | None:
    """The token of an `Authorization: Bearer` header that is no API key (those have a colon)."""
    scheme, _, credentials = request.headers.get("authorization", "").strip().partition(" ")
    token = credentials.strip()
    return token if scheme.lower() == "bearer" and ":" not in token else None


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(mark in "0123456789abcdef" for mark in text)
