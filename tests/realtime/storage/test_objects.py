"""The bytes: one suite over a folder, a bucket and obstore's memory; and the disk that is full."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from realtime import doctor
from realtime.errors import NoSpace, StorageDown
from realtime.server import CannotServe, check_storage
from realtime.service import Caller
from realtime.settings import Settings
from realtime.storage.objects import Objects
from tests.bucket import Bucket, bucket
from tests.storage import Desk

MiB = 1024 * 1024


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture(params=["folder", "bucket", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path, remote: Bucket) -> Iterator[Objects]:
    url = {"folder": "", "bucket": remote.url, "memory": "memory:///"}[request.param]
    made = Objects(url, tmp_path / "objects")
    yield made
    made.close()


async def read(objects: Objects, key: str, start: int = 0, stop: int = 1 << 40) -> bytes:
    return b"".join([block async for block in objects.read(key, start, stop)])


async def body(*sizes: int, end: BaseException | None = None) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes([number]) * size
    if end is not None:
        raise end


def files_in(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


async def test_what_is_written_is_read(objects: Objects):
    await objects.write("ab/abc/1", b"hello")
    assert await read(objects, "ab/abc/1") == b"hello"


async def test_a_long_body_is_written_as_it_comes(objects: Objects):
    await objects.write("ab/abc/1", body(*[MiB] * 12, 5))
    assert await read(objects, "ab/abc/1") == b"".join(bytes([n]) * MiB for n in range(12)) + b"\x0c" * 5
    assert await read(objects, "ab/abc/1", MiB - 1, MiB + 1) == b"\0\1"


async def test_nothing_at_all_can_be_written(objects: Objects):
    await objects.write("ab/abc/1", body())
    await objects.write("ab/abc/2", b"")
    assert await read(objects, "ab/abc/1", 0, 0) == b""


@pytest.mark.parametrize("sizes", [[], [10], [MiB] * 12], ids=["at once", "early", "late"])
async def test_a_body_that_fails_leaves_nothing(
    objects: Objects, sizes: list[int], tmp_path: Path, remote: Bucket
):
    with pytest.raises(ValueError, match="broken"):
        await objects.write("ab/abc/1", body(*sizes, end=ValueError("broken")))
    with pytest.raises(FileNotFoundError):
        await read(objects, "ab/abc/1")
    assert not files_in(tmp_path)
    assert not remote.uploads


async def test_a_write_that_is_cancelled_leaves_nothing(objects: Objects, tmp_path: Path, remote: Bucket):
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield bytes(MiB)
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(objects.write("ab/abc/1", endless()))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    with pytest.raises(FileNotFoundError):
        await read(objects, "ab/abc/1")
    assert not files_in(tmp_path)
    assert not remote.uploads


async def test_a_failed_write_leaves_what_was_there(objects: Objects):
    await objects.write("ab/abc/1", b"first")
    with pytest.raises(ValueError, match="broken"):
        await objects.write("ab/abc/1", body(MiB, MiB, end=ValueError("broken")))
    assert await read(objects, "ab/abc/1") == b"first"


async def test_what_is_deleted_is_gone_and_the_rest_is_not(objects: Objects):
    for key in ("ab/abc/1", "ab/abc/2", "ab/abcd/1", "ab/xyz/1"):
        await objects.write(key, b"x")
    await objects.delete(["ab/xyz/1", "ab/never/was"])
    await objects.delete_under("ab/abc")
    await objects.delete_under("ab/never")
    assert await read(objects, "ab/abcd/1") == b"x"
    for key in ("ab/abc/1", "ab/abc/2", "ab/xyz/1"):
        with pytest.raises(FileNotFoundError):
            await read(objects, key)


async def test_a_bucket_that_fails_or_is_away_is_said_and_tried_again(remote: Bucket, tmp_path: Path):
    objects = Objects(remote.url, tmp_path)
    remote.failing = True
    with pytest.raises(StorageDown):
        await objects.write("ab/abc/1", b"x")
    assert remote.asked == 3
    with pytest.raises(StorageDown):
        await read(objects, "ab/abc/1")
    remote.failing = False
    await objects.write("ab/abc/1", b"x")
    assert await read(objects, "ab/abc/1") == b"x"


async def test_storage_in_a_bucket_works_as_in_a_folder(remote: Bucket, tmp_path: Path):
    desk = Desk(tmp_path, storage_url=remote.url)
    url = await desk.upload(b"picture", x_fal_object_lifecycle='{"expiration_duration_seconds": 60}')
    assert list(remote.objects.values()) == [b"picture"]
    assert (await desk.ask("GET", url, key="", range="bytes=3-")).body == b"ture"
    assert not (tmp_path / "objects").exists()
    remote.failing = True
    answer = await desk.ask("GET", url, key="")
    assert (answer.status, answer.json["error_type"]) == (503, "downstream_service_unavailable")
    remote.failing = False
    desk.clock.now += 60
    assert await desk.storage.sweep() == 1
    assert not remote.objects
    desk.close()


@pytest.mark.parametrize("as_url", ["{}", "file://{}"])
async def test_files_can_be_kept_in_a_folder_elsewhere(tmp_path: Path, as_url: str):
    elsewhere = tmp_path / "elsewhere" / "files"
    desk = Desk(tmp_path / "state", storage_url=as_url.format(elsewhere))
    await desk.upload(b"picture")
    assert [file.read_bytes() for file in files_in(elsewhere)] == [b"picture"]
    desk.close()


@pytest.mark.parametrize("url", ["ftp://host/folder", "https://bucket.s3.amazonaws.com", "s3://", "az://"])
def test_what_is_no_bucket_is_said_before_anything_is_served(tmp_path: Path, url: str):
    settings = Settings(storage_url=url, state_dir=tmp_path)
    with pytest.raises(CannotServe, match="storage_url"):
        check_storage(settings)
    (found,) = doctor._storage(settings)
    assert (found.level, found.subject) == ("bad", "storage")


def test_the_doctor_asks_the_bucket(tmp_path: Path, remote: Bucket):
    settings = Settings(storage_url=remote.url, state_dir=tmp_path)
    assert [found.level for found in doctor._storage(settings)] == ["ok"]
    remote.failing = True
    assert [found.level for found in doctor._storage(settings)] == ["bad"]


# ---- a full disk ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root can mount a small disk")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


async def test_a_full_disk_is_said_leaves_nothing_and_recovers_by_itself(small_disk: Path):
    desk = Desk(small_disk)
    old = await desk.upload(b"o" * MiB)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 * MiB))
    for way in (b"x" * 3 * MiB, [b"x" * MiB] * 3):  # a length that is announced, and one that is not
        begun = await desk.ask("POST", "/storage/upload/initiate", json={})
        sent = await desk.ask("PUT", begun.json["upload_url"], way, key="")
        assert sent.status == 507
        assert sent.json["error_type"] == "insufficient_storage"
        assert desk.bytes_on_disk() == MiB
    assert (await desk.ask("GET", old, key="")).body == b"o" * MiB
    ballast.unlink()
    assert (await desk.ask("GET", await desk.upload(b"n" * MiB), key="")).body == b"n" * MiB
    desk.close()


async def test_a_disk_without_a_byte_left_breaks_nothing_that_is_there(small_disk: Path):
    desk = Desk(small_disk)
    old = await desk.upload(b"old", x_fal_object_lifecycle='{"expiration_duration_seconds": 60}')
    fill = (small_disk / "fill").open("wb", buffering=0)
    try:
        while fill.write(b"x" * 4096):
            pass
    except OSError:
        pass
    for _ in range(50):  # more than the catalogue's file has left inside
        begun = await desk.ask("POST", "/storage/upload/initiate", json={"file_name": "n" * 200})
        if begun.status != 200:
            break
    assert begun.status == 507
    assert (await desk.ask("GET", old, key="")).body == b"old"
    fill.truncate(0)
    fill.close()
    assert (await desk.ask("GET", await desk.upload(b"new"), key="")).body == b"new"
    desk.clock.now += 60
    assert await desk.storage.sweep() == 1
    desk.close()


async def test_some_disk_is_left_to_others(tmp_path: Path):
    desk = Desk(tmp_path, disk_reserve=1 << 62)
    for url in ("/storage/upload/initiate", "/storage/upload/initiate-multipart"):
        assert (await desk.ask("POST", url, json={})).status == 507
    with pytest.raises(NoSpace):
        await desk.storage.keep(b"x", "image/png", caller=Caller("me"))
    desk.close()
