"""What of the tests' own outfit may be missing, and what `make` makes of it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser import install

MAKEFILE = Path(__file__).parent.parent.parent / "Makefile"

pytestmark = pytest.mark.proc


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with two lock files, and a PATH that has nothing but what a test puts there."""
    for name in ("browser", "contract"):
        lock = tmp_path / "tests" / name / "package-lock.json"
        lock.parent.mkdir(parents=True)
        lock.write_text("{}")
    monkeypatch.setattr(install, "TESTS", tmp_path / "tests")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_without_npm_it_says_so_and_is_not_done(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert install.packages() == install.AGAIN
    assert "*** NO NODE" in capsys.readouterr().err


def test_packages_that_cannot_be_had_are_a_failure_that_names_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    script(folder / "bin" / "npm", 'case "$PWD" in */contract) exit 1;; esac')
    assert install.packages() == 1
    said = capsys.readouterr().err
    assert "`npm ci` failed in tests/contract," in said
    assert "tests/browser" not in said


def test_with_all_packages_it_is_done(folder: Path):
    script(folder / "bin" / "npm", "exit 0")
    assert install.packages() == 0


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
class TestMake:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """As much of a checkout as the rule looks at; its installer exits as the file `status` says."""
        shutil.copy(MAKEFILE, tmp_path)
        script(tmp_path / ".venv" / "bin" / "pip", "exit 0")
        script(tmp_path / ".venv" / "bin" / "python", "echo look >> looks; exit $(cat status)")
        (tmp_path / "tests" / "contract").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "tests/contract/package-lock.json"):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (1, 1))
        (tmp_path / ".venv" / ".engine").touch()
        os.utime(tmp_path / ".venv" / ".engine", (2, 2))
        return tmp_path

    def make(self, tree: Path, status: int) -> int:
        (tree / "status").write_text(str(status))
        return subprocess.run(["make", ".venv/.test"], cwd=tree, capture_output=True, timeout=30).returncode

    def looks(self, tree: Path) -> int:
        return (tree / "looks").read_text().count("look")

    def test_a_failure_fails_and_is_tried_again(self, tree: Path):
        assert self.make(tree, 1) != 0
        assert self.make(tree, 0) == 0
        assert self.looks(tree) == 2

    def test_what_is_missing_is_looked_for_each_time(self, tree: Path):
        assert self.make(tree, install.AGAIN) == 0
        assert self.make(tree, install.AGAIN) == 0
        assert self.looks(tree) == 2

    def test_what_is_done_is_done_until_a_lock_file_changes(self, tree: Path):
        assert self.make(tree, 0) == 0
        assert self.make(tree, 0) == 0
        assert self.looks(tree) == 1
        os.utime(tree / "tests" / "contract" / "package-lock.json", (2**32, 2**32))
        assert self.make(tree, 0) == 0
        assert self.looks(tree) == 2
