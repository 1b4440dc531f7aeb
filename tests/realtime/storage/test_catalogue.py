"""The catalogue against a plain model of it, in any order of calls."""

import asyncio
import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.errors import BadFrame, NoSpace, NotFound, StorageDown, TooLarge
from realtime.storage.catalogue import Catalogue, File, Part
from realtime.storage.lifecycle import Acl, Rule


def file(number: int, owner: str = "me", **fields: object) -> File:
    given = {
        "name": "a",
        "content_type": "a/b",
        "ticket": "t",
        "multipart": True,
        "until": 100.0,
        "expires": 100.0,
    }
    return File(id=f"{number:032x}", owner=owner, **(given | fields))  # type: ignore[arg-type]


async def test_a_file_comes_back_as_it_was(tmp_path: Path):
    catalogue = Catalogue(tmp_path / "files.sqlite3")
    acl = Acl(default="forbid", rules=(Rule(user="you", decision="allow"),))
    made = file(1, name="ä b", acl=acl, lifetime_s=5.0)
    await catalogue.create(made)
    assert await catalogue.find(made.id) == made
    assert await catalogue.find("0" * 32) is None
    catalogue.close()


def test_only_the_owner_reads_the_file(tmp_path: Path):
    before = os.umask(0)
    try:
        catalogue = Catalogue(tmp_path / "files.sqlite3")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(made.stat().st_mode) for made in tmp_path.iterdir()} == {0o600}
    catalogue.close()


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(0, 3), st.sampled_from(["me", "you"])),
        st.tuples(st.just("put"), st.integers(0, 3), st.integers(1, 3), st.integers(0, 60)),
        st.tuples(st.just("finish"), st.integers(0, 3), st.sets(st.integers(1, 3))),
        st.tuples(st.just("remove"), st.integers(0, 3)),
    ),
    max_size=30,
)


@settings(max_examples=40)
@given(Steps)
def test_what_is_stored_is_what_was_put_whatever_the_order(steps: list[tuple]):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(follow(Path(folder), steps))


async def follow(folder: Path, steps: list[tuple]) -> None:
    catalogue = Catalogue(folder / "files.sqlite3")
    known: dict[int, dict[int, Part]] = {}
    owners: dict[int, str] = {}
    done: set[int] = set()
    for number, step in enumerate(steps):
        match step:
            case ("create", which, owner) if which not in known:
                await catalogue.create(file(which, owner))
                known[which], owners[which] = {}, owner
            case ("put", which, part, size):
                sent = Part(part, f"{number:032x}", size)
                try:
                    replaced = await catalogue.put(file(which).id, sent, max_file=100, max_stored=150)
                except NotFound:
                    assert which not in known
                except BadFrame:
                    assert which in done
                except TooLarge:
                    assert sum(p.size for p in {**known[which], part: sent}.values()) > 100
                except NoSpace:
                    mine = [w for w in known if owners[w] == owners[which] and w != which]
                    others = sum(p.size for w in mine for p in known[w].values())
                    assert others + sum(p.size for p in {**known[which], part: sent}.values()) > 150
                else:
                    before = known[which].get(part)
                    assert replaced == (before and before.etag)
                    known[which][part] = sent
            case ("finish", which, numbers):
                wanted = [(n, known.get(which, {})[n].etag) for n in numbers if n in known.get(which, {})]
                try:
                    left = await catalogue.finish(file(which).id, wanted, now=50.0)
                except NotFound:
                    assert which not in known
                    continue
                if which not in done:
                    kept = {n for n, _ in wanted}
                    assert set(left) == {p.etag for n, p in known[which].items() if n not in kept}
                    known[which] = {n: p for n, p in known[which].items() if n in kept}
                    done.add(which)
            case ("remove", which):
                await catalogue.remove(file(which).id)
                known.pop(which, None)
                done.discard(which)
    for which, parts in known.items():
        found = await catalogue.find(file(which).id)
        assert found is not None
        assert found.parts == tuple(parts[n] for n in sorted(parts))
        assert found.done == (which in done)
    for owner in ("me", "you"):
        mine = sum(p.size for w, parts in known.items() if owners[w] == owner for p in parts.values())
        assert await catalogue.stored(owner) == mine
    catalogue.close()


async def test_an_upload_cannot_be_finished_when_its_time_is_over(tmp_path: Path):
    catalogue = Catalogue(tmp_path / "files.sqlite3")
    await catalogue.create(file(1))
    with pytest.raises(NotFound):
        await catalogue.finish(file(1).id, None, now=100.0)
    assert await catalogue.due(100.0, 10) == [file(1).id]
    assert await catalogue.due(99.9, 10) == []
    catalogue.close()


async def test_a_full_catalogue_refuses_rolls_back_and_recovers(tmp_path: Path):
    catalogue = Catalogue(tmp_path / "files.sqlite3")
    pages = catalogue._db.execute("PRAGMA page_count").fetchone()[0]
    catalogue._db.execute(f"PRAGMA max_page_count = {pages + 2}")

    async def fill() -> None:
        for number in range(1000):
            await catalogue.create(file(number, name="n" * 200))

    with pytest.raises(NoSpace):
        await fill()
    count = catalogue._db.execute("SELECT count(*) FROM files").fetchone()[0]
    assert await catalogue.find(file(count - 1).id) is not None
    assert await catalogue.find(file(count).id) is None
    catalogue._db.execute("PRAGMA max_page_count = 100000")
    await catalogue.create(file(count))
    catalogue.close()


async def test_a_catalogue_that_is_locked_is_said(tmp_path: Path):
    catalogue, other = Catalogue(tmp_path / "files.sqlite3"), Catalogue(tmp_path / "files.sqlite3")
    catalogue._db.execute("PRAGMA busy_timeout = 10")
    other._db.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageDown):
        await catalogue.create(file(1))
    other._db.execute("ROLLBACK")
    await catalogue.create(file(1))
    catalogue.close()
    other.close()
