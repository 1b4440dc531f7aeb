"""The processes under test: our server, and fal's own beside it. Each owned by a `with`, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
FAL_ENVIRONMENT = ROOT / ".venv-fal"
# The same base layer as ours in the same versions, so that only the servers differ.
FAL_PACKAGES = ("fal==1.83.0", "uvicorn==0.54.0", "websockets==17.4", "uvloop==0.23.0", "httptools==0.9.0")


@dataclass(frozen=True)
class Server:
    """A server that answers. The engine is its child, if it has one."""

    port: int
    path: str  # of the realtime endpoint
    pid: int

    @property
    def gateway(self) -> psutil.Process:
        return psutil.Process(self.pid)

    @property
    def engine(self) -> psutil.Process | None:
        return next(iter(self.gateway.children()), None)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by process."""
        spent = {"gateway": sum(self.gateway.cpu_times()[:2])}
        if self.engine is not None:
            spent["engine"] = sum(self.engine.cpu_times()[:2])
        return spent

    def rss(self) -> int:
        """Resident bytes of the gateway process."""
        return int(self.gateway.memory_info().rss)


@contextmanager
def ours(model: str = "fake", entry: str = "realtime.cli", **settings: object) -> Iterator[Server]:
    """`realtime serve` in its own process, ready. `settings` become RT_<NAME>.

    entry: the module that serves; `bench.noop` puts a no-op in the place of the engine process.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as state:
        given = {f"RT_{name.upper()}": str(value) for name, value in settings.items()}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RT_")}
        environment |= {"RT_STATE_DIR": state, "RT_LOG_LEVEL": "warning", **given}
        command = [sys.executable, "-m", entry, "serve", "--model", model, "--port", str(port)]
        with _running(command, environment, ROOT) as pid:
            _until_answering(pid, port, "/readyz", timeout_s=120)
            yield Server(port, "/fal-ai/lcm/realtime", pid)


@contextmanager
def fal_sdk(picture: str, sleep_s: float = 0.0) -> Iterator[Server]:
    """fal's realtime server with a no-op app that answers `picture` (a data URI) after `sleep_s`."""
    python = fal_environment()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder, "picture.txt")
        file.write_text(picture)
        command = [str(python), str(ROOT / "bench/peers/fal_sdk.py"), str(port), str(file), str(sleep_s)]
        with _running(command, dict(os.environ), Path(folder)) as pid:
            _until_answering(pid, port, "/health", timeout_s=60)
            yield Server(port, "/realtime", pid)


@contextmanager
def bare_queue() -> Iterator[Server]:
    """Starlette over one SQLite table: what a durable queue costs at least."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        command = [sys.executable, str(ROOT / "bench/peers/bare_queue.py"), str(port), folder]
        with _running(command, dict(os.environ), Path(folder)) as pid:
            _until_answering(pid, port, "/health", timeout_s=60)
            yield Server(port, "", pid)


def fal_environment() -> Path:
    """The interpreter with fal's SDK, made on first use: it pins older rich and structlog than we need."""
    python = FAL_ENVIRONMENT / "bin" / "python"
    made = FAL_ENVIRONMENT / ".complete"
    if not made.exists():
        shutil.rmtree(FAL_ENVIRONMENT, ignore_errors=True)
        print(f"making {FAL_ENVIRONMENT.name} for fal's SDK (once, about a minute)", file=sys.stderr)
        venv.create(FAL_ENVIRONMENT, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *FAL_PACKAGES]
        subprocess.run(pip, check=True, stdout=sys.stderr, timeout=600)
        made.touch()
    return python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[int]:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=dict(environment), cwd=folder, stdout=said, stderr=said)
        try:
            yield process.pid
            if process.poll() is not None:
                raise ChildProcessError(f"{command[2]} died under the load with {process.returncode}")
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace")[-4000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(25)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_answering(pid: int, port: int, path: str, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            raise ChildProcessError("the server died while starting")
        connection = HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise TimeoutError(f"no 200 from {path} in {timeout_s:.0f} s")
