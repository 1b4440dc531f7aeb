"""API keys: those of the settings, and those made by `realtime key`, which a running server follows.

Of a made key only the SHA-256 of its secret is kept. The secret has 256 random bits, so there is nothing
a slower hash would protect. Revoked keys stay in the file: revoking the last one must not open the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from realtime import log
from realtime.errors import Unauthorized
from realtime.folder import make_private

FILE = "keys.sqlite3"  # in the state directory
POLL_S = 0.5
LIMITS = ("sockets", "frames_s", "queued", "stored_bytes", "upload_bytes_min")  # as in limits.Quota

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL, name TEXT NOT NULL, created REAL NOT NULL, revoked REAL,
    sockets INTEGER, frames_s REAL, queued INTEGER, stored_bytes INTEGER, upload_bytes_min INTEGER
)
"""

logger = log.get("realtime.keys")


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    digest: bytes  # SHA-256 of the secret
    name: str  # for people
    created: float  # Unix time
    revoked: float | None
    limits: Mapping[str, float]  # of LIMITS, those this key was given for itself


class KeyFile:
    """The made keys, in a SQLite file readable by its owner only. Everything here blocks briefly."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE
        self._db: sqlite3.Connection | None = None
        self._version = -1

    def create(self, name: str = "", **limits: float) -> str:
        """A new key as "id:secret", which is told once and nowhere kept. Raises OSError, sqlite3.Error."""
        make_private(self.path.parent)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        key_id, secret = f"rk_{secrets.token_hex(6)}", secrets.token_urlsafe(32)
        with closing(sqlite3.connect(self.path, timeout=5)) as db, db:
            db.execute(SCHEMA)
            db.execute(
                f"INSERT INTO keys VALUES (?, ?, ?, ?, NULL{', ?' * len(LIMITS)})",
                (key_id, digest(secret), name, time.time(), *(limits.get(field) for field in LIMITS)),
            )
        return f"{key_id}:{secret}"

    def revoke(self, key_id: str) -> bool:
        """False if there is no such key in use. Raises sqlite3.Error."""
        if not self.path.exists():
            return False
        with closing(sqlite3.connect(self.path, timeout=5)) as db, db:
            done = db.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (time.time(), key_id)
            )
            return done.rowcount > 0

    def all(self) -> list[Key]:
        """Revoked ones too, the oldest first. Raises sqlite3.Error."""
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path, timeout=5)) as db:
            return _read(db)

    def news(self) -> list[Key] | None:
        """All keys if any has changed since the last call, else None. Raises sqlite3.Error."""
        if self._db is None:
            if not self.path.exists():
                return None
            self._db = sqlite3.connect(self.path, timeout=5, check_same_thread=False)
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return None
        keys = _read(self._db)
        self._version = version
        return keys

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _read(db: sqlite3.Connection) -> list[Key]:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'keys'").fetchone():
        return []
    rows = db.execute(
        f"SELECT id, digest, name, created, revoked, {', '.join(LIMITS)} FROM keys ORDER BY created, id"
    )
    keys = []
    for key_id, secret_digest, name, created, revoked, *limits in rows:
        own = {field: limit for field, limit in zip(LIMITS, limits, strict=True) if limit is not None}
        keys.append(Key(key_id, secret_digest, name, created, revoked, own))
    return keys


class Keys:
    """The API keys of this server. None at all, made or given: the server is open.

    given: from the settings, each "id:secret". made: those of `realtime key`, read here and by `run`.
    Raises ValueError for a given key that is none, sqlite3.Error for a file that is none.
    """

    def __init__(self, given: Iterable[str], made: KeyFile | None = None) -> None:
        self._given: dict[str, bytes] = {}
        for key in given:
            name, colon, secret = key.partition(":")
            if not (name and colon and secret):
                raise ValueError("an API key must look like id:secret")
            self._given[name] = digest(secret)
        self._made = made
        self._secrets = self._given
        self._own: dict[str, Mapping[str, float]] = {}
        self.required = bool(self._given)
        if made is not None:
            self._take(made.news())

    def __contains__(self, name: object) -> bool:
        return name in self._secrets

    def lets(self, name: str) -> bool:
        """Whether what this key began may go on: it was not revoked, or the server is open."""
        return not self.required or name in self

    def __len__(self) -> int:
        return len(self._secrets)

    def own_limits(self, key_id: str) -> Mapping[str, float]:
        """Those that were given to this key when it was made."""
        return self._own.get(key_id, {})

    def check(self, authorization: str | None) -> str:
        """The id of the key in an `Authorization: Key id:secret` header, "" on an open server.

        Raises Unauthorized. An open server takes any header: fal's clients always send one.
        """
        if not self.required:
            return ""
        scheme, _, credentials = (authorization or "").strip().partition(" ")
        name, _, secret = credentials.strip().partition(":")
        if scheme.lower() not in ("key", "bearer"):
            raise Unauthorized("no API key: send Authorization: Key <id>:<secret>")
        # An unknown id costs the same comparison as a wrong secret.
        expected = self._secrets.get(name, b"\0" * 32)
        if not hmac.compare_digest(expected, digest(secret)):
            raise Unauthorized("invalid key credentials")
        return name

    async def run(self, on_change: Callable[[], None]) -> None:
        """Follow the made keys, until cancelled. on_change: called on the event loop after every change."""
        while self._made is not None:
            await asyncio.sleep(POLL_S)
            try:
                news = await asyncio.to_thread(self._made.news)
            except sqlite3.Error as error:  # the keys that are known go on working
                logger.warning("keys.unreadable", reason=str(error))
                continue
            if news is not None:
                self._take(news)
                on_change()

    def _take(self, made: list[Key] | None) -> None:
        if made is None:
            return
        live = [key for key in made if key.revoked is None]
        self._secrets = {key.id: key.digest for key in live} | self._given
        self._own = {key.id: key.limits for key in live}
        # Never back: who empties or replaces the file of a running server must not open it by that.
        self.required = self.required or bool(made)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
