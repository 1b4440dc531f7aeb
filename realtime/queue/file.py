"""The file under the queue: opened safely, refused clearly, written in transactions."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from realtime.folder import make_private
from realtime.queue.schema import SCHEMA, UPGRADES, VERSION

BUSY_S = 5.0  # another program may hold the file so long
FEWEST_PAGES = 64  # SQLite wants some for itself
SLACK = 256  # free pages that are kept
SHRINK = 1000  # pages given back at a time, some 5 ms


class Unusable(Exception):
    """The file is none this server can work with; the text is for the operator."""


class File:
    """One connection, for one thread at a time.

    path: made with its directory, readable by its owner only: the inputs are people's own.
    max_bytes: `sqlite3.OperationalError` (SQLITE_FULL) beyond it. Raises Unusable.
    """

    def __init__(self, path: Path, max_bytes: int, *, read_only: bool = False) -> None:
        self._path, self._max_bytes = path, max_bytes
        try:
            if not read_only:
                make_private(path.parent)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self.db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        except OSError as error:
            raise Unusable(f"the queue's file {path} cannot be opened: {error.strerror}") from None
        self.db.row_factory = sqlite3.Row
        try:
            self._read_only() if read_only else self._set_up()
        except (Unusable, sqlite3.Error) as error:
            self.db.close()
            raise _unusable(path, error) from None

    def _read_only(self) -> None:
        self.db.execute("PRAGMA query_only = ON")

    def _set_up(self) -> None:
        run = self.db.execute
        (found,) = run("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        (version,) = run("PRAGMA user_version").fetchone()
        if not 0 <= version <= VERSION:
            raise Unusable(
                f"the queue's file {self._path} has version {version}, this server reads {VERSION}. "
                "Move it away, or run the server it belongs to."
            )
        run("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file: what is deleted can be given back
        (mode,) = run("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise Unusable(f"the queue's file {self._path} is on a file system without shared memory")
        run("PRAGMA synchronous = FULL")  # what was accepted survives a power cut
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA secure_delete = FAST")
        self._page = int(run("PRAGMA page_size").fetchone()[0])
        self._most = max(FEWEST_PAGES, self._max_bytes // self._page)
        run(f"PRAGMA max_page_count = {self._most}")
        with self.transaction():
            (version,) = run("PRAGMA user_version").fetchone()  # two servers may start at once
            for statement in _steps(version):
                run(statement)
            run(f"PRAGMA user_version = {VERSION}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it is on the disk when the block ends, or none of it. Raises sqlite3.Error."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:  # a full disk has ended it already
                self.db.execute("ROLLBACK")
            raise

    def fullness(self, more: int) -> float:
        """What share of the most it may hold it would hold with so many bytes more."""
        (pages,) = self.db.execute("PRAGMA page_count").fetchone()
        (free,) = self.db.execute("PRAGMA freelist_count").fetchone()
        used: int = pages - free
        return (used + more / self._page) / self._most

    def shrink(self) -> None:
        """Give some of the free pages back to the file system, but not what is soon needed again."""
        (free,) = self.db.execute("PRAGMA freelist_count").fetchone()
        for _ in range(min(free - SLACK, SHRINK)):
            self.db.execute("PRAGMA incremental_vacuum(1)")  # one: `execute` stops after the first page

    def close(self) -> None:
        self.db.close()


def _steps(version: int) -> Iterator[str]:
    """What makes the newest of a file of this version; 0 is an empty one."""
    if version == 0:
        yield from SCHEMA
        return
    for older in range(version, VERSION):
        yield from UPGRADES[older]


def _unusable(path: Path, error: Exception) -> Unusable:
    if isinstance(error, Unusable):
        return error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unusable(f"the queue's file {path} is locked by another program; end that program")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Unusable(
            f"the queue's file {path} is damaged ({error}). Move it away to start with an empty queue; "
            "`sqlite3 FILE .recover` may save what was in it."
        )
    return Unusable(f"the queue's file {path} cannot be used: {error}")
