"""What files there are, whose, and until when: one SQLite file, used on one thread.

A file is a row and its parts; a part is an object whose key ends in the part's etag, so that a part sent
twice never mixes with itself. A row exists before any of its bytes and goes after the last of them: what
is not in here and done is served to nobody, and what expires unfinished vanishes with the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from realtime.errors import BadFrame, NoSpace, NotFound, StorageDown, TooLarge
from realtime.storage.lifecycle import Acl
from realtime.storage.objects import DISK_FULL

P = ParamSpec("P")
T = TypeVar("T")

UNKNOWN_UPLOAD = "there is no such upload; it may have expired"

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, acl TEXT,
    ticket TEXT NOT NULL, multipart INTEGER NOT NULL, done INTEGER NOT NULL DEFAULT 0,
    lifetime REAL, until REAL NOT NULL, expires REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_expire ON files (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS parts (
    file TEXT NOT NULL REFERENCES files ON DELETE CASCADE, number INTEGER NOT NULL,
    etag TEXT NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (file, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stored (owner TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS part_comes AFTER INSERT ON parts BEGIN
    INSERT INTO stored SELECT owner, new.size FROM files WHERE id = new.file
    ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER IF NOT EXISTS part_changes AFTER UPDATE ON parts BEGIN
    UPDATE stored SET bytes = bytes + new.size - old.size
    WHERE owner = (SELECT owner FROM files WHERE id = new.file);
END;
CREATE TRIGGER IF NOT EXISTS part_goes BEFORE DELETE ON parts BEGIN
    UPDATE stored SET bytes = bytes - old.size WHERE owner = (SELECT owner FROM files WHERE id = old.file);
END;
"""


@dataclass(frozen=True, slots=True)
class Part:
    number: int  # from 1
    etag: str  # hexadecimal, new for every write
    size: int  # bytes


@dataclass(frozen=True)
class File:
    id: str  # hexadecimal, 128 random bits: who knows it may read the file, unless there is an ACL
    owner: str  # id of the API key, "" on an open server
    name: str
    content_type: str
    ticket: str  # secret of the upload URL
    multipart: bool
    until: float  # Unix time, end of the time to upload it
    acl: Acl | None = None
    lifetime_s: float | None = None  # from the end of the upload; None: for ever
    expires: float | None = None  # Unix time; `until` while it is not done
    done: bool = False
    parts: tuple[Part, ...] = ()

    @cached_property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @cached_property
    def etag(self) -> str:
        """Quoted, as in the header."""
        if len(self.parts) == 1:
            return f'"{self.parts[0].etag}"'
        joined = "".join(part.etag for part in self.parts)
        return f'"{hashlib.sha256(joined.encode()).hexdigest()[:32]}-{len(self.parts)}"'

    @property
    def folder(self) -> str:
        return folder_of(self.id)

    def key(self, part: Part) -> str:
        """Of the object that holds this part."""
        return f"{self.folder}/{part.etag}"

    def readable_by(self, key_id: str | None) -> bool:
        """None: somebody without a key."""
        return self.acl is None or key_id == self.owner or self.acl.allows(key_id)


def folder_of(file_id: str) -> str:
    return f"{file_id[:2]}/{file_id}"


class Catalogue:
    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error if the file is no database, OSError if it cannot be opened."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catalogue")
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # its journals take the mode from it
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        self._db.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing. A power cut may lose the last rows, and with them bytes that
        # the file system had not written either.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._thread.submit(self._db.close)
        self._thread.shutdown(wait=True)

    async def _do(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`work` as one transaction on the catalogue's thread."""

        def transaction() -> T:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._db, *args, **kwargs)
                self._db.execute("COMMIT")
                return result
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back by itself when its disk is full
                    self._db.execute("ROLLBACK")
                raise

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise NoSpace(DISK_FULL) from error
            raise StorageDown("the catalogue of this server's storage cannot be used") from error

    async def create(self, file: File) -> None:
        """A file without parts; whatever was under way of it vanishes at `file.expires`."""
        await self._do(_create, file)

    async def find(self, file_id: str) -> File | None:
        """With all its parts; done or not, expired or not."""
        return await self._do(_find, file_id)

    async def put(self, file_id: str, part: Part, *, max_file: int, max_stored: int) -> str | None:
        """Note a part whose bytes are written. The etag of what it replaces, if there was one.

        max_file, max_stored: bytes of all parts of this file, and of all files of its owner (0: no limit).
        Raises NotFound, BadFrame for a multipart upload that is done, TooLarge, NoSpace.
        """
        return await self._do(_put, file_id, part, max_file, max_stored)

    async def finish(self, file_id: str, wanted: Sequence[tuple[int, str]] | None, now: float) -> list[str]:
        """The file is complete and lives from now on; the etags of parts that were sent but not wanted.

        wanted: number and etag of each part, in any order; None: those that are there. Doing it once more
        changes nothing. Raises NotFound, BadFrame for parts that are not as said.
        """
        return await self._do(_finish, file_id, wanted, now)

    async def remove(self, file_id: str) -> None:
        await self._do(_remove, file_id)

    async def due(self, now: float, limit: int) -> list[str]:
        """Ids of files whose time is over, the oldest first."""
        return await self._do(_due, now, limit)

    async def stored(self, owner: str) -> int:
        """Bytes of all files of an owner, uploads under way included."""
        return await self._do(_stored, owner)


def _create(db: sqlite3.Connection, file: File) -> None:
    db.execute(
        "INSERT INTO files (id, owner, name, type, acl, ticket, multipart, lifetime, until, expires)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(file.id, file.owner, file.name, file.content_type),
            file.acl.model_dump_json() if file.acl else None,
            *(file.ticket, file.multipart, file.lifetime_s, file.until, file.expires),
        ),
    )


def _find(db: sqlite3.Connection, file_id: str) -> File | None:
    row = db.execute(
        "SELECT id, owner, name, type, ticket, multipart, until, acl, lifetime, expires, done"
        " FROM files WHERE id = ?",
        (file_id,),
    ).fetchone()
    if row is None:
        return None
    file_id, owner, name, content_type, ticket, multipart, until, acl, lifetime_s, expires, done = row
    parts = db.execute("SELECT number, etag, size FROM parts WHERE file = ? ORDER BY number", (file_id,))
    return File(
        id=file_id,
        owner=owner,
        name=name,
        content_type=content_type,
        ticket=ticket,
        multipart=bool(multipart),
        until=until,
        acl=None if acl is None else Acl.model_validate_json(acl),
        lifetime_s=lifetime_s,
        expires=expires,
        done=bool(done),
        parts=tuple(Part(*part) for part in parts),
    )


def _put(db: sqlite3.Connection, file_id: str, part: Part, max_file: int, max_stored: int) -> str | None:
    file = _find(db, file_id)
    if file is None:
        raise NotFound(UNKNOWN_UPLOAD)
    if file.done and file.multipart:
        raise BadFrame("this upload is complete; start another one")
    before = next((found for found in file.parts if found.number == part.number), None)
    db.execute(
        "INSERT INTO parts (file, number, etag, size) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET etag = excluded.etag, size = excluded.size",
        (file_id, part.number, part.etag, part.size),
    )
    size = file.size + part.size - (before.size if before else 0)
    if size > max_file:
        raise TooLarge(f"the parts of this file have {size} bytes together, the limit is {max_file} bytes")
    if max_stored and _stored(db, file.owner) > max_stored:
        raise NoSpace(f"this key's files would fill more than {max_stored} bytes, its limit; let some expire")
    return before.etag if before else None


def _finish(
    db: sqlite3.Connection, file_id: str, wanted: Sequence[tuple[int, str]] | None, now: float
) -> list[str]:
    file = _find(db, file_id)
    if file is None:
        raise NotFound(UNKNOWN_UPLOAD)
    there = {part.number: part.etag for part in file.parts}
    if wanted is not None:
        for number, etag in wanted:
            if there.get(number) != etag:
                raise BadFrame(f"part {number} was not uploaded with the etag that is named")
    if file.done:
        return []
    if now >= file.until:  # the sweep may be removing it at this moment
        raise NotFound(UNKNOWN_UPLOAD)
    numbers = set(there) if wanted is None else {number for number, _ in wanted}
    left = [etag for number, etag in there.items() if number not in numbers]
    for number in set(there) - numbers:
        db.execute("DELETE FROM parts WHERE file = ? AND number = ?", (file_id, number))
    expires = None if file.lifetime_s is None else now + file.lifetime_s
    db.execute("UPDATE files SET done = 1, expires = ? WHERE id = ?", (expires, file_id))
    return left


def _remove(db: sqlite3.Connection, file_id: str) -> None:
    # The trigger that keeps the sum looks the owner up, so the row goes last.
    db.execute("DELETE FROM parts WHERE file = ?", (file_id,))
    db.execute("DELETE FROM files WHERE id = ?", (file_id,))


def _due(db: sqlite3.Connection, now: float, limit: int) -> list[str]:
    rows = db.execute("SELECT id FROM files WHERE expires <= ? ORDER BY expires LIMIT ?", (now, limit))
    return [row[0] for row in rows]


def _stored(db: sqlite3.Connection, owner: str) -> int:
    row = db.execute("SELECT bytes FROM stored WHERE owner = ?", (owner,)).fetchone()
    return row[0] if row else 0
