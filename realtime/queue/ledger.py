"""The queue on disk (SQLite): what was accepted, who works on it, what was said, how it ended.

    waiting --claim--> running --complete--> ended
       ^                 |  |                  ^
       '----- retry -----'  '---- cancel ------'   (waiting ones: cancel, expire)

A request is accepted once and ends once; its end never changes. Who runs it holds a lease: a number that
each claim raises, so that whoever lost it (a gateway that was thought dead) can end nothing any more.
Nothing here knows threads, HTTP or the event loop, and the clocks come in: `now` is wall time (it is kept
over reboots), `moment` is monotonic (a lease must survive a clock that is set). Both in seconds. The one
that is read here only paces the counting of places (`line`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from realtime.queue.file import File
from realtime.queue.line import Line
from realtime.queue.outbox import Outbox
from realtime.queue.records import (
    CANCELLED,
    EXPIRED,
    LOST,
    Claim,
    Crowded,
    Depth,
    Ending,
    Limits,
    Note,
    Order,
    Receipt,
    Result,
    Status,
    ending_of,
)

WAITING, RUNNING, ENDED = 0, 1, 2
RESERVE = 0.1  # of the file's limit, for the ends of what is accepted already
MAX_TRIES = 10  # runs that may be lost before a request ends with an error, as fal does
MAX_LINES = 1000  # of log, of one request
SAME_S = 120.0  # fal's clients try a submit again for at most so long
UNSTORED_S = 300.0  # what must not be stored (X-Fal-Store-IO: 0) is kept for its client so long
FETCHED_S = 60.0  # and so long after it was fetched: a fetch may be tried again
NO_LIMITS = Limits()
SWEEP = 200  # requests ended or forgotten per transaction

_ASKED = [field.name for field in fields(Order) if field.name != "body"]
_ACCEPT = (
    f"INSERT INTO requests ({', '.join(_ASKED)}, accepted, digest, answering) "
    f"VALUES ({', '.join(':' + name for name in _ASKED)}, :accepted, :digest, :answering)"
)
_CLAIM = (
    "UPDATE requests SET state = 1, owner = ?, until = ?, lease = lease + 1 WHERE seq IN "
    "(SELECT seq FROM requests WHERE state = 0 AND due <= ? ORDER BY low, seq LIMIT ?) RETURNING *"
)
_MINE = "id = ? AND tenant = ? AND app = ?"


class Ledger:
    """One connection to the file. Everything above `looking` belongs into a `transaction`.

    max_bytes: of the file; submits that would need its last tenth are `Crowded`. keep_s: how long ended
    requests are kept. Raises Unusable.
    """

    def __init__(
        self, path: Path, max_bytes: int = 1 << 30, keep_s: float = 3600.0, *, read_only: bool = False
    ) -> None:
        self.file = File(path, max_bytes, read_only=read_only)
        self.transaction, self.close = self.file.transaction, self.file.close
        self._db, self._keep_s = self.file.db, keep_s
        self.outbox, self._line = Outbox(self._db), Line(self._db, time.monotonic)

    # ---- from waiting to ended ----

    def submit(self, order: Order, owner: str, now: float, limits: Limits = NO_LIMITS) -> Receipt | Crowded:
        """Accept an order, which `owner` has yet to answer; or find the one that it repeats.

        It repeats an equal one whose answer never left: its client was gone, or its server killed. Equal
        ones that are answered, or about to be, are others: nobody is kept from asking twice.
        """
        again = self._row(
            "SELECT id, seq, low FROM requests WHERE answering = '' AND digest = ? AND accepted > ?",
            order.digest,
            now - SAME_S,
        )
        if again is not None:
            self._db.execute("UPDATE requests SET answering = ? WHERE seq = ?", (owner, again["seq"]))
            return Receipt(again["id"], self._line.before(again["seq"], again["low"]), repeated=True)
        waiting, low = self._count("state = 0"), self._count("state = 0 AND low = 1")
        if (crowded := self._crowded(order, limits, waiting)) is not None:
            return crowded
        more = {"accepted": now, "digest": order.digest, "answering": owner}
        seq = self._db.execute(_ACCEPT, asdict(order) | more).lastrowid
        assert seq is not None
        self._db.execute("INSERT INTO inputs (seq, body) VALUES (?, ?)", (seq, order.body))
        return Receipt(order.id, waiting if order.low else waiting - low)

    def _crowded(self, order: Order, limits: Limits, waiting: int) -> Crowded | None:
        if limits.server is not None and waiting >= limits.server:
            return Crowded(waiting, "server")
        if limits.caller is not None and waiting >= limits.caller:
            return Crowded(waiting, "caller")
        if limits.tenant is not None:
            mine = self._count("state = 0 AND tenant = ?", order.tenant)
            if mine >= limits.tenant:
                return Crowded(mine, "tenant")
        return Crowded(waiting, "bytes") if self.file.fullness(len(order.body)) > 1 - RESERVE else None

    def answered(self, id: str, arrived: bool) -> None:
        """The answer to this submit has left, or never will."""
        self._db.execute("UPDATE requests SET answering = ? WHERE id = ?", (None if arrived else "", id))

    def claim(self, owner: str, most: int, now: float, until: float) -> list[Claim]:
        """The first `most` that wait, now run by `owner` until the moment `until`."""
        rows = self._db.execute(_CLAIM, (owner, until, now, most)).fetchall()
        claims = []
        for row in sorted(rows, key=lambda row: (row["low"], row["seq"])):
            (body,) = self._db.execute("SELECT body FROM inputs WHERE seq = ?", (row["seq"],)).fetchone()
            given = {name: row[name] for name in _ASKED} | {"body": body}
            for name in ("low", "retry", "store"):
                given[name] = bool(given[name])
            claims.append(Claim(row["seq"], row["lease"], Order(**given), row["losses"]))
        return claims

    def complete(self, claim: Claim, ending: Ending, now: float) -> bool:
        """Whether it ended so; False if the lease is not ours any more."""
        held = self._holds(claim)
        if held:
            self._end(claim.seq, ending, now)
        return held

    def retry(self, claim: Claim, ending: Ending, now: float, due: float) -> bool:
        """This run came to nothing: wait again until `due`, or end so if that is no use. As `complete`."""
        held = self._holds(claim)
        if held:
            self._lose(claim.seq, ending, now, due)
        return held

    def release(self, owner: str) -> int:
        """What this owner runs waits again, as if it had never been claimed. How many."""
        return self._db.execute(
            "UPDATE requests SET state = 0, owner = '', lease = lease + 1 WHERE state = 1 AND owner = ?",
            (owner,),
        ).rowcount

    def renew(self, owner: str, until: float) -> list[str]:
        """Keep the leases of this owner. Returns the ids of those whose clients want them cancelled."""
        self._db.execute("UPDATE requests SET until = ? WHERE state = 1 AND owner = ?", (until, owner))
        asked = "SELECT id FROM requests WHERE state = 1 AND owner = ? AND cancelled = 1"
        return [id for (id,) in self._db.execute(asked, (owner,))]

    def recover(
        self, mine: str, gone: Callable[[str], bool], now: float, moment: float, lease_s: float
    ) -> int:
        """Take back what others left: the owner is gone, or its lease has ended. How many."""
        dead = [name for name in self._others(mine) if gone(name)]
        for name in dead:
            self._db.execute("UPDATE requests SET answering = '' WHERE answering = ?", (name,))
        running = self._db.execute(
            "SELECT seq, owner, until FROM requests WHERE state = 1 AND owner != ?", (mine,)
        ).fetchall()
        lost = [
            row["seq"]
            for row in running
            # A lease of the far future was given before a reboot: the monotonic clock began anew.
            if row["owner"] in dead or not moment <= row["until"] <= moment + 2 * lease_s
        ]
        for seq in lost:
            self._lose(seq, LOST, now, due=0.0)
        return len(lost)

    def _others(self, mine: str) -> list[str]:
        named = (
            "SELECT owner FROM requests WHERE state = 1 AND owner != ? "
            "UNION SELECT answering FROM requests WHERE answering IS NOT NULL AND answering NOT IN ('', ?)"
        )
        return [name for (name,) in self._db.execute(named, (mine, mine))]

    def cancel(
        self, id: str, tenant: str, app: str, now: float
    ) -> Literal["unknown", "accepted", "too_late"]:
        """A waiting one ends at once; one that runs is to be stopped by who runs it. May be asked again."""
        row = self._row(f"SELECT seq, state, cancelled FROM requests WHERE {_MINE}", id, tenant, app)
        if row is None:
            return "unknown"
        if row["state"] == ENDED:
            return "accepted" if row["cancelled"] else "too_late"
        self._db.execute("UPDATE requests SET cancelled = 1 WHERE seq = ?", (row["seq"],))
        if row["state"] == WAITING:
            self._end(row["seq"], CANCELLED, now)
        return "accepted"

    def expire(self, now: float) -> list[str]:
        """End those that waited longer than their clients gave them. Their ids."""
        late = self._db.execute(
            "SELECT seq, id FROM requests WHERE state = 0 AND start_by <= ? ORDER BY start_by LIMIT ?",
            (now, SWEEP),
        ).fetchall()
        for row in late:
            self._end(row["seq"], EXPIRED, now)
        return [row["id"] for row in late]

    def _holds(self, claim: Claim) -> bool:
        held = "SELECT 1 FROM requests WHERE seq = ? AND lease = ? AND state = 1"
        return self._row(held, claim.seq, claim.lease) is not None

    def _lose(self, seq: int, ending: Ending, now: float, due: float) -> None:
        row = self._row("SELECT retry, losses, cancelled FROM requests WHERE seq = ?", seq)
        if row["cancelled"]:
            self._end(seq, CANCELLED, now)
        elif not row["retry"] or row["losses"] + 1 >= MAX_TRIES:
            self._end(seq, ending, now)
        else:
            again = "UPDATE requests SET state = 0, owner = '', losses = losses + 1, due = ? WHERE seq = ?"
            self._db.execute(again, (due, seq))

    def _end(self, seq: int, ending: Ending, now: float) -> None:
        """The only way into the last state."""
        self._db.execute("DELETE FROM inputs WHERE seq = ?", (seq,))  # first: its room may be needed
        self._db.execute(
            "INSERT INTO endings (seq, status, headers, body, inference_s, error, error_type) "
            "VALUES (:seq, :status, :headers, :body, :inference_s, :error, :error_type)",
            asdict(ending) | {"seq": seq, "headers": json.dumps(ending.headers)},
        )
        self._db.execute("UPDATE requests SET state = 2, owner = '', ended = ? WHERE seq = ?", (now, seq))
        self.outbox.owe(seq, now)

    def note(self, seq: int, notes: Sequence[Note]) -> None:
        """Add lines to a log; those of a request that is forgotten, or says too much, are lost."""
        if self._row("SELECT 1 FROM requests WHERE seq = ?", seq) is None:
            return
        (number,) = self._row("SELECT coalesce(max(number) + 1, 0) FROM notes WHERE seq = ?", seq)
        self._db.executemany(
            "INSERT INTO notes (seq, number, level, message, timestamp) VALUES (?, ?, ?, ?, ?)",
            [
                (seq, number + index, note.level, note.message, note.timestamp)
                for index, note in enumerate(notes[: max(MAX_LINES - number, 0)])
            ],
        )

    def fetched(self, id: str, now: float) -> None:
        """The client has its result: one that must not be stored may go."""
        self._db.execute("UPDATE requests SET fetched = ? WHERE id = ? AND fetched IS NULL", (now, id))

    def sweep(self, now: float) -> int:
        """Forget some of what is older than it is kept, not what a webhook has still to be told. How many.

        Called until there is nothing more, it also gives the room back.
        """
        told = "state = 2 AND seq NOT IN (SELECT seq FROM deliveries)"
        self._db.execute(
            f"DELETE FROM endings WHERE seq IN (SELECT seq FROM requests WHERE {told} AND store = 0 "
            "AND (ended < ? OR fetched < ?))",
            (now - UNSTORED_S, now - FETCHED_S),
        )
        forgotten = self._db.execute(
            f"DELETE FROM requests WHERE seq IN (SELECT seq FROM requests WHERE {told} AND ended < ? "
            "ORDER BY ended LIMIT ?)",
            (now - self._keep_s, SWEEP),
        ).rowcount
        self.file.shrink()
        return forgotten

    # ---- looking ----

    def status(self, id: str, tenant: str, app: str, notes_from: int | None = None) -> Status | None:
        """None: this tenant has none. notes_from: the log's lines from this number on; None for none."""
        row = self._row(
            "SELECT r.seq, low, state, inference_s, error, error_type FROM requests r "
            f"LEFT JOIN endings USING (seq) WHERE {_MINE}",
            id,
            tenant,
            app,
        )
        if row is None:
            return None
        notes: tuple[Note, ...] = ()
        if notes_from is not None:
            lines = (
                "SELECT level, message, timestamp FROM notes WHERE seq = ? AND number >= ? ORDER BY number"
            )
            notes = tuple(Note(*line) for line in self._db.execute(lines, (row["seq"], notes_from)))
        if row["state"] == WAITING:
            return Status("IN_QUEUE", self._line.before(row["seq"], row["low"]), notes)
        if row["state"] == RUNNING:
            return Status("IN_PROGRESS", notes=notes)
        said = row["inference_s"] or 0.0, row["error"] or "", row["error_type"] or ""
        return Status("COMPLETED", 0, notes, *said)

    def result(self, id: str, tenant: str, app: str) -> Result | Literal["unknown", "unfinished", "erased"]:
        row = self._row(
            f"SELECT state, store, endings.* FROM requests LEFT JOIN endings USING (seq) WHERE {_MINE}",
            id,
            tenant,
            app,
        )
        if row is None:
            return "unknown"
        if row["state"] != ENDED:
            return "unfinished"
        return "erased" if row["status"] is None else Result(ending_of(row), bool(row["store"]))

    def depth(self) -> Depth:
        (owed,) = self._row("SELECT count(*) FROM deliveries")
        return Depth(self._count("state = 0"), self._count("state = 1"), owed)

    def _row(self, query: str, *given: Any) -> Any:
        return self._db.execute(query, given).fetchone()

    def _count(self, where: str, *given: Any) -> int:
        (count,) = self._row(f"SELECT count(*) FROM requests WHERE {where}", *given)
        return int(count)
