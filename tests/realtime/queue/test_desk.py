"""Many writers, one flush; readers that wait for nobody; and what a sick disk looks like from above."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from realtime.errors import Busy, NoSpace, TooMuch
from realtime.queue import desk as module
from realtime.queue.desk import Desk
from realtime.queue.file import File
from realtime.queue.ledger import Ledger
from realtime.queue.records import Note, Receipt
from tests.realtime.queue.orders import APP, TENANT, ending, order

NOW = 1_000_000.0


async def submit(desk: Desk, id: str) -> Receipt:
    receipt = await desk.write(lambda ledger: ledger.submit(order(id), "me", NOW))
    assert isinstance(receipt, Receipt)
    return receipt


async def test_writes_that_come_together_are_flushed_together(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    commits = 0
    transaction = File.transaction

    def counted(self: File) -> object:
        nonlocal commits
        commits += 1
        return transaction(self)

    ledger = desk._writer._ledger
    monkeypatch.setattr(ledger, "transaction", lambda: counted(ledger.file))
    hold = threading.Event()
    first = asyncio.create_task(desk.write(lambda ledger: hold.wait(5)))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(submit(desk, str(number))) for number in range(200)]
    await asyncio.sleep(0.05)
    hold.set()
    assert await first
    receipts = await asyncio.gather(*others)
    assert [receipt.position for receipt in receipts] == list(range(200)), "in order of arrival"
    assert commits <= 3


async def test_what_a_write_returned_is_there_for_the_next_read(desk: Desk):
    for number in range(20):
        await submit(desk, str(number))
        assert (await desk.read(Ledger.depth)).waiting == number + 1


async def test_one_bad_write_does_not_take_the_others_with_it(desk: Desk):
    hold = threading.Event()
    first = asyncio.create_task(desk.write(lambda ledger: hold.wait(5)))
    await asyncio.sleep(0.02)
    good = [asyncio.create_task(submit(desk, id)) for id in "abc"]
    bad = asyncio.create_task(desk.write(lambda ledger: 1 / 0))
    more = [asyncio.create_task(submit(desk, id)) for id in "def"]
    await asyncio.sleep(0.02)
    hold.set()
    await first
    with pytest.raises(ZeroDivisionError):
        await bad
    assert [receipt.position for receipt in await asyncio.gather(*good, *more)] == list(range(6))


async def test_a_caller_that_leaves_takes_nobody_with_it(desk: Desk):
    leaves, stays = asyncio.create_task(submit(desk, "a")), asyncio.create_task(submit(desk, "b"))
    await asyncio.sleep(0)
    leaves.cancel()
    assert (await stays).position == 1
    assert (await desk.read(Ledger.depth)).waiting == 2, "what was sent is written"


async def test_what_nobody_waits_for_is_written_soon_and_in_order(desk: Desk):
    receipt = await submit(desk, "a")
    told = asyncio.Event()
    for text in ("one", "two"):
        desk.note(lambda ledger, text=text: ledger.note(1, [Note("INFO", text, "")]), then=told.set)
    (claim,) = await desk.write(lambda ledger: ledger.claim("me", 1, NOW, 1.0))
    await desk.write(lambda ledger: ledger.complete(claim, ending(), NOW))
    status = await desk.read(lambda ledger: ledger.status(receipt.id, TENANT, APP, 0))
    assert status is not None
    assert [note.message for note in status.notes] == ["one", "two"]
    desk.note(lambda ledger: ledger.fetched("a", NOW))
    await asyncio.wait_for(told.wait(), 2)


async def test_closing_writes_what_was_asked_for(tmp_path: Path):
    desk = await Desk.open(tmp_path / "q", max_bytes=1 << 30, keep_s=1.0)
    last = asyncio.create_task(submit(desk, "a"))
    await asyncio.sleep(0)
    desk.note(lambda ledger: ledger.submit(order("b"), "me", NOW))
    await desk.aclose()
    await last
    ledger = Ledger(tmp_path / "q")
    assert ledger.depth().waiting == 2
    ledger.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("queue-")]


async def test_reading_waits_for_no_writer(desk: Desk):
    await submit(desk, "a")
    hold = threading.Event()
    slow = asyncio.create_task(desk.write(lambda ledger: hold.wait(5)))
    await asyncio.sleep(0.02)
    assert (await asyncio.wait_for(desk.read(Ledger.depth), 1)).waiting == 1
    assert not slow.done()
    hold.set()
    await slow


async def test_a_file_another_program_holds_is_busy_and_later_it_is_not(desk: Desk, tmp_path: Path):
    desk._writer._ledger._db.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(tmp_path / "queue.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy, match="locked by another program"):
        await submit(desk, "a")
    other.execute("ROLLBACK")
    other.close()
    assert (await submit(desk, "a")).position == 0


async def test_a_full_disk_is_said_and_recovered_from(tmp_path: Path):
    desk = await Desk.open(tmp_path / "q", max_bytes=1 << 20, keep_s=3600.0)
    await submit(desk, "a")
    (claim,) = await desk.write(lambda ledger: ledger.claim("me", 1, NOW, 1.0))
    with pytest.raises(NoSpace, match="what it has accepted is kept"):
        await desk.write(lambda ledger: ledger.complete(claim, ending("x" * (2 << 20)), NOW))
    assert await desk.write(lambda ledger: ledger.complete(claim, ending(), NOW))
    await desk.aclose()


async def test_more_writes_than_a_thread_can_do_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_PENDING", 3)
    hold = threading.Event()
    first = asyncio.create_task(desk.write(lambda ledger: hold.wait(5)))
    await asyncio.sleep(0.02)
    waiting = [asyncio.create_task(submit(desk, str(number))) for number in range(4)]
    done, _ = await asyncio.wait(waiting, timeout=0.1)
    assert [type(task.exception()) for task in done] == [TooMuch]
    hold.set()
    await first
    await asyncio.gather(*[task for task in waiting if task not in done])


async def test_the_event_loop_does_not_wait_for_the_disk(desk: Desk):
    began = time.monotonic()
    write = asyncio.create_task(desk.write(lambda ledger: time.sleep(0.3)))
    await asyncio.sleep(0.01)
    assert time.monotonic() - began < 0.25
    await write
