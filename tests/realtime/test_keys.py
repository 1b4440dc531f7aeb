"""API keys made by `realtime key`: what is kept of them, and that a running server follows."""

import asyncio
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from realtime.errors import Unauthorized
from realtime.keys import FILE, KeyFile, Keys
from realtime.server import CannotServe, listen
from realtime.settings import Settings
from tests.servers import Server, serve


def header(key: str) -> str:
    return f"Key {key}"


# ---- the file ----


def test_a_made_key_opens_and_its_secret_is_nowhere_kept(tmp_path: Path):
    made = KeyFile(tmp_path)
    key = made.create("me")
    key_id, _, secret = key.partition(":")
    assert Keys([], made).check(header(key)) == key_id
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()
    made.close()


def test_only_the_owner_reads_the_file(tmp_path: Path):
    before = os.umask(0)
    try:
        KeyFile(tmp_path / "state").create()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state" / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_keys_are_never_alike(tmp_path: Path):
    made = KeyFile(tmp_path)
    keys = {made.create() for _ in range(50)}
    assert len({key.partition(":")[0] for key in keys}) == len({key.partition(":")[2] for key in keys}) == 50
    assert all(len(key.partition(":")[2]) >= 43 for key in keys)  # 256 bits


@pytest.mark.parametrize(
    "wrong", ["", "x", "{id}:", "{id}:wrong", ":{secret}", "{secret}:{id}", "{id}:{secret}x"]
)
def test_nothing_else_opens(tmp_path: Path, wrong: str):
    made = KeyFile(tmp_path)
    key_id, _, secret = made.create().partition(":")
    keys = Keys([], made)
    made.close()
    with pytest.raises(Unauthorized):
        keys.check(header(wrong.format(id=key_id, secret=secret)))


def test_made_and_given_keys_are_one_ring(tmp_path: Path):
    made = KeyFile(tmp_path)
    key = made.create()
    keys = Keys(["given:secret"], made)
    assert keys.check(header("given:secret")) == "given"
    assert keys.check(header(key)) in keys
    assert len(keys) == 2
    made.close()


def test_without_any_key_the_server_is_open_and_no_file_is_made(tmp_path: Path):
    keys = Keys([], KeyFile(tmp_path))
    assert not keys.required
    assert keys.check(None) == ""
    assert list(tmp_path.iterdir()) == []


def test_revoking_the_last_key_does_not_open_the_server(tmp_path: Path):
    made = KeyFile(tmp_path)
    key = made.create()
    assert made.revoke(key.partition(":")[0])
    keys = Keys([], made)
    assert keys.required
    assert len(keys) == 0
    with pytest.raises(Unauthorized):
        keys.check(header(key))
    made.close()


def test_a_key_is_revoked_once(tmp_path: Path):
    made = KeyFile(tmp_path)
    assert not made.revoke("rk_none")
    key_id = made.create().partition(":")[0]
    assert made.revoke(key_id)
    assert not made.revoke(key_id)
    assert [key.revoked is not None for key in made.all()] == [True]


def test_only_changes_are_news(tmp_path: Path):
    ours, theirs = KeyFile(tmp_path), KeyFile(tmp_path)
    assert ours.news() is None
    theirs.create("one")
    assert [key.name for key in ours.news() or []] == ["one"]
    assert ours.news() is None
    theirs.create("two", frames_s=2.5, sockets=3)
    assert [dict(key.limits) for key in ours.news() or []] == [{}, {"frames_s": 2.5, "sockets": 3}]
    theirs.revoke(theirs.all()[0].id)
    assert [key.revoked is None for key in ours.news() or []] == [False, True]
    assert ours.news() is None
    ours.close()


async def follow_once(keys: Keys) -> None:
    """Until the next change of the file is known."""
    changed = asyncio.Event()
    following = asyncio.create_task(keys.run(changed.set))
    try:
        await asyncio.wait_for(changed.wait(), 5)
    finally:
        following.cancel()


async def test_emptying_the_file_of_a_running_server_does_not_open_it(tmp_path: Path):
    made = KeyFile(tmp_path)
    key = made.create()
    keys = Keys([], made)
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("DROP TABLE keys")
    await follow_once(keys)
    assert keys.required
    with pytest.raises(Unauthorized):
        keys.check(header(key))
    made.close()


async def test_a_file_that_is_broken_for_a_while_takes_no_key_away(tmp_path: Path):
    made = KeyFile(tmp_path)
    key = made.create()
    keys = Keys([], made)
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("ALTER TABLE keys RENAME COLUMN digest TO other")
        following = asyncio.create_task(keys.run(lambda: None))
        await asyncio.sleep(1.2)  # two looks at it
        assert not following.done()
        assert keys.check(header(key))
        other.execute("ALTER TABLE keys RENAME COLUMN other TO digest")
        following.cancel()
    another = made.create()
    await follow_once(keys)
    assert keys.check(header(another))
    made.close()


# ---- the command and the server ----


def command(state: Path, *words: str, fails: bool = False) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RT_")}
    environment |= {"RT_STATE_DIR": str(state), "COLUMNS": "200"}
    made = subprocess.run(
        [sys.executable, "-m", "realtime.cli", "key", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (made.returncode != 0) == fails, made.stderr
    return made.stderr if fails else made.stdout


@pytest.mark.proc
def test_the_command_makes_lists_and_revokes(tmp_path: Path):
    key = command(tmp_path, "create", "--name", "the shop", "--frames", "2.5", "--sockets", "0").strip()
    assert re.fullmatch(r"rk_[0-9a-f]{12}:[A-Za-z0-9_-]{43}", key)
    key_id, _, secret = key.partition(":")
    listed = command(tmp_path, "list")
    assert key_id in listed
    assert "the shop" in listed
    assert "frames_s 2.5" in listed
    assert secret not in listed
    assert "no key rk_other" in command(tmp_path, "revoke", "rk_other", fails=True)
    command(tmp_path, "revoke", key_id)
    assert re.search(rf"{key_id}.*\d\d:\d\d.*\d\d:\d\d", command(tmp_path, "list"))


def within_a_second(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.02)
    return true()


def may(server: Server, key: str) -> bool:
    status, _, _ = server.ask("POST", "/tokens/", {"allowed_apps": ["lcm"]}, {"authorization": header(key)})
    assert status in (200, 401)
    return status == 200


@pytest.mark.net
@pytest.mark.proc
def test_a_running_server_notices_made_and_revoked_keys_within_a_second():
    with serve() as server:
        made = KeyFile(server.state_dir)
        assert may(server, "any:thing")  # it is open
        key = made.create()
        assert within_a_second(lambda: not may(server, "any:thing"))
        assert may(server, key)
        other = made.create()
        assert within_a_second(lambda: may(server, other))
        assert made.revoke(key.partition(":")[0])
        assert within_a_second(lambda: not may(server, key))
        assert may(server, other)
        assert made.revoke(other.partition(":")[0])
        assert within_a_second(lambda: not may(server, other))
        assert not may(server, "any:thing")


def until_closed(socket) -> list[str]:
    heard = []
    try:
        while True:
            heard.append(socket.recv(timeout=5))
    except ConnectionClosed:
        return heard


@pytest.mark.net
@pytest.mark.proc
def test_a_revoked_keys_sockets_are_told_and_closed_and_others_live_on():
    with serve() as server:
        made = KeyFile(server.state_dir)
        gone, stays = made.create(), made.create()
        assert within_a_second(lambda: not may(server, "any:thing") and may(server, stays))
        url = server.ws + "/fal-ai/lcm/realtime"
        with (
            connect(url, additional_headers={"authorization": header(gone)}) as first,
            connect(url, additional_headers={"authorization": header(stays)}) as second,
        ):
            for socket in (first, second):
                socket.send(json.dumps({"prompt": "x"}))
                assert "images" in json.loads(socket.recv(timeout=10))
            started = time.monotonic()
            made.revoke(gone.partition(":")[0])
            # The very frame that makes fal's clients drop their token silently.
            assert [json.loads(text) for text in until_closed(first)] == [
                {"status": "error", "error": "Unauthorized"}
            ]
            assert time.monotonic() - started < 1.5
            assert first.close_code == 1000
            second.send(json.dumps({"prompt": "x"}))
            assert "images" in json.loads(second.recv(timeout=10))


@pytest.mark.net
@pytest.mark.proc
def test_sockets_from_when_the_server_was_open_are_closed_by_the_first_key():
    with serve() as server, connect(server.ws + "/fal-ai/lcm/realtime") as socket:
        socket.send(json.dumps({"prompt": "x"}))
        assert "images" in json.loads(socket.recv(timeout=10))
        KeyFile(server.state_dir).create()
        assert [json.loads(text)["error"] for text in until_closed(socket)] == ["Unauthorized"]


@pytest.mark.proc
def test_made_keys_are_enough_to_serve_other_addresses_and_a_broken_file_is_said(tmp_path: Path):
    settings = Settings(host="0.0.0.0", port=0, state_dir=tmp_path)
    with pytest.raises(CannotServe, match="realtime key create"):
        listen(settings)
    KeyFile(tmp_path).create()
    listen(settings).close()
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(CannotServe, match="no API keys that can be read"):
        listen(settings)
