"""What the ledger promises: nothing accepted is lost, everything ends once, and only its holder ends it."""

from __future__ import annotations

import sqlite3
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from realtime.queue.file import Unusable
from realtime.queue.ledger import FETCHED_S, MAX_LINES, MAX_TRIES, SAME_S, UNSTORED_S, Ledger
from realtime.queue.records import (
    CANCELLED,
    EXPIRED,
    LOST,
    Claim,
    Crowded,
    Limits,
    Note,
    Order,
    Receipt,
    Status,
)
from tests.realtime.queue.orders import APP, TENANT, ending, order

NOW = 1_000_000.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite3"


@pytest.fixture
def ledger(file: Path):
    ledger = Ledger(file)
    yield ledger
    ledger.close()


def submit(ledger: Ledger, *ids: str, now: float = NOW, **given: object) -> None:
    with ledger.transaction():
        for id in ids:
            receipt = ledger.submit(order(id, **given), "me", now)
            assert isinstance(receipt, Receipt)
            ledger.answered(id, True)


def submit_inside(ledger: Ledger, *orders: Order) -> None:
    for one in orders:
        ledger.submit(one, "me", NOW)


def claim(
    ledger: Ledger, most: int = 1, owner: str = "me", now: float = NOW, until: float = 100.0
) -> list[Claim]:
    with ledger.transaction():
        return ledger.claim(owner, most, now, until)


def status(ledger: Ledger, id: str) -> Status:
    found = ledger.status(id, TENANT, APP)
    assert found is not None
    return found


def position(ledger: Ledger, id: str) -> int:
    return status(ledger, id).position


# ---- the life of a request ----


def test_a_request_is_accepted_run_and_ended_once(ledger: Ledger):
    submit(ledger, "a", webhook="https://example.com/hook", low=True, start_by=NOW + 9, lifetime_s=60.0)
    assert status(ledger, "a") == Status("IN_QUEUE", 0)
    (mine,) = claim(ledger)
    wanted = order("a", webhook="https://example.com/hook", low=True, start_by=NOW + 9, lifetime_s=60.0)
    assert mine.order == wanted
    assert status(ledger, "a") == Status("IN_PROGRESS")
    assert ledger.result("a", TENANT, APP) == "unfinished"
    with ledger.transaction():
        assert ledger.complete(mine, ending('{"seed":1}'), NOW)
        assert not ledger.complete(mine, ending('{"seed":2}'), NOW), "it has ended"
    assert status(ledger, "a") == Status("COMPLETED", inference_s=0.25)
    assert ledger.result("a", TENANT, APP).ending == ending('{"seed":1}')


def test_normal_ones_go_before_low_ones_and_each_in_order(ledger: Ledger):
    submit(ledger, "low 1", low=True)
    submit(ledger, "first", "second")
    submit(ledger, "low 2", low=True)
    assert [position(ledger, id) for id in ("first", "second", "low 1", "low 2")] == [0, 1, 2, 3]
    assert [one.order.id for one in claim(ledger, most=3)] == ["first", "second", "low 1"]
    assert position(ledger, "low 2") == 0


def test_another_tenant_or_app_does_not_see_a_request(ledger: Ledger):
    submit(ledger, "a")
    (mine,) = claim(ledger)
    with ledger.transaction():
        for tenant, app in (("bob", APP), ("", APP), (TENANT, "fal-ai/other")):
            assert ledger.status("a", tenant, app) is None
            assert ledger.result("a", tenant, app) == "unknown"
            assert ledger.cancel("a", tenant, app, NOW) == "unknown"
        assert ledger.complete(mine, ending(), NOW), "the others' attempts changed nothing"


def test_a_waiting_one_is_cancelled_at_once_and_again_without_harm(ledger: Ledger):
    submit(ledger, "a", "b")
    with ledger.transaction():
        assert ledger.cancel("a", TENANT, APP, NOW) == "accepted"
        assert ledger.cancel("a", TENANT, APP, NOW) == "accepted", "its client did not hear and asks again"
    assert status(ledger, "a").error_type == "client_cancelled"
    assert ledger.result("a", TENANT, APP).ending == CANCELLED
    assert [one.order.id for one in claim(ledger, most=5)] == ["b"]


def test_who_runs_a_request_hears_of_its_cancellation(ledger: Ledger):
    submit(ledger, "a", "b")
    mine = claim(ledger, most=2)
    with ledger.transaction():
        assert ledger.cancel("a", TENANT, APP, NOW) == "accepted"
        assert ledger.renew("me", 200.0) == ["a"]
        assert ledger.renew("you", 200.0) == []
        assert ledger.retry(mine[0], LOST, NOW, NOW), "no second try for what nobody wants"
    assert ledger.result("a", TENANT, APP).ending == CANCELLED


def test_an_ended_one_cannot_be_cancelled(ledger: Ledger):
    submit(ledger, "a")
    (mine,) = claim(ledger)
    with ledger.transaction():
        ledger.complete(mine, ending(), NOW)
        assert ledger.cancel("a", TENANT, APP, NOW) == "too_late"
    assert ledger.result("a", TENANT, APP).ending == ending()


def test_what_is_not_begun_in_its_time_ends_with_a_timeout_the_clients_do_not_retry(ledger: Ledger):
    submit(ledger, "soon", start_by=NOW + 1)
    submit(ledger, "later", start_by=NOW + 3)
    submit(ledger, "whenever")
    with ledger.transaction():
        assert ledger.expire(NOW + 0.9) == []
        assert ledger.expire(NOW + 1) == ["soon"]
    assert ledger.result("soon", TENANT, APP).ending == EXPIRED
    assert EXPIRED.status == 504
    assert EXPIRED.headers["x-fal-request-timeout-type"] == "user"
    assert [one.order.id for one in claim(ledger, most=5)] == ["later", "whenever"]
    with ledger.transaction():
        assert ledger.expire(NOW + 99) == [], "what has begun has begun"


# ---- tries and leases ----


def test_a_failed_run_waits_and_is_tried_again_a_limited_number_of_times(ledger: Ledger):
    submit(ledger, "a")
    for number in range(MAX_TRIES):
        now = NOW + 10 * number
        (mine,) = claim(ledger, now=now)
        assert mine.lost == number
        with ledger.transaction():
            assert ledger.retry(mine, LOST, now, now + 10)
        assert claim(ledger, now=now + 9.9) == []
    assert ledger.result("a", TENANT, APP).ending == LOST


def test_no_retry_means_none(ledger: Ledger):
    submit(ledger, "a", retry=False)
    (mine,) = claim(ledger)
    with ledger.transaction():
        assert ledger.retry(mine, LOST, NOW, NOW)
    assert ledger.result("a", TENANT, APP).ending == LOST


def test_what_a_dead_owner_ran_waits_again_in_its_old_place(ledger: Ledger):
    submit(ledger, "a", "b")
    (mine,) = claim(ledger, owner="dead")
    with ledger.transaction():
        assert ledger.recover("new", lambda owner: owner == "dead", NOW, moment=1.0, lease_s=99) == 1
    assert position(ledger, "a") == 0
    (again, _) = claim(ledger, most=2, owner="new")
    assert (again.order.id, again.lost) == ("a", 1)
    with ledger.transaction():
        assert not ledger.complete(mine, ending('"late"'), NOW), "the dead one's lease is worth nothing"
        assert ledger.complete(again, ending('"new"'), NOW)
    assert ledger.result("a", TENANT, APP).ending.body == b'"new"'


@pytest.mark.parametrize(("moment", "taken"), [(50.0, 0), (99.9, 0), (100.1, 1), (50.0 - 1000.0, 1)], ids=str)
def test_a_silent_owner_keeps_its_requests_until_its_lease_ends_or_the_machine_restarts(
    ledger: Ledger, moment: float, taken: int
):
    submit(ledger, "a")
    claim(ledger, owner="silent", until=100.0)
    with ledger.transaction():
        assert ledger.recover("me", lambda owner: False, NOW, moment, lease_s=60) == taken


def test_nobody_takes_its_own_requests_back(ledger: Ledger):
    submit(ledger, "a")
    claim(ledger, owner="me", until=100.0)
    with ledger.transaction():
        assert ledger.recover("me", lambda owner: True, NOW, moment=999.0, lease_s=60) == 0


def test_a_server_that_goes_in_peace_costs_no_try(ledger: Ledger):
    submit(ledger, "a")
    (mine,) = claim(ledger)
    with ledger.transaction():
        assert ledger.release("you") == 0
        assert ledger.release("me") == 1
        assert not ledger.complete(mine, ending(), NOW)
    (again,) = claim(ledger)
    assert again.lost == 0


# ---- submits that are tried again ----


def again(ledger: Ledger, id: str, now: float = NOW, **given: object) -> Receipt:
    """An order that is equal to every other of this function."""
    receipt = ledger.submit(order(id, **({"body": b"{}"} | given)), "me", now)
    assert isinstance(receipt, Receipt)
    return receipt


def test_a_submit_whose_answer_was_lost_is_the_same_one_when_it_comes_again(ledger: Ledger):
    with ledger.transaction():
        assert again(ledger, "a").id == "a"
        ledger.answered("a", False)
        assert again(ledger, "b", body=b'{"seed":1}').id == "b", "not equal"
        assert again(ledger, "c", tenant="bob").id == "c", "not hers"
        assert again(ledger, "d", start_by=NOW + 5, base="http://falrun.com") == Receipt(
            "a", 0, repeated=True
        )
        assert again(ledger, "e").id == "e", "that one is taken now"


def test_a_lost_answer_is_not_remembered_for_ever(ledger: Ledger):
    with ledger.transaction():
        again(ledger, "a")
        ledger.answered("a", False)
        assert again(ledger, "b", now=NOW + SAME_S + 1).id == "b"


def test_the_answers_of_a_killed_server_were_lost(ledger: Ledger):
    with ledger.transaction():
        ledger.submit(order("a", body=b"{}"), "dead", NOW)
        ledger.submit(order("b", body=b'"b"'), "alive", NOW)
        assert ledger.recover("me", lambda name: name == "dead", NOW, 1.0, 9.0) == 0, "none ran"
        assert again(ledger, "c").id == "a"
        assert again(ledger, "d", body=b'"b"').id == "d"


def test_equal_submits_are_as_many_requests_at_once_or_one_after_the_other(ledger: Ledger):
    with ledger.transaction():
        assert [again(ledger, id).id for id in "ab"] == ["a", "b"]
        ledger.answered("a", True)
        ledger.answered("b", True)
        assert [again(ledger, id) for id in "cd"] == [Receipt("c", 2), Receipt("d", 3)]


# ---- limits ----


def test_a_full_queue_takes_no_more_and_says_whose_limit_it_is(ledger: Ledger):
    submit(ledger, "a", "b")
    submit(ledger, "c", tenant="bob")
    with ledger.transaction():
        assert ledger.submit(order("d"), "me", NOW, Limits(server=3)) == Crowded(3, "server")
        assert ledger.submit(order("d"), "me", NOW, Limits(tenant=2)) == Crowded(2, "tenant")
        assert ledger.submit(order("d"), "me", NOW, Limits(caller=3)) == Crowded(3, "caller")
        assert ledger.submit(order("d"), "me", NOW, Limits(4, 3, 4)) == Receipt("d", 3)


def test_the_file_keeps_room_for_the_ends_of_what_it_accepted(file: Path):
    ledger = Ledger(file, max_bytes=1 << 20)
    accepted = []
    for number in range(1000):
        wanted = order(str(number), body=b'"%s"' % (b"x" * 9000))
        with ledger.transaction():
            receipt = ledger.submit(wanted, "me", NOW)
            if isinstance(receipt, Crowded):
                break
            ledger.answered(wanted.id, True)
            accepted.append(wanted.id)
    assert receipt == Crowded(len(accepted), "bytes")
    assert len(accepted) > 50
    for mine in claim(ledger, most=len(accepted)):
        with ledger.transaction():
            assert ledger.complete(mine, ending("x" * 9000), NOW), "an answer as long as the question"
    assert file.stat().st_size <= 1 << 20
    ledger.close()


def test_beyond_its_limit_the_file_refuses_and_keeps_what_it_has(file: Path):
    ledger = Ledger(file, max_bytes=1 << 20)
    submit(ledger, "a")
    (mine,) = claim(ledger)
    with pytest.raises(sqlite3.OperationalError, match="full"), ledger.transaction():
        ledger.complete(mine, ending("x" * (1 << 20)), NOW)
    assert status(ledger, "a").state == "IN_PROGRESS"
    with ledger.transaction():
        assert ledger.complete(mine, ending(), NOW)
    ledger.close()


# ---- logs ----


def notes(*messages: str) -> list[Note]:
    return [Note("INFO", message, "2026-01-01T00:00:00.000000+00:00") for message in messages]


def test_a_log_is_read_whole_or_from_a_line_on(ledger: Ledger):
    submit(ledger, "a")
    (mine,) = claim(ledger)
    with ledger.transaction():
        ledger.note(mine.seq, notes("one", "two"))
        ledger.note(mine.seq, notes("three"))
        ledger.complete(mine, ending(), NOW)

    def messages(start: int | None) -> list[str]:
        return [note.message for note in ledger.status("a", TENANT, APP, start).notes]

    assert messages(None) == []
    assert messages(0) == ["one", "two", "three"]
    assert messages(2) == ["three"]
    assert messages(3) == []


def test_a_log_that_says_too_much_is_cut_and_one_of_nothing_is_lost(ledger: Ledger):
    submit(ledger, "a")
    (mine,) = claim(ledger)
    with ledger.transaction():
        ledger.note(mine.seq, notes(*map(str, range(MAX_LINES - 1))))
        ledger.note(mine.seq, notes("last", "too much"))
        ledger.note(mine.seq, notes("too much"))
        ledger.note(12345, notes("of nothing"))
    found = ledger.status("a", TENANT, APP, MAX_LINES - 2)
    assert found is not None
    assert [note.message for note in found.notes] == [str(MAX_LINES - 2), "last"]


# ---- forgetting ----


def end(ledger: Ledger, id: str, now: float = NOW, **given: object) -> None:
    submit(ledger, id, **given)
    (mine,) = claim(ledger)
    with ledger.transaction():
        assert ledger.complete(mine, ending(), now)


def test_an_ended_request_is_kept_so_long_and_then_forgotten(file: Path):
    ledger = Ledger(file, keep_s=100.0)
    end(ledger, "a")
    submit(ledger, "waits for ever")
    with ledger.transaction():
        assert ledger.sweep(NOW + 99) == 0
        assert ledger.sweep(NOW + 101) == 1
    assert ledger.status("a", TENANT, APP) is None
    assert status(ledger, "waits for ever").state == "IN_QUEUE"
    for table in ("endings", "inputs", "notes"):
        (left,) = ledger._db.execute(f"SELECT count(*) FROM {table} WHERE seq = 1").fetchone()
        assert left == 0, table
    ledger.close()


def test_what_a_webhook_has_still_to_be_told_is_kept(file: Path):
    ledger = Ledger(file, keep_s=100.0)
    end(ledger, "a", webhook="https://example.com/", store=False)
    with ledger.transaction():
        assert ledger.sweep(NOW + 1e6) == 0
        (due,) = ledger.outbox.take(9, NOW + 1e6)
        assert (due.id, due.ending) == ("a", ending())
        ledger.outbox.settle(due.seq)
        assert ledger.sweep(NOW + 1e6) == 1
    ledger.close()


@pytest.mark.parametrize(("fetched", "late"), [(True, FETCHED_S + 1), (False, UNSTORED_S + 1)])
def test_what_must_not_be_stored_is_erased_soon_after_its_client_has_it(
    ledger: Ledger, fetched: bool, late: float
):
    end(ledger, "a", store=False)
    end(ledger, "b")
    with ledger.transaction():
        if fetched:
            ledger.fetched("a", NOW)
        ledger.sweep(NOW + late - 2)
        assert ledger.result("a", TENANT, APP).ending == ending()
        ledger.sweep(NOW + late)
    assert ledger.result("a", TENANT, APP) == "erased"
    assert status(ledger, "a").state == "COMPLETED"
    assert ledger.result("b", TENANT, APP).ending == ending()


def test_room_is_given_back_to_the_file_system(file: Path):
    ledger = Ledger(file, keep_s=0.0)
    submit(ledger, *map(str, range(100)), body=b'"%s"' % (b"x" * 100_000))
    for mine in claim(ledger, most=100):
        with ledger.transaction():
            ledger.complete(mine, ending(), NOW)
    for _ in range(4):
        with ledger.transaction():
            ledger.sweep(NOW + 1)
    ledger.close()
    assert 1 << 20 < file.stat().st_size < 2 << 20, "a little is kept: more requests will come"


# ---- the file ----


def test_the_file_is_its_owners_alone(ledger: Ledger, file: Path):
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_everything_is_there_after_the_process_died(file: Path):
    ledger = Ledger(file)
    submit(ledger, "a", "b")
    claim(ledger)
    again = Ledger(file)  # the first one was never closed, as after kill -9
    assert (status(again, "a").state, status(again, "b").state) == ("IN_PROGRESS", "IN_QUEUE")
    again.close()
    ledger.close()


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger):
    with pytest.raises(sqlite3.IntegrityError), ledger.transaction():
        submit_inside(ledger, order("a"), order("a", body=b"{}"))
    assert ledger.status("a", TENANT, APP) is None


def test_a_damaged_file_is_named_and_refused(file: Path):
    ledger = Ledger(file)
    submit(ledger, *map(str, range(200)))
    ledger.close()
    data = bytearray(file.read_bytes())
    data[4096:40960] = b"\xa5" * (40960 - 4096)
    file.write_bytes(data)
    with pytest.raises(Unusable, match=r"(?s)queue\.sqlite3 is damaged .* Move it away"):
        Ledger(file)


def test_a_file_that_is_no_database_is_refused(file: Path):
    file.write_text("this is my shopping list, and quite a long one at that: " + "eggs " * 1000)
    with pytest.raises(Unusable, match="is damaged"):
        Ledger(file)


def test_a_file_of_another_version_is_refused(file: Path):
    Ledger(file).close()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Unusable, match="has version 99"):
        Ledger(file)


def test_a_file_of_an_older_version_is_brought_up_to_date_and_keeps_what_is_in_it(file: Path):
    ledger = Ledger(file)
    submit(ledger, "a", "b")
    ledger.close()
    with sqlite3.connect(file) as db:
        db.execute("ALTER TABLE requests DROP COLUMN acl")
        db.execute("PRAGMA user_version = 1")
    db.close()
    ledger = Ledger(file)
    submit(ledger, "c")
    claims = ledger.claim("me", 3, 0.0, 9.0)
    ledger.close()
    assert [(claim.order.id, claim.order.acl) for claim in claims] == [("a", ""), ("b", ""), ("c", "")]


def test_a_locked_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("realtime.queue.file.BUSY_S", 0.05)
    Ledger(file).close()
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unusable, match="locked by another program"):
        Ledger(file)
    other.close()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Unusable, match="cannot be opened"):
        Ledger(tmp_path / "file" / "queue.sqlite3")


def test_a_reader_sees_what_is_committed_and_can_change_nothing(ledger: Ledger, file: Path):
    submit(ledger, "a")
    reader = Ledger(file, read_only=True)
    assert status(reader, "a").state == "IN_QUEUE"
    with pytest.raises(sqlite3.OperationalError, match="readonly"), reader.transaction():
        reader.cancel("a", TENANT, APP, NOW)
    reader.close()


# ---- any order of anything ----


@dataclass
class Expected:
    """One request, as it should be."""

    low: bool
    retry: bool
    start_by: float | None
    state: str = "IN_QUEUE"
    seq: int = 0
    due: float = 0.0
    owner: str = ""
    cancelled: bool = False
    lost: int = 0
    claims: list[Claim] = field(default_factory=list)
    ending: object = None


class Machine(RuleBasedStateMachine):
    """Two processes that come, go and die at one file, against a dictionary."""

    ids = Bundle("ids")
    owners = st.sampled_from(["p", "q"])

    @initialize()
    def open(self) -> None:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # 2000 flushes of a disk take a minute
        self.folder = tempfile.TemporaryDirectory(dir=memory)
        self.file = Path(self.folder.name) / "queue.sqlite3"
        self.ledger = Ledger(self.file)
        self.now, self.number = NOW, 0
        self.all: dict[str, Expected] = {}

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    def waiting(self) -> list[str]:
        found = [id for id, one in self.all.items() if one.state == "IN_QUEUE"]
        return sorted(found, key=lambda id: (self.all[id].low, self.all[id].seq))

    def ended(self, id: str, ending: object) -> None:
        one = self.all[id]
        assert one.state != "COMPLETED"
        one.state, one.ending = "COMPLETED", ending

    def lose(self, id: str, due: float) -> None:
        one = self.all[id]
        if one.cancelled:
            self.ended(id, CANCELLED)
        elif not one.retry or one.lost + 1 >= MAX_TRIES:
            self.ended(id, LOST)
        else:
            one.state, one.due, one.owner, one.lost = "IN_QUEUE", due, "", one.lost + 1

    @rule(
        target=ids,
        low=st.booleans(),
        retry=st.booleans(),
        start_s=st.none() | st.floats(1, 100),
        undone=st.booleans(),
    )
    def submit(self, low: bool, retry: bool, start_s: float | None, undone: bool) -> str:
        self.number += 1
        id = f"r{self.number}"
        start_by = None if start_s is None else self.now + start_s
        wanted = order(id, low=low, retry=retry, start_by=start_by)
        before = len([other for other in self.waiting() if self.all[other].low <= low])
        try:
            with self.ledger.transaction():
                assert self.ledger.submit(wanted, "p", self.now) == Receipt(id, before)
                if undone:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert self.ledger.status(id, TENANT, APP) is None
            return "nothing"
        self.all[id] = Expected(low, retry, start_by, seq=self.number)
        return id

    @rule(owner=owners, most=st.integers(1, 3))
    def claim(self, owner: str, most: int) -> None:
        expected = [id for id in self.waiting() if self.all[id].due <= self.now][:most]
        with self.ledger.transaction():
            claims = self.ledger.claim(owner, most, self.now, until=1e9)
        assert [claim.order.id for claim in claims] == expected
        for claim in claims:
            one = self.all[claim.order.id]
            assert claim.lost == one.lost
            one.state, one.owner = "IN_PROGRESS", owner
            one.claims.append(claim)

    @rule(id=ids, which=st.integers(0, 3), again=st.booleans())
    def finish(self, id: str, which: int, again: bool) -> None:
        """With the newest lease, or with one that was lost."""
        one = self.all.get(id)
        if one is None or not one.claims:
            return
        claim = one.claims[-1 - which % len(one.claims)]
        holds = one.state == "IN_PROGRESS" and claim is one.claims[-1]
        said = ending(f'"{id} by {claim.lease}"')
        with self.ledger.transaction():
            if again:
                assert self.ledger.retry(claim, LOST, self.now, self.now + 5) is holds
            else:
                assert self.ledger.complete(claim, said, self.now) is holds
        if holds:
            self.lose(id, self.now + 5) if again else self.ended(id, said)

    @rule(id=ids)
    def cancel(self, id: str) -> None:
        one = self.all.get(id)
        with self.ledger.transaction():
            answer = self.ledger.cancel(id, TENANT, APP, self.now)
        if one is None:
            assert answer == "unknown"
        elif one.state == "COMPLETED":
            assert answer == ("accepted" if one.cancelled else "too_late")
        else:
            assert answer == "accepted"
            one.cancelled = True
            if one.state == "IN_QUEUE":
                self.ended(id, CANCELLED)

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        late = {id for id in self.waiting() if (self.all[id].start_by or 1e99) <= self.now}
        with self.ledger.transaction():
            assert set(self.ledger.expire(self.now)) == late
        for id in late:
            self.ended(id, EXPIRED)

    @rule(owner=owners, killed=st.booleans())
    def owner_ends(self, owner: str, killed: bool) -> None:
        running = [id for id, one in self.all.items() if one.state == "IN_PROGRESS" and one.owner == owner]
        with self.ledger.transaction():
            if killed:
                count = self.ledger.recover("r", lambda name: name == owner, self.now, 0.0, 1e9)
            else:
                count = self.ledger.release(owner)
        assert count == len(running)
        for id in running:
            if killed:
                self.lose(id, 0.0)
            else:
                self.all[id].state = "IN_QUEUE"
                self.all[id].claims.append(self.all[id].claims[-1])  # that lease is lost, too

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.file)

    @invariant()
    def everything_is_as_expected(self) -> None:
        if not hasattr(self, "ledger"):
            return
        line = self.waiting()
        for id, one in self.all.items():
            found = self.ledger.status(id, TENANT, APP)
            assert found is not None, "nothing that was accepted is lost"
            assert found.state == one.state
            if one.state == "IN_QUEUE":
                assert found.position == line.index(id)
            result = self.ledger.result(id, TENANT, APP)
            if one.state == "COMPLETED":
                assert not isinstance(result, str)
                assert result.ending == one.ending, "an end never changes"
            else:
                assert result == "unfinished"
        depth = self.ledger.depth()
        assert depth.waiting == len(line)
        (inputs,) = self.ledger._db.execute("SELECT count(*) FROM inputs").fetchone()
        assert inputs == len([one for one in self.all.values() if one.state != "COMPLETED"])


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestAnyOrder = pytest.mark.timeout(60)(Machine.TestCase)
