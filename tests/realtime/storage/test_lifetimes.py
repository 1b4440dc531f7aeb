"""How long files live, and that nothing of them is left. The clock is a variable."""

import json
from pathlib import Path

import pytest

from realtime.errors import NotFound
from realtime.service import Caller
from tests.storage import Desk

DAY = 86_400.0


async def status(desk: Desk, url: str) -> int:
    return (await desk.ask("GET", url, key="")).status


@pytest.mark.parametrize("seconds", [60, 3600, 604_800, 0.5])
async def test_a_file_lives_exactly_as_long_as_asked(desk: Desk, seconds: float):
    wish = json.dumps({"expiration_duration_seconds": seconds})
    url = await desk.upload(x_fal_object_lifecycle=wish)
    desk.clock.now += seconds - 0.25
    assert await status(desk, url) == 200
    desk.clock.now += 0.25
    assert await status(desk, url) == 404  # whether or not the sweep has come by


@pytest.mark.parametrize("wish", ["{}", '{"expiration_duration_seconds": 0}'])
async def test_a_file_without_a_wish_lives_as_long_as_the_server_says(desk: Desk, wish: str):
    url = await desk.upload(x_fal_object_lifecycle=wish)
    desk.clock.now += 7 * DAY - 1
    assert await status(desk, url) == 200
    desk.clock.now += 1
    assert await status(desk, url) == 404


async def test_a_server_may_keep_files_for_ever(tmp_path: Path):
    desk = Desk(tmp_path, file_s=0)
    url = await desk.upload()
    desk.clock.now += 50 * 365 * DAY
    assert await desk.storage.sweep() == 0
    assert await status(desk, url) == 200
    desk.close()


async def test_the_life_of_a_file_begins_when_it_is_there(desk: Desk):
    wish = '{"expiration_duration_seconds": 60}'
    begun = await desk.ask("POST", "/storage/upload/initiate", json={}, x_fal_object_lifecycle=wish)
    desk.clock.now += 3000
    assert (await desk.ask("PUT", begun.json["upload_url"], b"x", key="")).status == 200
    desk.clock.now += 59
    assert await status(desk, begun.json["file_url"]) == 200


async def test_the_sweep_removes_what_is_over_and_nothing_else(desk: Desk):
    short = '{"expiration_duration_seconds": 60}'
    gone = [await desk.upload(b"s" * 100, x_fal_object_lifecycle=short) for _ in range(5)]
    stays = await desk.upload(b"l" * 7)
    desk.clock.now += 59
    assert await desk.storage.sweep() == 0
    desk.clock.now += 1
    assert await desk.storage.sweep() == 5
    assert await desk.storage.sweep() == 0
    assert [await status(desk, url) for url in gone] == [404] * 5
    assert (await desk.ask("GET", stays, key="")).body == b"l" * 7
    assert desk.bytes_on_disk() == 7


async def test_half_done_uploads_vanish_with_what_killed_servers_left(desk: Desk):
    begun = await desk.ask("POST", "/storage/upload/initiate-multipart", json={"file_name": "a.bin"})
    path, query = begun.json["upload_url"].split("?")
    for number in (1, 2):
        await desk.ask("PUT", f"{path}/{number}?{query}", b"x" * 1000, key="")
    (stored,) = {file.parent for file in (desk.settings.state_dir / "objects").rglob("*") if file.is_file()}
    (stored / "0123456789abcdef#1").write_bytes(b"half a part")  # as object_store names what it stages
    desk.clock.now += 3599
    assert await desk.storage.sweep() == 0
    desk.clock.now += 1
    assert await desk.storage.sweep() == 1
    assert desk.bytes_on_disk() == 0
    assert not stored.exists()
    assert (await desk.ask("PUT", f"{path}/3?{query}", b"x", key="")).status == 404


async def test_the_ticket_ends_with_the_time_to_upload_not_with_the_file(desk: Desk):
    begun = await desk.ask("POST", "/storage/upload/initiate", json={})
    await desk.ask("PUT", begun.json["upload_url"], b"mine", key="")
    desk.clock.now += 3600
    assert (await desk.ask("PUT", begun.json["upload_url"], b"other", key="")).status == 404
    assert (await desk.ask("GET", begun.json["file_url"], key="")).body == b"mine"


async def test_what_expires_while_its_last_part_arrives_is_refused_and_leaves_nothing(desk: Desk):
    begun = await desk.ask("POST", "/storage/upload/initiate", json={})

    async def late():
        yield b"x" * 1000
        desk.clock.now += 3600
        assert await desk.storage.sweep() == 1
        yield b"y" * 1000

    sent = await desk.ask("PUT", begun.json["upload_url"], late(), key="")
    assert sent.status == 404
    assert desk.bytes_on_disk() == 0
    assert await status(desk, begun.json["file_url"]) == 404


async def test_pictures_of_runs_expire_like_files(desk: Desk):
    path = await desk.storage.keep(b"jpeg", "image/jpeg", caller=Caller("me"), lifetime_s=60)
    assert await status(desk, path) == 200
    desk.clock.now += 60
    assert await status(desk, path) == 404
    with pytest.raises(NotFound):
        await desk.storage.content(path, Caller("me"), 100)


async def test_many_expired_files_go_in_batches(tmp_path: Path):
    desk = Desk(tmp_path)
    for _ in range(210):
        await desk.storage.keep(b"x", "image/png", caller=Caller("me"), lifetime_s=1)
    desk.clock.now += 1
    assert [await desk.storage.sweep() for _ in range(3)] == [200, 10, 0]
    assert desk.bytes_on_disk() == 0
    desk.close()
