"""What back ends have built, on disk. An entry is found only under the very conditions it was built under.

Whatever is read is checked first: a broken entry, or one that says it is another's, is deleted and built
again. Checksums do not keep out who can write here, and compiled code runs as this process: a folder that
others may write to is not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from engines.backends.program import Program, Shape

MOST_BYTES = 32 * 2**30
SUFFIX = ".built"
CPUINFO = Path("/proc/cpuinfo")
STALE_S = 3600.0  # of a file that is being written: its writer has ended

log = logging.getLogger(__name__)
Facts = Mapping[str, Any]  # JSON; all that an entry depends on


class Store:
    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        """most_bytes: beyond, what was used longest ago goes."""
        self.folder = folder
        self._most_bytes = most_bytes

    def get(self, facts: Facts) -> bytes | None:
        """What was built under these conditions. None: nothing, or nothing sound."""
        path = self._path(facts)
        try:
            if not self._private():
                return None
            with path.open("rb") as file:
                header, built = json.loads(file.readline()), file.read()
            sound = header == _header(facts, built)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("a build in the cache cannot be read (%s) and is made again", error)
            sound = False
        if not sound:
            log.warning("a build in the cache is broken or of other conditions, and is made again")
            self.discard(facts)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return built

    def put(self, facts: Facts, built: bytes) -> None:
        """Keep it if the disk allows; a reader sees all of it or nothing."""
        made = ""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                made = file.name
                file.write(json.dumps(_header(facts, built)).encode() + b"\n")
                file.write(built)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, self._path(facts))
            self._prune()
        except OSError as error:
            log.warning("a build cannot be kept in the cache: %s", error)
            if made:
                Path(made).unlink(missing_ok=True)

    def shapes(self, facts: Callable[[Shape], Facts]) -> list[Shape]:
        """Of entries under these facts of their shape, the last used first. What they hold is not checked.

        facts: may raise KeyError for a shape that is none of its program's.
        """
        found = []
        for told in self._told():
            try:
                given = told["shape"]
                shape = Shape(**given | {"features": tuple(given["features"])})
                if _plain(facts(shape)) == told:
                    found.append(shape)
            except (KeyError, TypeError):  # another version's
                continue
        return found

    @property
    def cache(self) -> Path:
        """Folder of Inductor's own cache: by processor, for what is compiled there runs on its like alone."""
        return self.folder / f"inductor-{processor()}"

    def discard(self, facts: Facts) -> None:
        with contextlib.suppress(OSError):
            self._path(facts).unlink(missing_ok=True)

    def _path(self, facts: Facts) -> Path:
        told = json.dumps(_plain(facts), sort_keys=True).encode()
        return self.folder / f"{hashlib.blake2b(told, digest_size=16).hexdigest()}{SUFFIX}"

    def _told(self) -> Iterator[Facts]:
        """What entries say of themselves."""
        with contextlib.suppress(OSError):  # there may be no folder
            for path, _ in self._entries() if self._private() else ():
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
                    yield json.loads(file.readline())["facts"]

    def _entries(self) -> list[tuple[Path, os.stat_result]]:
        """The last used first."""
        entries = [(path, path.stat()) for path in self.folder.glob(f"*{SUFFIX}")]
        return sorted(entries, key=lambda entry: entry[1].st_mtime, reverse=True)

    def _private(self) -> bool:
        about = self.folder.stat()
        if not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o022):
            return True
        log.warning("the cache of builds is not read: others own its folder, or may write to it")
        return False

    def _prune(self) -> None:
        now = time.time()
        for path in self.folder.glob("tmp*"):
            if path.is_file() and now - path.stat().st_mtime > STALE_S:
                path.unlink(missing_ok=True)
        caches = {path: _bytes(path) for path in self.folder.glob("inductor*")}
        total = sum(caches.values())
        if total > self._most_bytes // 2:  # what is in there makes builds quicker and is no build
            for path in caches:
                shutil.rmtree(path, ignore_errors=True)
            total = 0
        for path, about in self._entries():
            total += about.st_size
            if total > self._most_bytes:
                path.unlink(missing_ok=True)


def _bytes(folder: Path) -> int:
    """Of all files in it, as far as they can be seen."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _plain(facts: Facts) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(facts))


def _header(facts: Facts, built: bytes) -> dict[str, Any]:
    checksum = hashlib.blake2b(built, digest_size=32).hexdigest()
    return {"facts": _plain(facts), "bytes": len(built), "blake2b": checksum}


def facts(program: Program, shape: Shape, **further: Any) -> dict[str, Any]:
    """What a build of this program depends on whatever the back end: its layout, the shape, the machine."""
    return {
        "layout": program.of(shape).layout(),
        "shape": asdict(shape),
        "dtype": str(program.dtype),
        **machine(program.device),
        **further,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Versions and names of what compiles, and of what the result runs on."""
    packages = {name: version(name) for name in ("torch", "triton", "diffusers")}
    found: dict[str, Any] = {**packages, "python": platform.python_version(), "device": device.type}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {"gpu": about.name, "sm": [about.major, about.minor], "units": about.multi_processor_count}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": _driver()}
    else:
        found |= {"vectors": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
        found |= {"processor": processor()}
    return found


def processor() -> str:
    """Digest of what this processor can do: Inductor compiles for no other (-march=native)."""
    told = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):  # x86, ARM
                told += " ".join(sorted(flags.split()))
                break
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def _driver() -> str:
    """The kernel module's own words on its version; "" where Linux's /proc does not tell."""
    told = Path("/proc/driver/nvidia/version")
    return told.read_text().splitlines()[0] if told.is_file() else ""


def version(package: str) -> str:
    """ "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
