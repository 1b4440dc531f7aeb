"""Building ahead, with a compiler that takes no time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines import warming
from engines.backends import inductor
from engines.backends.builds import Customer
from engines.backends.program import Program, Shape
from engines.lcm import Lcm
from engines.messages import Job


class Builds:
    """Builds that take no time. `broken`: why none comes to anything."""

    given: list[Shape]
    broken = ""

    def __init__(self, program: Program, mode: str, customer: Customer, at_once: int) -> None:
        self.customer = customer
        self._ordered: list[Shape] = []
        assert at_once >= 1

    def order(self, shape: Shape) -> None:
        if shape not in self._ordered:
            self._ordered.append(shape)
            if not self.customer.find(shape):
                Builds.given.append(shape)
                if Builds.broken:
                    self.customer.fail(shape, Builds.broken)
                else:
                    self.customer.adopt(shape, b"code")
                    self.customer.keep(shape, b"code")

    def left(self) -> int:
        return 0

    def close(self) -> None: ...


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """Every shape that was built."""

    def loaded(packed: bytes, program: Program, shape: Shape) -> Any:
        assert packed == b"code"
        return lambda *batch: program(*batch)

    Builds.given, Builds.broken = [], ""
    monkeypatch.setattr(inductor, "Builds", Builds)
    monkeypatch.setattr(inductor, "loaded", loaded)
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)
    return Builds.given


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
    assert [(line["done"], line["total"]) for line in told if line.get("stage") == "build"] == [(4, 4)]
    assert told[-1]["stats"]["built"] == 4

    assert warming.run(ours(), [(64, 64), (64, 96)]) == 0
    assert len(compiler) == 4
    assert lines(capsys)[-1]["stats"]["loaded"] == 4


def test_sizes_that_nobody_builds_beside_traffic_are_taken_at_the_start(
    folder: Callable[..., Path], tmp_path: Path, compiler: list[Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ours(deterministic: bool) -> Lcm:
        return Lcm(
            str(folder()),
            device="cpu",
            max_batch=2,
            deterministic=deterministic,
            backend="inductor",
            builds=tmp_path / "builds",
        )

    assert warming.run(ours(deterministic=False), [(64, 64), (64, 96)]) == 0
    server, told = ours(deterministic=True), list[tuple[str, float, float, str]]()
    server.load(lambda *progress: told.append(progress))
    backend = server.denoiser.backend
    assert backend.stats()["loaded"] == 2, "of the one bucket there is"
    monkeypatch.setattr(inductor, "loaded", None)
    for width, height in ((64, 64), (64, 96)):
        rows = server.rows(Job("", 0, width, height, steps=1), None)
        for _ in range(20):
            rows[0].position = 0
            server.step(rows, 2)
        shape = server.denoiser._assembled([replace(rows[0], position=0)], 2)[0]
        assert backend.program(shape) is not server.denoiser.program
    assert told[-1][:3] == ("warm", 0, 1)
    assert "8x12 latents" in told[-1][3]

    monkeypatch.undo()
    monkeypatch.setattr("engines.device.room", lambda _: 0.1)
    crowded = ours(deterministic=True)
    loads: list[Shape] = []
    monkeypatch.setattr(inductor, "slower", lambda *_: 1.0)
    monkeypatch.setattr(inductor, "loaded", lambda _, program, shape: loads.append(shape) or program)
    crowded.load(lambda *_: None)
    assert [(shape.height, shape.width) for shape in loads] == [(8, 8)], "its own size all the same"


def test_what_could_not_be_built_is_said(
    folder: Callable[..., Path], tmp_path: Path, compiler: list[Shape], capsys: pytest.CaptureFixture[str]
) -> None:
    Builds.broken = "RuntimeError: no compiler"
    ours = Lcm(str(folder()), device="cpu", max_batch=1, backend="inductor", builds=tmp_path / "builds")
    assert warming.run(ours, []) == 1
    assert list(lines(capsys)[-1]["reasons"].values()) == ["RuntimeError: no compiler"]
    (shape,) = compiler
    assert ours.denoiser.backend.program(shape) is ours.denoiser.program


def test_how_far_it_is_comes_from_what_is_left(
    folder: Callable[..., Path],
    tmp_path: Path,
    compiler: list[Shape],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, waited = [2, 2, 1, 1, 0, 0], []  # looked at twice at a time, for `stats` is asked twice
    monkeypatch.setattr(Builds, "left", lambda self: left.pop(0) if left else 0)
    monkeypatch.setattr(warming.time, "sleep", waited.append)
    ours = Lcm(str(folder()), device="cpu", max_batch=2, backend="inductor", builds=tmp_path / "builds")
    assert warming.run(ours, []) == 0
    done = [line["done"] for line in lines(capsys) if line.get("stage") == "build"]
    assert done[-1] == 2
    assert done == sorted(done)
    assert len(waited) == len(done) - 1 > 0


def test_a_size_the_model_does_not_draw_names_those_it_does(folder: Callable[..., Path]) -> None:
    ours = Lcm(str(folder()), device="cpu", max_batch=1, backend="eager")
    with pytest.raises(ValueError, match="32 to 96 pixels, in steps of 8"):
        warming.run(ours, [(512, 512)])


def test_an_unknown_back_end_names_those_there_are(folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="eager, inductor"):
        Lcm(str(folder()), device="cpu", max_batch=1, backend="onnx").load(lambda *_: None)
