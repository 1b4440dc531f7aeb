"""Calls of many small kernels, launched as one: a CUDA graph for each size of call.

What is called for every frame beside the steps takes Python's lock from their loop with every kernel that it
launches. What is not known to bear recording is not recorded: `Trial` watches the first call of a size.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from engines import device as devices
from engines.backends.graphs import WARM_UPS, Recorder, Recording
from engines.trial import Trial

MOST = 48  # recordings: groups of one to four, of a dozen sizes

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Plate:
    """One size of call. Rows are put where they were when it was recorded."""

    slot: Tensor
    calls: Counter[int] = field(default_factory=Counter)  # by thread: cuDNN has a handle and plans for each
    recording: Recording | None = None
    tried: bool = False
    unfit: bool = False


class Replays:
    """A function, whose calls are replayed once a thread has made `WARM_UPS` of a size. Any thread."""

    def __init__(
        self, run: Callable[[Tensor], Tensor], recorder: Recorder | None, name: str, most: int = MOST
    ) -> None:
        """run: of rows [N, ...] that lie on the device; it may be called under `Trial`.

        recorder: nobody else's; None records nothing. name: of the calls, in figures and logs, a plural.
        most: recordings kept, the last used ones.
        """
        self.name = name
        self._run, self._recorder, self._most = run, recorder, most
        self._plates: OrderedDict[tuple[int, ...], _Plate] = OrderedDict()
        self._lock = threading.Lock()  # one set of plates, and one replay at a time
        self._counts = dict.fromkeys(("replayed", "recorded", "unfit"), 0)

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows of one size, on the device, to what `run` gives of all, the caller's to keep."""
        if self._recorder is None:
            return self._run(torch.stack(list(rows)))
        with self._lock:
            plate = self._plate(rows)
            with self._recorder.turn(plate.slot):
                torch.stack(list(rows), out=plate.slot)
                return self._called(plate, self._recorder)

    @property
    def warm_ups(self) -> int:
        """Calls of a size that a thread makes before one is recorded; 0 where none is."""
        return 0 if self._recorder is None else WARM_UPS

    def relieve(self) -> None:
        """Out of memory: give back what can be made again."""
        with self._lock:
            self._drop()

    def stats(self) -> dict[str, float]:
        if self._recorder is None:
            return {}
        return {f"{self.name}_{event}": float(count) for event, count in self._counts.items()}

    def _called(self, plate: _Plate, recorder: Recorder) -> Tensor:
        run = partial(self._run, plate.slot)
        if not plate.tried:
            return self._tried(plate, recorder, run)
        if plate.recording is None:
            thread = threading.get_ident()
            plate.calls[thread] += 1
            if plate.calls[thread] > WARM_UPS and not plate.unfit:
                self._record(plate, recorder, run)
            if plate.recording is None:
                return recorder.aside(run)
        plate.recording.replay()
        self._counts["replayed"] += 1
        return plate.recording.output.clone()

    def _tried(self, plate: _Plate, recorder: Recorder, run: Callable[[], Tensor]) -> Tensor:
        """Of the first call: its result, and whether calls of its size may be recorded."""

        def watched() -> Tensor:
            with Trial.one, trial:
                return run()

        trial = Trial()
        try:
            made = recorder.aside(watched)
        except RuntimeError as error:
            if devices.is_out_of_memory(error):
                raise
            trial.objections.append(f"it cannot be watched: {error}")
            made = recorder.aside(run)
        plate.tried = True
        plate.calls[threading.get_ident()] += 1
        if trial.objections:
            self._refuse(plate, "; ".join(trial.objections))
        return made

    def _record(self, plate: _Plate, recorder: Recorder, run: Callable[[], Tensor]) -> None:
        try:
            plate.recording = recorder.record(run)
        except RuntimeError as error:
            if devices.is_out_of_memory(error):
                plate.unfit = True
                self._drop(keep=plate)
            else:
                self._refuse(plate, str(error))
        else:
            self._counts["recorded"] += plate.recording is not None

    def _refuse(self, plate: _Plate, reason: str) -> None:
        plate.unfit = True
        self._counts["unfit"] += 1
        size = "x".join(map(str, plate.slot.shape))
        log.warning("no CUDA graph of %s of %s: %s", self.name, size, reason)

    def _plate(self, rows: Sequence[Tensor]) -> _Plate:
        size = (len(rows), *rows[0].shape)
        if size not in self._plates:
            while len(self._plates) >= self._most:
                self._let_go(self._plates.popitem(last=False)[1])
            self._plates[size] = _Plate(torch.empty(size, dtype=rows[0].dtype, device=rows[0].device))
        self._plates.move_to_end(size)
        return self._plates[size]

    def _drop(self, keep: _Plate | None = None) -> None:
        for size, plate in list(self._plates.items()):
            if plate is not keep:
                self._let_go(self._plates.pop(size))

    def _let_go(self, plate: _Plate) -> None:
        if plate.recording is not None and self._recorder is not None:
            self._recorder.drop(plate.recording)  # which may still run
