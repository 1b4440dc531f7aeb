"""What a step costs besides the UNet, in operations: a count does not depend on who else uses the machine.

One operation on tensors this small takes 1-4 us on a CPU and one launch on a GPU; 40 of them are
within the 0.15 ms that a call of four rows may take outside the UNet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engines.lcm import Lcm
from engines.messages import Job
from tests.engines import tiny

VIEWS = {"unbind", "select", "slice", "unsqueeze", "t", "transpose", "detach", "alias", "view", "_to_copy"}


class Count(TorchDispatchMode):
    """Operations that compute or copy, by name; views cost no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def operations(pipeline: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    job = Job("the sea", 1, 64, 64, count=rows)
    batch = pipeline.rows(job, None)
    monkeypatch.setattr(pipeline.denoiser.unet, "forward", lambda sample, *_, **__: (sample,))
    with Count() as count:
        pipeline.step(batch, rows)
    return count.names


def test_a_step_takes_the_same_few_operations_for_one_row_and_for_eight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Lcm(str(tiny.build(tmp_path)), device="cpu", max_batch=1)
    ours.load(lambda *_: None)
    one, eight = (operations(ours, rows, monkeypatch) for rows in (1, 8))
    assert one == eight
    assert len(one) <= 25, one


def test_the_count_sees_an_operation() -> None:
    with Count() as count:
        torch.ones(2).unsqueeze(0) + 1
    assert count.names == ["ones", "add"]
