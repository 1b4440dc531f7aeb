"""What runs on a CUDA device only; skipped elsewhere. Stands alone: see pytest.ini beside this file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """An error that a kernel reports late belongs to the test that called it."""
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
