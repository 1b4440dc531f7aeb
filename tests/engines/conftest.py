"""Tiny models, built once a session and only those a test asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """folder(lcm=..., vae=..., ...): where a model with these options lies; see tiny.build."""
    from tests.engines import tiny

    built: dict[tuple[Any, ...], Path] = {}

    def find(**options: Any) -> Path:
        key = tuple(sorted(options.items()))
        if key not in built:
            built[key] = tiny.build(tmp_path_factory.mktemp("model"), **options)
        return built[key]

    return find


@pytest.fixture(scope="session")
def pipeline(folder: Callable[..., Path]) -> Callable[..., Any]:
    """pipeline(max_batch=..., lcm=..., ...): a loaded Lcm over such a model; shared, so do not change it."""
    from engines.lcm import Lcm

    loaded: dict[tuple[Any, ...], Any] = {}

    def load(*, max_batch: int = 16, deterministic: bool = False, **options: Any) -> Any:
        key = (max_batch, deterministic, *sorted(options.items()))
        if key not in loaded:
            made = Lcm(str(folder(**options)), device="cpu", max_batch=max_batch, deterministic=deterministic)
            made.load(lambda *progress: None)
            loaded[key] = made
        return loaded[key]

    return load
