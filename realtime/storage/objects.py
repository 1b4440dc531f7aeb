"""The bytes, in a folder or a bucket (obstore). What is written is whole or not there at all.

A key is ours, never a caller's: nothing a caller says becomes part of a path.

obstore's blocking functions in threads of our own, not its coroutines: those are finished by threads of
its runtime, which abort the process when one of them meets the interpreter's end (obstore 0.12.1: 4 of 18
short runs; pyo3-async-runtimes issue 40).
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from realtime import log
from realtime.errors import NoSpace, StorageDown
from realtime.folder import make_private
from realtime.storage.body import BLOCK

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

logger = log.get("realtime.storage")

LOCAL_CHUNK = 1024 * 1024  # bytes gathered before a write; of one upload two are in memory
REMOTE_CHUNK = 5 * 1024 * 1024  # S3 takes no smaller part
ANSWER_S = 10  # of a bucket, for one request
RETRIES = 2
BUCKETS = ("s3", "gs", "az", "memory")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
THREADS = 8  # each does one block or one small object at a time
DISK_FULL = "the disk of this server is full; nothing was stored, try again later"


class Objects:
    """url: "s3://bucket/prefix" (credentials and endpoint from AWS_*), gs://, az://; a path or file:// is a
    folder elsewhere than `folder`, "" is `folder`.

    reserve: bytes of the folder's disk that uploads leave to others (the queue, the keys, the log). Raises
    ValueError for a URL that is no bucket's, OSError for a folder that cannot be used.
    """

    def __init__(self, url: str, folder: Path, *, reserve: int = 0) -> None:
        self._reserve = reserve
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._folder: Path | None = None
        self._chunk = REMOTE_CHUNK
        self._store: ObjectStore
        parts = urlsplit(url)
        if parts.scheme in ("", "file"):
            self._folder, self._chunk = Path(parts.path) if url else folder, LOCAL_CHUNK
            make_private(self._folder)
            self._store = LocalStore(self._folder)
        elif parts.scheme in BUCKETS:
            self._store = _bucket(url)
        else:
            raise ValueError(f"storage_url begins with {parts.scheme}://; known are {', '.join(BUCKETS)}")

    def probe(self) -> None:
        """Whether the folder has room or the bucket answers. Blocks. Raises NoSpace, StorageDown."""
        self.room(0)
        if self._folder is None:
            with _failures():
                next(iter(obstore.list(self._store, chunk_size=1)), None)

    def room(self, size: int) -> None:
        """Raises NoSpace if that many bytes more would eat into the reserve."""
        if self._folder is not None and shutil.disk_usage(self._folder).free - size < self._reserve:
            raise NoSpace(DISK_FULL)

    async def write(self, key: str, body: bytes | AsyncIterator[bytes]) -> None:
        """All of `body`, or nothing: what it raises is raised here and leaves no trace."""
        with _failures():
            if isinstance(body, bytes):
                await self._do(partial(obstore.put, self._store, key, body))
                return
            writer = obstore.open_writer(self._store, key, buffer_size=self._chunk, max_concurrency=1)
            ended = False
            try:
                async for block in body:
                    await self._do(partial(writer.write, block))
                ended = True
            finally:
                if not ended:  # takes back what is written, as far as a broken store lets it
                    with suppress(BaseError):
                        await self._do(partial(writer.__exit__, *sys.exc_info()))
            await self._do(writer.close)

    async def read(self, key: str, start: int, stop: int) -> AsyncGenerator[bytes]:
        """Bytes [start, stop) of an object, in blocks. Raises FileNotFoundError at the first."""
        if start >= stop:
            return
        with _failures():
            found = await self._do(partial(obstore.get, self._store, key, options={"range": (start, stop)}))
            blocks = iter(found.stream(min_chunk_size=BLOCK))
            while (block := await self._do(partial(next, blocks, None))) is not None:
                yield bytes(block)

    async def delete(self, keys: Sequence[str]) -> None:
        """Those that are there."""
        for key in keys:
            with _failures(), suppress(FileNotFoundError):
                await self._do(partial(obstore.delete, self._store, key))

    async def delete_under(self, prefix: str) -> None:
        """Every object whose key starts with `prefix` and a slash."""
        with _failures():
            # With the half-written files of a killed process, which obstore does not show. In a bucket
            # these are incomplete multipart uploads, and removed by a lifecycle rule of the bucket.
            await self._do(partial(_remove, self._store, self._folder, prefix))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _do(self, work: Callable[[], T]) -> T:
        """In a thread; not left before it is done, even if cancelled: the next step needs what it used."""
        doing = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait((doing,))
            raise


def _bucket(url: str) -> ObjectStore:
    seconds = timedelta(seconds=ANSWER_S)
    try:
        return from_url(
            url,
            # Plain HTTP only to an endpoint that the operator wrote so.
            client_options={"timeout": seconds, "connect_timeout": seconds, "allow_http": True},
            retry_config={"max_retries": RETRIES, "retry_timeout": seconds},
        )
    except (BaseError, ValueError) as error:
        raise ValueError(f"storage_url {url} is no bucket: {str(error).partition(chr(10))[0]}") from None


def _remove(store: ObjectStore, folder: Path | None, prefix: str) -> None:
    if folder is not None:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder / prefix)
        return
    for some in obstore.list(store, prefix):
        obstore.delete(store, [found["path"] for found in some])


@contextmanager
def _failures() -> Iterator[None]:
    """obstore's errors as ours. It has no class for a full disk, only the system's words."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        text = str(error)
        if any(f"os error {number})" in text for number in FULL):
            raise NoSpace(DISK_FULL) from error
        logger.warning("storage.down", reason=text.partition("\n")[0][:500])
        raise StorageDown("the storage behind this server does not answer; try again in a moment") from error
