"""Folders that only their owner may look into: keys, files and other people's inputs are kept there."""

from __future__ import annotations

from pathlib import Path


def make_private(folder: Path) -> None:
    """Mode 0700, and so for parents that are missing, which `Path.mkdir` makes as the umask says.

    One that is there stays as it is. Raises OSError.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
