"""Private folders."""

import os
import stat
from pathlib import Path

import pytest

from realtime.folder import make_private
from realtime.storage.objects import Objects


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_missing_parents_are_private_too_and_those_that_are_there_stay(tmp_path: Path):
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    before = os.umask(0)
    try:
        make_private(there / "state" / "objects")
        make_private(there / "state" / "objects")
    finally:
        os.umask(before)
    assert mode(there) == 0o755
    assert mode(there / "state") == mode(there / "state" / "objects") == 0o700


def test_a_folder_in_a_file_is_an_os_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(OSError, match="file"):
            make_private(folder)


def test_the_state_directory_is_private_whoever_makes_it_first(tmp_path: Path):
    Objects("", tmp_path / "state" / "objects").close()
    assert mode(tmp_path / "state") == 0o700
