"""What an engine process is told: every setting of a back end reaches the pipeline."""

import sys
from pathlib import Path
from typing import Any

import pytest

from engines import __main__ as engine
from engines import lcm
from realtime.child import command
from realtime.settings import Settings
from tests.realtime.test_cli import run

CHOSEN: dict[str, Any] = {
    "backend": "inductor",
    "compile_mode": "max-autotune-no-cudagraphs",
    "graphs": "off",
    "quick_start": True,
    "search": True,
    "deterministic": True,
    "threads": 3,
    "max_batch": 5,
    "vae": "tiny",
    "lora": "a/b",
    "cache_bytes": 77,
    "dtype": "bfloat16",
    "model": "some/model",
    "device": "cuda:1",
}


def pipeline(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> dict[str, Any]:
    """What the pipeline of an engine with these settings is made with."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(lcm, "Lcm", lambda **given: made.append(given))
    monkeypatch.setattr(sys, "argv", ["engines", *command(settings, fd=3)[4:]])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/kept")  # so that it is put back
    engine._pipeline(engine._options())
    return made[0]


def test_settings_reach_the_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given = pipeline(monkeypatch, Settings(state_dir=tmp_path, **CHOSEN))
    renamed = {"mode": "compile_mode", "quick": "quick_start"}
    other = {"graphs": False, "device": "cuda", "builds": tmp_path / "builds"}
    for name, value in given.items():
        assert value == other.get(name, CHOSEN.get(renamed.get(name, name))), name


def test_what_is_not_set_is_left_to_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given = pipeline(monkeypatch, Settings(state_dir=tmp_path))
    for name, value in {
        "backend": "auto",
        "mode": "default",
        "graphs": None,
        "quick": False,
        "search": False,
        "deterministic": False,
    }.items():
        assert given[name] == value


def test_inductors_own_cache_is_by_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(lcm, "Lcm", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["engines", "--builds", str(tmp_path / "builds")])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    engine._pipeline(engine._options())
    folder = Path(engine.os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder.parent == tmp_path / "builds"
    assert folder.name == f"inductor-{engine_processor()}"


def engine_processor() -> str:
    from engines.backends.store import processor

    return processor()


@pytest.mark.proc
@pytest.mark.parametrize("word", ["serve", "warm"])
def test_an_unknown_back_end_names_those_there_are(tmp_path: Path, word: str):
    answer = run(word, "--backend", "onnx", state_dir=str(tmp_path))
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    for name in ("auto", "eager", "inductor", "tensorrt"):
        assert name in answer.stderr
