"""Compiling beside traffic: in a process of its own, so that the thread that draws keeps the interpreter.

The process gets the program without its weights, which are gigabytes and no part of the code: everything
but names, sizes, strides and types is random there. What comes back is loaded and checked on a thread here,
the one thing that shares the interpreter with the thread that draws.

    shape -> orders -> thread ══ process: python -m engines.backends.builds FOLDER ══ thread -> adopt, keep
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engines import device as devices
from engines.backends.code import compiled
from engines.backends.graphs import ADOPTING
from engines.backends.program import Program, Shape

REQUEST, ANSWER, SAID = "request", "answer", "said"  # files of a build's folder
LONGEST_S = 3600.0  # of one build
WAITING = 16  # of what traffic wants; anybody can want another size
NICE = 10  # traffic goes first, on the processor at least

log = logging.getLogger(__name__)


class Orders(Protocol):
    """What compiles in the background."""

    def order(self, shape: Shape) -> None:
        """Find or build it, after what was ordered before. Returns at once."""

    def wish(self, shape: Shape) -> None:
        """As `order`, after all orders, and before older wishes; too many push the oldest out."""

    def left(self) -> int:
        """How many wait or are being built."""

    def close(self) -> None:
        """Build nothing more."""


class Customer(Protocol):
    """Who is served; on the building thread. find: whether it has what was built before. again: it may be
    asked for once more, for there was no memory this time, which `find` and `adopt` raise as torch does."""

    def find(self, shape: Shape) -> bool: ...
    def keep(self, shape: Shape, packed: bytes) -> None: ...
    def adopt(self, shape: Shape, packed: bytes) -> bool: ...
    def fail(self, shape: Shape, reason: str, again: bool) -> None: ...


class Builds:
    """`at_once` at a time, or as many as the device has memory for."""

    def __init__(self, program: Program, mode: str, customer: Customer, at_once: int = 1) -> None:
        self._program, self._mode, self._customer = program, mode, customer
        self._orders: deque[Shape] = deque()
        self._wishes: deque[Shape] = deque(maxlen=WAITING)
        self._working: set[Shape] = set()
        self._there = threading.Condition()  # of these three
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = threading.Event()
        self._lock = threading.Lock()  # of these two; held while a process starts
        self._loading = threading.Lock()  # Inductor loads with options that are the whole process's
        self._threads = [
            threading.Thread(target=self._work, name="builds", daemon=True)
            for _ in range(min(at_once, _fitting(program)))
        ]

    def order(self, shape: Shape) -> None:
        self._add(shape, self._orders)

    def wish(self, shape: Shape) -> None:
        self._add(shape, self._wishes)

    def left(self) -> int:
        with self._there:
            return len(self._orders) + len(self._wishes) + len(self._working)

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            for process in self._processes:
                _end(process)
        with self._there:
            self._orders.clear()
            self._wishes.clear()
            self._there.notify_all()
        for thread in self._threads:
            if thread.ident:
                thread.join()

    def _add(self, shape: Shape, to: deque[Shape]) -> None:
        with self._there:
            if self._closed.is_set() or any(
                shape in known for known in (self._orders, self._wishes, self._working)
            ):
                return
            to.append(shape)
            self._there.notify()
        for thread in self._threads:
            if not thread.ident:
                thread.start()

    def _next(self) -> Shape | None:
        with self._there:
            self._there.wait_for(lambda: self._closed.is_set() or self._orders or self._wishes)
            if self._closed.is_set():
                return None
            shape = self._orders.popleft() if self._orders else self._wishes.pop()
            self._working.add(shape)
            return shape

    def _work(self) -> None:
        while (shape := self._next()) is not None:
            try:
                self._serve(shape)
            except Exception as error:  # of a compiler, a process, a disk: the shape stays as it is
                if not self._closed.is_set():
                    self._customer.fail(shape, str(error), devices.is_out_of_memory(error))
            finally:
                with self._there:
                    self._working.discard(shape)

    def _serve(self, shape: Shape) -> None:
        with self._adopting(), _line(self._program.device):
            if self._customer.find(shape):
                return
        packed = self._build(shape)
        self._customer.keep(shape, packed)  # first: what there is no memory for now is found later
        with self._adopting(), _line(self._program.device):
            if not self._customer.adopt(shape, packed):
                raise RuntimeError("the build is of no use")

    @contextlib.contextmanager
    def _adopting(self) -> Iterator[None]:
        with self._loading, ADOPTING:
            yield

    def _build(self, shape: Shape) -> bytes:
        with tempfile.TemporaryDirectory(prefix="realtime-build-") as name:
            folder = Path(name)
            (folder / REQUEST).write_bytes(_request(self._program, shape, self._mode))
            with (folder / SAID).open("wb") as said, self._lock:
                if self._closed.is_set():
                    raise RuntimeError("closed")
                # -P: a folder called `engines` in the working directory is not ours. A session of its own,
                # because a compiler starts processes too.
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "engines.backends.builds", str(folder)],
                    stdin=subprocess.PIPE,  # its end tells the process of ours
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(_where())},
                )
                self._processes.add(process)
            try:
                code = process.wait(LONGEST_S)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"the build took more than {LONGEST_S:.0f} s") from None
            finally:
                with self._lock:
                    self._processes.discard(process)
                _end(process)
            if code == 0:
                return (folder / ANSWER).read_bytes()
            last = (folder / SAID).read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"the build ended with status {code}: {' '.join(last)[:400]}")


def at_once() -> int:
    """Builds at a time that a machine with nothing else to do takes: each has use for four cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 4)


def _fitting(program: Program) -> int:
    """Builds at a time that the device has memory for: each has the weights once more, and as much to run."""
    if program.device.type != "cuda":
        return at_once()
    weights = sum(tensor.nbytes for tensor in (*program.parameters(), *program.buffers()))
    free, _ = torch.cuda.mem_get_info(program.device)
    return max(1, free // (2 * weights))


def _where() -> list[str]:
    """The very package that runs here, installed or not, and what else was given."""
    ours = str(Path(__file__).resolve().parents[2])
    return [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def _end(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def _line(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A stream of this thread's own, for what it calls goes on beside the steps."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))


class _Bare(pickle.Pickler):
    """Pickles tensors as what they look like."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            look = tuple(obj.shape), obj.stride(), obj.dtype, isinstance(obj, nn.Parameter)
            return _looking, look
        return NotImplemented


def _looking(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, parameter: bool) -> Tensor:
    bare = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    return nn.Parameter(bare, requires_grad=False) if parameter else bare


def _request(program: Program, shape: Shape, mode: str) -> bytes:
    file = io.BytesIO()
    _Bare(file, pickle.HIGHEST_PROTOCOL).dump((program.of(shape), shape, mode, torch.get_num_threads()))
    return file.getvalue()


def _taken(request: bytes) -> tuple[Program, Shape, str]:
    """What `_request` wrote, with weights drawn at random: zeros would run faster than any."""
    program, shape, mode, threads = pickle.loads(request)  # our own parent's
    torch.set_num_threads(threads)
    program.to_empty(device=program.device)  # keeps the strides
    torch.manual_seed(0)
    for tensor in (*program.parameters(), *program.buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(0.0, 0.02)
        else:
            tensor.data.zero_()
    return program, shape, mode


def _with_parent() -> None:
    os.read(0, 1)  # ends when our parent does
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main(folder: Path) -> None:
    threading.Thread(target=_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(NICE)
    program, shape, mode = _taken((folder / REQUEST).read_bytes())
    _, packed = compiled(program, shape, mode)
    if not packed:
        raise RuntimeError("this torch cannot write compiled code to a file")
    (folder / ANSWER).write_bytes(packed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
