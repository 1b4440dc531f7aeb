from __future__ import annotations

import pytest
import torch

from engines import device as devices

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("asked", "pays", "expected"),
    [
        ("auto", True, torch.float32),  # what is promised of pictures is promised in float32
        ("fast", True, torch.bfloat16),
        ("fast", False, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_a_cpu_takes_bfloat16_only_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, asked: str, pays: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "bfloat16_pays", lambda: pays)
    assert devices.choose("cpu", asked) == (CPU, expected)


@pytest.mark.parametrize("times", [0.5, 1.1, 1.5])
def test_bfloat16_pays_where_it_is_clearly_quicker(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    now = [0.0]

    def convolve(given: torch.Tensor, weight: torch.Tensor, padding: int) -> None:
        assert given.dtype == weight.dtype
        now[0] += times if given.dtype == torch.float32 else 1.0

    monkeypatch.setattr(devices.time, "thread_time", lambda: now[0])
    monkeypatch.setattr(torch.nn.functional, "conv2d", convolve)
    assert devices.bfloat16_pays() is (times > 1.25)


def test_the_probe_ends_on_this_machine() -> None:
    assert devices.bfloat16_pays() in (True, False)


def test_a_dtype_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="known are auto, fast, float32"):
        devices.choose("cpu", "int8")


@pytest.mark.parametrize("asked", ["banana", "cuda:x", ""])
def test_a_device_nobody_knows_is_refused(asked: str) -> None:
    with pytest.raises(ValueError, match="known are auto, cpu, cuda, mps"):
        devices.choose(asked, "auto")
