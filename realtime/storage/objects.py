"""The bytes, in a folder or a bucket (obstore). What is written is whole or not there at all.

A key is ours, never a caller's: nothing a caller says becomes part of a path.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from realtime.errors import NoSpace, StorageDown
from realtime.storage.body import BLOCK

if TYPE_CHECKING:
    from obstore.store import ObjectStore

LOCAL_CHUNK = 1024 * 1024  # bytes gathered before a write; of one upload two are in memory
REMOTE_CHUNK = 5 * 1024 * 1024  # S3 takes no smaller part
ANSWER_S = 10  # of a bucket, for one request
RETRIES = 2
DISK_FULL = "the disk of this server is full; nothing was stored, try again later"


class Objects:
    """url: "s3://bucket/prefix" (credentials and endpoint from AWS_*), gs://, az://; "" is the folder.

    reserve: bytes of the folder's disk that uploads leave to others (the queue, the keys, the log).
    """

    def __init__(self, url: str, folder: Path, *, reserve: int = 0) -> None:
        self._reserve = reserve
        self._folder: Path | None = None
        self._chunk = REMOTE_CHUNK
        self._store: ObjectStore
        if url:
            seconds = timedelta(seconds=ANSWER_S)
            self._store = from_url(
                url,
                client_options={"timeout": seconds, "connect_timeout": seconds},
                retry_config={"max_retries": RETRIES, "retry_timeout": seconds},
            )
        else:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder, self._chunk = folder, LOCAL_CHUNK
            self._store = LocalStore(folder)

    def room(self, size: int) -> None:
        """Raises NoSpace if that many bytes more would eat into the reserve."""
        if self._folder is not None and shutil.disk_usage(self._folder).free - size < self._reserve:
            raise NoSpace(DISK_FULL)

    async def write(self, key: str, body: bytes | AsyncIterator[bytes]) -> None:
        """All of `body`, or nothing: what it raises is raised here and leaves no trace."""
        with _failures():
            await obstore.put_async(self._store, key, body, chunk_size=self._chunk, max_concurrency=1)

    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes [start, stop) of an object, in blocks. Raises FileNotFoundError at the first."""
        if start >= stop:
            return
        with _failures():
            found = await obstore.get_async(self._store, key, options={"range": (start, stop)})
            async for block in found.stream(min_chunk_size=BLOCK):
                yield bytes(block)

    async def delete(self, keys: Sequence[str]) -> None:
        """Those that are there."""
        for key in keys:
            with _failures(), suppress(FileNotFoundError):
                await obstore.delete_async(self._store, key)

    async def delete_under(self, prefix: str) -> None:
        """Every object whose key starts with `prefix` and a slash."""
        with _failures():
            if self._folder is not None:
                # With the half-written files of a killed process, which obstore does not show. In a bucket
                # these are incomplete multipart uploads, and removed by a lifecycle rule of the bucket.
                await asyncio.to_thread(_remove, self._folder / prefix)
            else:
                async for some in obstore.list(self._store, prefix):
                    await self.delete([found["path"] for found in some])


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextmanager
def _failures() -> Iterator[None]:
    """obstore's errors as ours. It has no class for a full disk, only the system's words."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        text = str(error)
        if "os error 28)" in text or "os error 122)" in text:  # ENOSPC, EDQUOT
            raise NoSpace(DISK_FULL) from error
        raise StorageDown("the storage behind this server does not answer; try again in a moment") from error
