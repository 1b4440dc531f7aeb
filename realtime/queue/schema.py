"""The tables of the queue's file. Bodies are apart: SQLite writes a row again, whole, at every change."""

VERSION = 2

# From each version to the next.
UPGRADES = {1: ("ALTER TABLE requests ADD COLUMN acl TEXT NOT NULL DEFAULT ''",)}

SCHEMA = (
    """
    CREATE TABLE requests (
        seq        INTEGER PRIMARY KEY AUTOINCREMENT, -- order of acceptance, never given twice
        id         TEXT NOT NULL UNIQUE,
        tenant     TEXT NOT NULL,
        app        TEXT NOT NULL,
        endpoint   TEXT NOT NULL,
        base       TEXT NOT NULL,
        low        INTEGER NOT NULL,
        start_by   REAL,
        retry      INTEGER NOT NULL,
        store      INTEGER NOT NULL,
        lifetime_s REAL,
        acl        TEXT NOT NULL DEFAULT '',          -- JSON; '' is for whoever has the URL
        webhook    TEXT NOT NULL,
        accepted   REAL NOT NULL,
        digest     BLOB NOT NULL,
        answering  TEXT,                              -- who still answers its submit; '' if that was lost
        state      INTEGER NOT NULL DEFAULT 0,        -- 0 waiting, 1 running, 2 ended
        due        REAL NOT NULL DEFAULT 0,           -- not before, after a failed run
        owner      TEXT NOT NULL DEFAULT '',          -- who runs it
        until      REAL NOT NULL DEFAULT 0,           -- and how long, monotonic
        lease      INTEGER NOT NULL DEFAULT 0,        -- raised by every claim
        losses     INTEGER NOT NULL DEFAULT 0,
        cancelled  INTEGER NOT NULL DEFAULT 0,
        ended      REAL,
        fetched    REAL
    )
    """,
    "CREATE INDEX line ON requests (low, seq, due) WHERE state = 0",
    "CREATE INDEX late ON requests (start_by) WHERE state = 0 AND start_by IS NOT NULL",
    "CREATE INDEX leased ON requests (owner) WHERE state = 1",
    "CREATE INDEX mine ON requests (tenant) WHERE state = 0",
    "CREATE INDEX old ON requests (ended) WHERE state = 2",
    "CREATE INDEX unstored ON requests (ended, fetched) WHERE state = 2 AND store = 0",
    "CREATE INDEX unanswered ON requests (answering, digest) WHERE answering IS NOT NULL",
    """
    CREATE TABLE inputs (
        seq  INTEGER PRIMARY KEY REFERENCES requests ON DELETE CASCADE,
        body BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE endings (
        seq         INTEGER PRIMARY KEY REFERENCES requests ON DELETE CASCADE,
        status      INTEGER NOT NULL,
        headers     TEXT NOT NULL,
        inference_s REAL NOT NULL,
        error       TEXT NOT NULL,
        error_type  TEXT NOT NULL,
        body        BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE notes (
        seq       INTEGER NOT NULL REFERENCES requests ON DELETE CASCADE,
        number    INTEGER NOT NULL,
        level     TEXT NOT NULL,
        message   TEXT NOT NULL,
        timestamp TEXT NOT NULL,
        PRIMARY KEY (seq, number)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE deliveries (
        seq   INTEGER PRIMARY KEY REFERENCES requests ON DELETE CASCADE,
        url   TEXT NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        due   REAL NOT NULL
    )
    """,
    "CREATE INDEX due ON deliveries (due)",
)
