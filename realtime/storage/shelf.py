"""Files as wholes: the catalogue and the objects, changed together in the one order that loses nothing.

A row, then bytes, then the note that they are there; bytes away, then the row. Whatever is interrupted in
between is a row whose time ends, and the sweep removes what belongs to it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from realtime import log
from realtime.errors import Failure
from realtime.folder import make_private
from realtime.limits import Limits
from realtime.settings import Settings
from realtime.storage.body import Body
from realtime.storage.catalogue import Catalogue, File, Part, folder_of
from realtime.storage.lifecycle import Lifecycle
from realtime.storage.objects import Objects

BODIES = 32  # of one key that are received at once; the others wait, unread, for their turn
SWEEP_S = 10.0
SWEPT = 200  # files at once

logger = log.get("realtime.storage")


class Shelf:
    """clock: Unix time. Raises sqlite3.Error or OSError if the state directory cannot be used."""

    def __init__(self, settings: Settings, limits: Limits, clock: Callable[[], float]) -> None:
        make_private(settings.state_dir)
        self._settings, self._limits, self._clock = settings, limits, clock
        self._catalogue = Catalogue(settings.state_dir / "files.sqlite3")
        self._objects = Objects(
            settings.storage_url, settings.state_dir / "objects", reserve=settings.disk_reserve
        )
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(BODIES))

    async def begin(
        self, owner: str, name: str, content_type: str, wish: Lifecycle, *, multipart: bool = False
    ) -> File:
        """A new file without bytes, to be finished within `upload_s`. Raises NoSpace, StorageDown."""
        self._objects.room(0)
        until = self._clock() + self._settings.upload_s
        file = File(
            id=secrets.token_hex(16),
            owner=owner,
            name=name,
            content_type=content_type,
            ticket=secrets.token_urlsafe(24),
            multipart=multipart,
            until=until,
            acl=wish.acl,
            lifetime_s=wish.lifetime_s or self._settings.file_s or None,
            expires=until,
        )
        await self._catalogue.create(file)
        return file

    async def find(self, file_id: str) -> File | None:
        return await self._catalogue.find(file_id)

    async def receive(self, file: File, number: int, body: Body) -> Part:
        """A body becomes part `number`; a file that has only one is finished by it. Raises Failure."""
        async with self._turns[file.owner]:
            try:
                part = await self._write(file, number, body)
            finally:
                self._limits.uploaded(file.owner, body.size)
        if not file.multipart:
            await self.finish(file)
        return part

    async def put(self, file: File, data: bytes) -> None:
        """The whole file. Raises Failure."""
        await self._write(file, 1, data)
        await self.finish(file)

    async def finish(self, file: File, wanted: Sequence[tuple[int, str]] | None = None) -> None:
        """It is served from now on. wanted: as in `Catalogue.finish`. Raises Failure."""
        left = await self._catalogue.finish(file.id, wanted, self._clock())
        await self._objects.delete([f"{file.folder}/{etag}" for etag in left])

    async def blocks(self, file: File, start: int, stop: int) -> AsyncGenerator[bytes]:
        """Bytes [start, stop) in order. Raises FileNotFoundError if it was removed meanwhile."""
        at = 0
        for part in file.parts:
            first, last = max(start - at, 0), min(stop - at, part.size)
            async with aclosing(self._objects.read(file.key(part), first, last)) as blocks:
                async for block in blocks:
                    yield block
            at += part.size

    async def sweep(self) -> int:
        """Remove up to `SWEPT` files whose time is over; how many were. Raises NoSpace, StorageDown."""
        due = await self._catalogue.due(self._clock(), SWEPT)
        for file_id in due:
            await self._objects.delete_under(folder_of(file_id))
            await self._catalogue.remove(file_id)
        return len(due)

    async def run(self) -> None:
        """Sweep, until cancelled; then the shelf is closed."""
        try:
            while True:
                try:
                    while await self.sweep() == SWEPT:
                        pass
                except Failure as failure:
                    logger.warning("storage.sweep", reason=failure.reason)
                await asyncio.sleep(SWEEP_S)
        finally:
            self.close()

    def close(self) -> None:
        self._objects.close()
        self._catalogue.close()

    async def _write(self, file: File, number: int, body: Body | bytes) -> Part:
        etag = secrets.token_hex(16)
        key = f"{file.folder}/{etag}"
        if isinstance(body, bytes):
            self._objects.room(len(body))
            await self._objects.write(key, body)
            part = Part(number, etag, len(body))
        else:
            self._objects.room(body.announced)
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
