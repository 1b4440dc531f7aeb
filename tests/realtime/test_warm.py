"""`realtime warm` from the outside."""

from pathlib import Path

import pytest

from tests.realtime.test_cli import run

pytestmark = pytest.mark.proc


@pytest.mark.parametrize("size", ["512", "512x", "0x512", "512*512", "-8x8"])
def test_what_is_no_size_is_refused_before_anything_is_loaded(tmp_path: Path, size: str):
    answer = run("warm", "--sizes", f"512x512,{size}", state_dir=str(tmp_path))
    assert answer.returncode == 2
    assert f"{size} is no size" in answer.stderr
    assert not answer.stdout


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
