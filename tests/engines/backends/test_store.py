"""Builds on disk: what is found again, what is not, and what is never believed."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines.backends import inductor
from engines.backends import store as builds
from engines.backends.inductor import Inductor
from engines.backends.program import Shape
from engines.backends.store import SUFFIX, Store, facts
from tests.engines.backends.small import SHAPE, program

FACTS = {"torch": "2.13.0", "shape": {"places": 2, "features": ("cfg",)}, "sm": [9, 0]}
BUILT = bytes(range(256)) * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "builds")


def entry(store: Store) -> Path:
    (path,) = store.folder.glob(f"*{SUFFIX}")
    return path


def test_what_was_put_is_found_under_the_same_facts_only(store: Store) -> None:
    assert store.get(FACTS) is None
    store.put(FACTS, BUILT)
    assert store.get(dict(reversed(FACTS.items()))) == BUILT
    for name, other in {
        "torch": "2.13.1",
        "sm": [9, 1],
        "shape": {"places": 3, "features": ("cfg",)},
    }.items():
        assert store.get(FACTS | {name: other}) is None
    assert not [path for path in store.folder.iterdir() if path.suffix != SUFFIX]


def test_shapes_are_found_under_the_facts_of_their_program_only(store: Store) -> None:
    ours = program()

    def told(shape: Shape) -> dict[str, Any]:
        return facts(ours, shape, backend="inductor")

    assert store.shapes(told) == []
    shapes = [dataclasses.replace(SHAPE, places=places) for places in (1, 2, 3)]
    for number, shape in enumerate(shapes):
        store.put(told(shape), BUILT)
        os.utime(store._path(told(shape)), (number, number))
    store.put(told(SHAPE) | {"backend": "tensorrt"}, BUILT)
    store.put(told(SHAPE) | {"shape": {"places": 2}}, BUILT)
    (store.folder / f"broken{SUFFIX}").write_bytes(b"[]\n")
    controlled = facts(ours, SHAPE, backend="inductor")
    controlled["shape"] |= {"features": ("control:gone", "embedded")}
    store.put(controlled, BUILT)
    assert store.shapes(told) == shapes[::-1]
    store.folder.chmod(0o770)
    assert store.shapes(told) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "append", "no header", "header of a list"])
def test_a_broken_entry_is_deleted_and_not_given_out(store: Store, damage: str) -> None:
    store.put(FACTS, BUILT)
    path = entry(store)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "flip": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
            "truncate": whole[: len(whole) // 2],
            "empty": b"",
            "append": whole + b"\0",
            "no header": BUILT,
            "header of a list": b"[]\n" + BUILT,
        }[damage]
    )
    assert store.get(FACTS) is None
    assert not path.exists()
    store.put(FACTS, BUILT)
    assert store.get(FACTS) == BUILT


def test_a_stale_entry_in_the_place_of_another_is_not_given_out(store: Store) -> None:
    store.put(FACTS, b"new")
    current = entry(store)
    store.put(FACTS | {"torch": "2.11.0"}, b"old")
    (old,) = {*store.folder.glob(f"*{SUFFIX}")} - {current}
    os.replace(old, current)  # sound in itself
    assert json.loads(current.read_bytes().splitlines()[0])["facts"]["torch"] == "2.11.0"
    assert store.get(FACTS) is None
    assert not current.exists()


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_read(store: Store, mode: int) -> None:
    store.put(FACTS, BUILT)
    store.folder.chmod(mode)
    assert store.get(FACTS) is None
    store.folder.chmod(0o700)
    assert store.get(FACTS) == BUILT


def test_what_was_used_longest_ago_goes_when_the_store_is_full(tmp_path: Path) -> None:
    store = Store(tmp_path / "builds", most_bytes=3 * len(BUILT) // 2 + 5000)
    store.put(FACTS, BUILT)
    os.utime(entry(store), (0, 0))
    later = FACTS | {"torch": "3"}
    store.put(later, BUILT)
    assert store.get(FACTS) is None
    assert store.get(later) == BUILT


def test_what_a_killed_writer_left_goes_and_what_is_being_written_stays(store: Store) -> None:
    store.put(FACTS, BUILT)
    left, written = store.folder / "tmpold", store.folder / "tmpnew"
    for path in (left, written):
        path.write_bytes(BUILT)
    os.utime(left, (0, 0))
    store.put(FACTS | {"torch": "3"}, BUILT)
    assert not left.exists()
    assert written.exists()


@pytest.mark.parametrize(("size", "stays"), [(1000, True), (20_000, False)])
def test_inductors_own_cache_is_part_of_the_budget(tmp_path: Path, size: int, stays: bool) -> None:
    store = Store(tmp_path / "builds", most_bytes=2 * len(BUILT) + 2000)
    (store.cache / "deep").mkdir(parents=True)
    (store.cache / "deep" / "code.so").write_bytes(bytes(size))
    store.put(FACTS, BUILT)
    assert store.get(FACTS) == BUILT
    assert store.cache.exists() == stays
    store.put(FACTS | {"torch": "3"}, BUILT)
    assert len(list(store.folder.glob(f"*{SUFFIX}"))) == (1 if stays else 2)


def test_a_disk_that_cannot_be_written_costs_the_entry_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file" / "builds")
    store.put(FACTS, BUILT)
    assert store.get(FACTS) is None
    assert "cannot be kept" in caplog.text


def test_facts_tell_programs_shapes_and_precisions_apart() -> None:
    ours = program()
    told = facts(ours, SHAPE, backend="inductor")
    assert told == facts(program(), SHAPE, backend="inductor")
    assert told["torch"] == torch.__version__.partition("+")[0] or told["torch"] == torch.__version__
    others = [
        facts(ours, dataclasses.replace(SHAPE, places=3), backend="inductor"),
        facts(program(embedded=False), SHAPE, backend="inductor"),
        facts(program(dtype=torch.bfloat16), SHAPE, backend="inductor"),
        facts(ours, SHAPE, backend="tensorrt"),
    ]
    assert all(told != other for other in others)


def test_code_for_a_gpu_depends_on_it_its_driver_and_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"name": "A", "major": 9, "minor": 0, "multi_processor_count": 132}
    packages = {"torch": "2.13.0", "triton": "3.7.0", "diffusers": "0.42.1"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(**about))
    monkeypatch.setattr(builds, "version", packages.get)
    monkeypatch.setattr(builds, "_driver", lambda: "580.1")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)

    def told() -> dict[str, Any]:
        return builds.machine(torch.device("cuda"))

    first = told()
    assert first == told()
    for place, name, other in (
        *((about, name, 7) for name in about),
        *((packages, name, "other") for name in packages),
    ):
        with monkeypatch.context() as changed:
            changed.setitem(place, name, other)
            assert told() != first, name
    for place, name, other in (
        (builds, "_driver", lambda: "590.2"),
        (torch.version, "cuda", "12.8"),
        (torch.backends.cudnn, "version", lambda: 92000),
        (platform, "python_version", lambda: "3.14.0"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(place, name, other)
            assert told() != first, name


def test_code_for_a_processor_depends_on_all_it_can_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(builds, "CPUINFO", tmp_path / "cpuinfo")

    def told(flags: str) -> dict[str, Any]:
        builds.CPUINFO.write_text(f"processor\t: 0\nflags\t\t: {flags}\ncpu MHz\t: {len(flags)}\n")
        return builds.machine(torch.device("cpu"))

    assert told("fpu avx2 amx_bf16") == told("amx_bf16 fpu  avx2") != told("fpu avx2")
    builds.CPUINFO.unlink()
    assert builds.machine(torch.device("cpu"))["processor"]


def test_code_of_inductor_depends_on_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Inductor(program())
    told = backend._facts(SHAPE)
    assert told == backend._facts(SHAPE)
    monkeypatch.setattr(inductor, "patches", lambda mode, kind: {"loop_reindexing_after_fusion": True})
    assert told != backend._facts(SHAPE)


def test_facts_know_of_settings_that_no_weight_shows() -> None:
    ours, theirs = program(), program()
    theirs.clip = 1.0
    assert facts(ours, SHAPE) != facts(theirs, SHAPE)
