"""The lines of work of a device: steps, what goes in before them and what comes out after them.

On CUDA each is a stream and a decode runs beside the next step. Elsewhere there is one line; the same
code runs there, each piece of it when it is called.

What makes it safe for a tensor of one stream to be read on another: it is complete before the other
begins (`beat` and `Mark`), and its memory is not given away before the other has ended (`record_stream`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from engines import device as devices


@dataclass(frozen=True, slots=True)
class Mark:
    """A point in the line of steps. Nothing to wait for where there is one line for all."""

    event: torch.cuda.Event | None = None


class Lap:
    """What a thread calls from here on, in its line, until `end`."""

    def __init__(self) -> None:
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True, blocking=True)
        self._begin.record()

    def end(self) -> Lap:
        self._end.record()
        return self

    def wait(self) -> float:
        """Until the device has done it: the seconds it took there. Only this thread waits, asleep."""
        self._end.synchronize()
        return float(self._begin.elapsed_time(self._end)) / 1e3


class Streams:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.overlap = device.type == "cuda"  # decodes run beside steps
        self._intake = torch.cuda.Stream(device) if self.overlap else None
        self._outlet = torch.cuda.Stream(device) if self.overlap else None
        self._steps: torch.cuda.Stream | None = None

    def lead(self) -> None:
        """From now on what this thread calls is the line of steps; it comes after all there was so far."""
        if self.overlap:
            # Not CUDA's default stream: what other threads do without a word of streams would be in line.
            torch.cuda.synchronize(self.device)
            self._steps = torch.cuda.Stream(self.device)
            torch.cuda.set_stream(self._steps)

    def lap(self) -> Lap | None:
        """Begins here, in this thread's line; None where there is one line for all."""
        return Lap() if self.overlap else None

    def beat(self) -> None:
        """Wait for what this thread has called, and nothing else: seconds around a call are true with it."""
        if self.overlap:
            end = torch.cuda.Event()
            end.record()
            end.synchronize()
        else:
            devices.synchronize(self.device)

    def mark(self) -> Mark:
        """Here, in this thread's line."""
        if not self.overlap:
            return Mark()
        event = torch.cuda.Event(blocking=True)
        event.record()
        return Mark(event)

    def entering(self) -> AbstractContextManager[object]:
        """In here is the line of what steps will need. Any thread; it goes on by host memory, or `lent`."""
        return _on(self._intake)

    def lent(self, tensors: Iterable[Tensor]) -> None:
        """Of the line that enters, to be read by steps: complete from now on, and not given away under them.
        Only this thread waits."""
        if self._steps is None:
            return
        _slept()
        for tensor in tensors:
            tensor.record_stream(self._steps)

    @contextmanager
    def leaving(self, given: Iterable[Tensor], after: Mark | None = None) -> Iterator[None]:
        """In here is the line of what comes out of steps. Any thread; bring it `home`.

        given: tensors of the line of steps, complete, or called before `after`, which this thread waits for.
        """
        if after is not None and after.event is not None:
            # Not in the line: whatever else leaves would wait for the call that the device was given last.
            after.event.synchronize()
        with _on(self._outlet):
            if self._outlet is not None:
                for tensor in given:
                    tensor.record_stream(self._outlet)
            yield

    def home(self, *tensors: Tensor) -> list[Tensor]:
        """Copies in host memory, once all that was called for them is done. Only this thread waits.

        On CUDA they lie in pinned memory of torch's pool, whose blocks go round: one comes back when the
        last view of it is gone, so it is never written to while somebody reads.
        """
        if not self.overlap:
            return [tensor.cpu() for tensor in tensors]
        copies = [_pinned(tensor) for tensor in tensors]
        _slept()
        return copies


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def _slept() -> None:
    """Until all that this thread has called is done: it sleeps, and leaves its core."""
    end = torch.cuda.Event(blocking=True)
    end.record()
    end.synchronize()


def _pinned(tensor: Tensor) -> Tensor:
    found = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return found.copy_(tensor, non_blocking=True)
