"""`realtime warm` from the outside."""

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from realtime import child, warm
from realtime.settings import Settings
from tests.realtime.test_cli import run

pytestmark = pytest.mark.proc


@pytest.mark.parametrize("size", ["512", "512x", "0x512", "512*512", "-8x8"])
def test_what_is_no_size_is_refused_before_anything_is_loaded(tmp_path: Path, size: str):
    answer = run("warm", "--sizes", f"512x512,{size}", state_dir=str(tmp_path))
    assert answer.returncode == 2
    assert f"{size} is no size" in answer.stderr
    assert not answer.stdout


def test_the_engine_that_warms_has_the_environment_of_one_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started: list[tuple[list[str], dict[str, str]]] = []

    class Engine:
        stdout, returncode = ('{"stats": {"built": 1, "loaded": 2}, "reasons": {}}',), 0

        def __init__(self, words: list[str], env: dict[str, str], **_: Any):
            started.append((words, env))

        def __enter__(self):
            return self

        def __exit__(self, *_: object): ...

    monkeypatch.setattr(warm.subprocess, "Popen", Engine)
    for device in ("cuda:1", "cpu"):
        settings = Settings(state_dir=tmp_path / "state", device=device, threads=3)
        assert warm.run(settings, ["64x64"], Console(quiet=True)) == 0
        assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700
        words, env = started[-1]
        assert words == [*child.command(settings), "--warm", "64x64"]
        assert env == child.environment(settings)
    assert started[0][1]["CUDA_VISIBLE_DEVICES"] == "1"
    assert started[1][1]["OMP_NUM_THREADS"] == "3"


def test_an_engine_that_warms_ends_with_who_started_it():
    words = [sys.executable, "-P", "-m", "engines", "--parent", "1", "--model", "/no such", "--warm"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.timeout(90)
def test_an_impossible_size_names_what_is_allowed(tmp_path: Path):
    answer = run("warm", "--sizes", "4096x4096", "--max-batch", "1", device="cpu", state_dir=str(tmp_path))
    assert answer.returncode == 2
    assert "in steps of 8" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.timeout(90)
def test_a_back_end_with_nothing_to_build_says_so(tmp_path: Path):
    answer = run("warm", "--backend", "eager", "--max-batch", "1", device="cpu", state_dir=str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert "builds nothing ahead" in answer.stdout
    assert "1 at once, 0 of 1" in answer.stdout
