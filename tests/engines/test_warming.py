"""Building ahead, with a compiler that takes no time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import warming
from engines.backends import inductor
from engines.backends.program import Program, Shape
from engines.lcm import Lcm


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """Every shape it was given. What it makes can be kept and loaded again."""
    given: list[Shape] = []

    def compiled(program: Program, shape: Shape, mode: str) -> tuple[Any, bytes]:
        given.append(shape)
        return lambda *batch: program(*batch), b"code"

    def loaded(packed: bytes, program: Program, shape: Shape) -> Any:
        assert packed == b"code"
        return lambda *batch: program(*batch)

    monkeypatch.setattr(inductor, "compiled", compiled)
    monkeypatch.setattr(inductor, "loaded", loaded)
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)
    return given


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_bucket_of_every_size_is_built_once_and_found_later(
    folder: Callable[..., Path], tmp_path: Path, compiler: list[Shape], capsys: pytest.CaptureFixture[str]
) -> None:
    def ours() -> Lcm:
        return Lcm(str(folder()), device="cpu", max_batch=2, backend="inductor", builds=tmp_path / "builds")

    assert warming.run(ours(), [(64, 64), (64, 96)]) == 0
    assert [(shape.places, shape.height, shape.width) for shape in compiler] == [
        (1, 8, 8),
        (2, 8, 8),
        (1, 12, 8),
        (2, 12, 8),
    ]
    told = lines(capsys)
    assert [line["done"] for line in told if line.get("stage") == "build"] == [0, 1, 2, 3, 4]
    assert told[-1]["stats"]["built"] == 4

    assert warming.run(ours(), [(64, 64), (64, 96)]) == 0
    assert len(compiler) == 4
    assert lines(capsys)[-1]["stats"]["loaded"] == 4


def test_what_could_not_be_built_is_said(
    folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(inductor, "compiled", broken)
    ours = Lcm(str(folder()), device="cpu", max_batch=1, backend="inductor", builds=tmp_path / "builds")
    assert warming.run(ours, []) == 1
    assert list(lines(capsys)[-1]["reasons"].values()) == ["RuntimeError: no compiler"]
    with torch.inference_mode():
        assert (
            ours.denoiser.backend.program(Shape(1, 4, 8, 8, 77, 64, ("embedded",))) is ours.denoiser.program
        )


def test_a_size_the_model_does_not_draw_names_those_it_does(folder: Callable[..., Path]) -> None:
    ours = Lcm(str(folder()), device="cpu", max_batch=1, backend="eager")
    with pytest.raises(ValueError, match="32 to 96 pixels, in steps of 8"):
        warming.run(ours, [(512, 512)])


def test_an_unknown_back_end_names_those_there_are(folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="eager, inductor"):
        Lcm(str(folder()), device="cpu", max_batch=1, backend="onnx").load(lambda *_: None)
