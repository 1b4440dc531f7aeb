"""Where a model's files are: in the repository, in a folder, or on the hub, from which they are fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engines.embedded import WEIGHTS
from engines.pipeline import Unloadable as Unloadable

Report = Callable[[str, float, float, str], None]  # stage, done, total, text; as messages.Progress


def find(name: str, patterns: Sequence[str], report: Report) -> Path:
    """The folder of "embedded", of a folder, or of a hub id, of which files like `patterns` are fetched."""
    if name == "embedded":
        if not (WEIGHTS / "model_index.json").is_file():
            raise Unloadable("the embedded model is not in this copy of the repository; name another --model")
        return WEIGHTS
    folder = Path(os.path.expanduser(name))  # Path's own raises for somebody who is not there
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise Unloadable(f"{name} has no model_index.json, so it is no diffusers model folder")
        return folder
    if folder.is_file():
        raise Unloadable(f"{name} is a single file; convert it to the diffusers layout first")
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise Unloadable(f"{name} is neither a folder nor a hub id (owner/name)")
    return download(name, patterns, report)


# Repositories hold the same weights several times over; the first kind that is there is enough.
EVER = ["*.msgpack", "*.onnx*", "*.h5", "*.ot", "*.ckpt", "*.non_ema.*"]
KINDS = (["*.bin", "*.fp16.*"], ["*.bin"], ["*.safetensors"])  # left out at each try


def download(repository: str, patterns: Sequence[str], report: Report) -> Path:
    """A snapshot of the files like `patterns`, from the hub or as fetched before. Raises Unloadable."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[misc]  # the hub's only way to tell how far it is
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self.in_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **(kwargs | {"disable": False, "file": _Nowhere()}))

        def update(self, n: float | None = 1) -> bool | None:
            told: bool | None = super().update(n)
            if self.in_bytes:
                report("download", self.n, self.total or 0, repository)
            return told

    report("download", 0, 0, repository)
    try:
        for kind in KINDS:
            folder = Path(
                huggingface_hub.snapshot_download(
                    repository, allow_patterns=list(patterns), ignore_patterns=EVER + kind, tqdm_class=Bar
                )
            )
            if _has_weights(folder):
                return folder
    except (HfHubHTTPError, OSError) as error:
        why = f"{repository} could not be fetched from the hub ({type(error).__name__})"
        raise Unloadable(f"{why}; check its name and the network, or give a folder") from error
    raise Unloadable(f"{repository} on the hub holds no weights in the diffusers layout")


def _has_weights(folder: Path) -> bool:
    where = folder / "unet" if (folder / "unet").is_dir() else folder
    return any(file.suffix in (".safetensors", ".bin") for file in where.iterdir())


class _Nowhere:
    """Where a progress bar writes that somebody else shows."""

    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...
