"""What this machine can run, what is missing, and why it matters. Changes nothing; needs no torch to run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from realtime import __version__
from realtime.settings import Settings

PROBE_S = 120.0  # importing torch from a cold disk
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
COMPILERS = ("g++", "clang++", "c++", "cl")  # Inductor's, for code that a CPU runs
HUB_ID = r"\w[\w.-]*/[\w.-]+"
TENSORRT = ("torch-tensorrt", "tensorrt")

# Runs in a process of its own: the gateway never imports torch, and a broken torch can end its process.
PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "mps": bool(getattr(torch.backends, "mps", None) and torch.backends.mps.is_available()),
    "threads": torch.get_num_threads(),
}))
"""


TENSORRT_PROBE = """
import json, torch, torch_tensorrt
print(json.dumps({"cuda": torch.cuda.is_available()}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """`level` "ok", "note" (something is slower or absent), or "bad" (the server cannot start or draw)."""

    level: str
    subject: str
    text: str


def run(settings: Settings, console: Console) -> int:
    """Print what was found. Returns an exit status: 1 if anything is bad."""
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    found = []
    for finding in examine(settings):
        found.append(finding)
        table.add_row(marks[finding.level], finding.subject, escape(finding.text))
    console.print(table)
    bad = sum(finding.level == "bad" for finding in found)
    console.print(f"\n{bad} thing{'s' * (bad != 1)} to mend." if bad else "\nReady: realtime serve")
    return 1 if bad else 0


def examine(settings: Settings) -> Iterator[Finding]:
    checks: list[Callable[[Settings], Iterator[Finding]]] = [
        _machine,
        _packages,
        _torch,
        _backend,
        _model,
        _state,
        _address,
        _tls,
        _storage,
        _extras,
    ]
    for check in checks:
        yield from check(settings)


def _machine(_: Settings) -> Iterator[Finding]:
    yield Finding(
        "ok", "realtime", f"{__version__} on Python {platform.python_version()}, {platform.platform()}"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(
        "ok" if cores > 1 else "note",
        "processor",
        f"{cores} core{'s' * (cores > 1)}" + ("" if cores > 1 else ": gateway and engine share it"),
    )
    flags = _cpu_flags()
    if flags:
        fast = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
        bf16 = {"avx512_bf16", "amx_bf16"} & flags
        text = ", ".join(fast) or "no AVX2: slow"
        yield Finding(
            "ok" if fast else "note",
            "vector units",
            text + ("" if bf16 else "; bfloat16 would not be faster"),
        )
    total = _memory()
    if total:
        enough = total >= 2 * 2**30
        text = f"{total / 2**30:.1f} GiB" + ("" if enough else "; the engine and torch want about 2 GiB")
        yield Finding("ok" if enough else "note", "memory", text)


def _packages(_: Settings) -> Iterator[Finding]:
    for name, why in (("diffusers", "loads models"), ("transformers", "reads prompts"), ("numpy", "pixels")):
        version = _version(name)
        if version:
            yield Finding("ok", name, version)
        else:
            yield Finding("bad", name, f"not installed ({why}): pip install 'realtime-lcm[engine]'")


def _torch(settings: Settings) -> Iterator[Finding]:
    if _version("torch") is None:
        yield Finding(
            "bad", "torch", "not installed: pip install 'realtime-lcm[engine]'; --model fake runs without it"
        )
        return
    torch = _probed(PROBE)
    if isinstance(torch, str):
        yield Finding("bad", "torch", torch)
        return
    devices = torch["cuda"] + ["mps"] * torch["mps"] or ["cpu"]
    yield Finding("ok", "torch", f"{torch['version']} on {', '.join(devices)}")
    wanted = settings.device.split(":")[0]
    if wanted not in ("auto", "cpu") and not torch["cuda" if wanted == "cuda" else "mps"]:
        yield Finding("bad", "device", f"{settings.device} is asked for and this torch sees none")
    elif devices == ["cpu"]:
        yield Finding("note", "device", f"no GPU: the engine uses {settings.threads} processor thread(s)")


def _probed(code: str) -> dict[str, Any] | str:
    """What it tells in the last line, or why it does not."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_S, check=True
        )
        told: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or ["no message"]
        return f"installed but broken: {last[0][:200]}"
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return f"does not import within {PROBE_S:.0f} s"
    return told


def _backend(settings: Settings) -> Iterator[Finding]:
    """What compiles UNets, and where that is kept."""
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    yield Finding(
        "ok" if compiler else "note",
        "compiler",
        compiler or f"none of {', '.join(COMPILERS)}: back end inductor cannot build, eager serves",
    )
    wrong = _without_tensorrt()
    level = "ok" if not wrong else "bad" if settings.backend == "tensorrt" else "note"
    text = wrong or f"torch-tensorrt {_version('torch-tensorrt')}, TensorRT {_version('tensorrt')}"
    yield Finding(level, "TensorRT", text + (" (optional)" if level == "note" else ""))
    builds = settings.state_dir / "builds"
    if not builds.is_dir():
        yield Finding("note", "builds", "none are kept yet; realtime warm makes them ahead")
        return
    kept = [file.stat().st_size for file in builds.glob("*.built")]
    about = builds.stat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        yield Finding("bad", "builds", "the folder of builds is not ours alone, so it is not read: chmod 700")
    else:
        yield Finding("ok", "builds", f"{len(kept)} kept, {sum(kept) / 1e6:.1f} MB")


def _without_tensorrt() -> str:
    """Why that back end cannot be had; "" if it can. Packages can be there and their libraries not."""
    missing = [package for package in TENSORRT if _version(package) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; pip install 'realtime-lcm[tensorrt]' gets them"
    found = _probed(TENSORRT_PROBE)
    if isinstance(found, str):
        return found
    return "" if found["cuda"] else "installed, but torch sees no CUDA device, which it needs"


def _model(settings: Settings) -> Iterator[Finding]:
    folder = Path(os.path.expanduser(settings.model))  # Path's own raises for somebody who is not there
    if settings.model == "embedded":
        weights = sorted((Path(__file__).parent.parent / "engines" / "embedded").rglob("*.safetensors"))
        if weights:
            size = sum(file.stat().st_size for file in weights) / 1e6
            yield Finding("ok", "model", f"embedded, {len(weights)} weight files, {size:.1f} MB")
        else:
            yield Finding("bad", "model", "the embedded weights are not in this installation; give --model")
    elif settings.model.partition(":")[0] == "fake":
        yield Finding("note", "model", "fake: draws patterns, for tests")
    elif (folder / "model_index.json").is_file():
        yield Finding("ok", "model", "a local folder")
    elif folder.exists():
        what = "a folder without model_index.json" if folder.is_dir() else "a single file"
        yield Finding("bad", "model", f"{settings.model} is {what}, so it is no diffusers model folder")
    elif re.fullmatch(HUB_ID, settings.model):
        yield Finding("note", "model", "a hub id: it is downloaded at the first start")
    else:
        yield Finding("bad", "model", f"{settings.model} does not exist, and is no hub id (owner/name)")


def _state(settings: Settings) -> Iterator[Finding]:
    folder = settings.state_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(
            "bad", "state", f"the state directory cannot be written ({error.strerror}); set RT_STATE_DIR"
        )
    else:
        yield Finding("ok", "state", "the state directory is writable; tokens survive a restart")


def _address(settings: Settings) -> Iterator[Finding]:
    from realtime.server import CannotServe, keys_of, listen

    try:
        listen(settings).close()
    except CannotServe as error:
        yield Finding("bad", "address", str(error))
    except ValueError as error:
        yield Finding("bad", "keys", f"{error}; those of RT_KEYS are tried")
    else:
        known = keys_of(settings)
        keys = f"{len(known)} API key(s)" if known.required else "no API keys, open on loopback"
        yield Finding("ok", "address", f"{settings.host} port {settings.port} is free; {keys}")


def _storage(settings: Settings) -> Iterator[Finding]:
    from realtime.errors import Failure
    from realtime.storage.objects import Objects

    where = settings.storage_url or "the state directory"
    if not settings.storage_url and not settings.state_dir.exists():
        yield Finding("ok", "storage", f"files will be kept in {where}")
        return
    try:
        objects = Objects(settings.storage_url, settings.state_dir / "objects", reserve=settings.disk_reserve)
        objects.probe()
        objects.close()
    except Failure as failure:
        yield Finding("bad", "storage", f"{where}: {failure.reason}")
    except (ValueError, OSError) as error:
        yield Finding("bad", "storage", str(error))
    else:
        yield Finding("ok", "storage", f"files are kept in {where}")


def _tls(settings: Settings) -> Iterator[Finding]:
    from realtime.server import CannotServe, check_tls

    try:
        check_tls(settings)
    except CannotServe as error:
        yield Finding("bad", "TLS", str(error))
    else:
        yield Finding("ok", "TLS", "https and wss" if settings.tls_cert else "not configured: http and ws")


def _extras(_: Settings) -> Iterator[Finding]:
    node = shutil.which("node")
    yield Finding(
        "ok" if node else "note", "node", "found" if node else "not found: the JavaScript tests need it"
    )
    browser = next((name for name in BROWSERS if shutil.which(name)), None)
    yield Finding(
        "ok" if browser else "note",
        "browser",
        browser or "no Chromium: the browser tests need one; make test gets it",
    )
    for family, name in ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6")):
        try:
            with socket.socket(family) as probe:
                probe.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        except OSError:
            yield Finding("note", name, "no loopback address")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


def _memory() -> int:
    """Bytes this process may use, 0 if unknown: the smaller of the machine's and its container's."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return total
    return min(total, limit)
