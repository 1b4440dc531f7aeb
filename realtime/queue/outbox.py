"""Webhook calls that are owed, in the file of the requests: one commit ends a request and owes its call."""

from __future__ import annotations

import sqlite3

from realtime.queue.records import Delivery, ending_of

HIDDEN_S = 20.0  # what somebody took is not taken again for so long; longer than a call can last


class Outbox:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def owe(self, seq: int, now: float) -> None:
        """The call of this request is due, if it wants one."""
        self._db.execute(
            "INSERT INTO deliveries (seq, url, due) "
            "SELECT seq, webhook, ? FROM requests WHERE seq = ? AND webhook != ''",
            (now, seq),
        )

    def take(self, most: int, now: float) -> list[Delivery]:
        """Calls that are due, the longest due first; nobody else gets them for HIDDEN_S."""
        rows = self._db.execute(
            "SELECT d.seq, r.id, r.tenant, d.url, d.tries, e.* FROM deliveries d "
            "JOIN requests r USING (seq) JOIN endings e USING (seq) WHERE d.due <= ? ORDER BY d.due LIMIT ?",
            (now, most),
        ).fetchall()
        self._db.executemany(
            "UPDATE deliveries SET due = ? WHERE seq = ?", [(now + HIDDEN_S, row["seq"]) for row in rows]
        )
        return [
            Delivery(row["seq"], row["id"], row["tenant"], row["url"], row["tries"], ending_of(row))
            for row in rows
        ]

    def settle(self, seq: int) -> None:
        """It arrived, or it never will."""
        self._db.execute("DELETE FROM deliveries WHERE seq = ?", (seq,))

    def again(self, seq: int, due: float, *, tried: bool = True) -> None:
        self._db.execute("UPDATE deliveries SET tries = tries + ?, due = ? WHERE seq = ?", (tried, due, seq))

    def wait_s(self, now: float) -> float | None:
        """Seconds until the next call is due; None: none is owed."""
        (due,) = self._db.execute("SELECT min(due) FROM deliveries").fetchone()
        return None if due is None else max(due - now, 0.0)
