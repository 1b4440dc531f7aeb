"""UNet and step compiled by torch.compile's Inductor, one static shape at a time; eager serves meanwhile.

A shape becomes compiled by `warm`, from the store if it has its code, else built here and now; or, with
`builds`, some time after traffic has come back to it. Code is trusted once it has given what eager gives
for the same batch, to `BOUNDS`; what cannot be built or is wrong leaves its shape eager, with a reason in
the log. Swapping is one assignment between two calls.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engines import device as devices
from engines.backends.builds import Builds, Orders
from engines.backends.code import Code, compiled, loaded, patches, recipe
from engines.backends.eager import Eager
from engines.backends.graphs import KNOWN, MOST
from engines.backends.joined import lay
from engines.backends.program import Batch, Program, Shape, Step, difference
from engines.backends.regional import regional
from engines.backends.store import Facts, Store, facts
from engines.cache import Cache

BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 2e-2}  # relative, of any place
SLOWER = 1.02  # of eager's time on a CPU; more is no gain, less may be noise
TURNS = 5
WORTH = 8  # calls of a shape before it is worth a build that nobody waits for

log = logging.getLogger(__name__)


class Inductor:
    name = "inductor"

    def __init__(
        self,
        program: Program,
        store: Store | None = None,
        mode: str = "default",
        background: int = 0,
        quick: bool = False,
    ) -> None:
        """mode: one of code.MODES; ValueError for another. background: how many to build at a time beside
        traffic. quick: until then what regional.py makes, for shapes that are warmed."""
        patches(mode, program.device.type)
        for module in (program, *program.nets.values()):
            lay(module)
        self.mode = mode
        self._reasons: dict[Shape, str] = {}  # why a shape stays eager
        self._short: dict[Shape, str] = {}  # why it does until it is tried again
        self._program, self._store = program, store
        self._eager = Eager(program)
        self._code: Cache[Code] = Cache(MOST)  # trusted; as many as are recorded
        self._quick: dict[Shape, Step] | None = {} if quick else None
        self._twins: dict[tuple[str, ...], Program] = {}  # by ControlNets
        self._wanted: Cache[int] = Cache(KNOWN)  # how often, of shapes that are not compiled
        self.builds: Orders | None = Builds(program, mode, self, background) if background else None
        self._counts = dict.fromkeys(("built", "loaded"), 0.0)  # in this process
        self._built_s = 0.0

    def program(self, shape: Shape) -> Step:
        code = self._code.get(shape)
        if code is not None:
            return code
        if self._quick and shape in self._quick:
            return self._quick[shape]
        return self._eager.program(shape)

    def slots(self, shape: Shape) -> Batch | None:
        return None

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        self.want(shape)
        advanced: Tensor = self.program(shape)(*batch)
        return advanced

    def want(self, shape: Shape) -> None:
        if self.builds is None or shape in self._code or shape in self._reasons:
            return
        wanted = (self._wanted.get(shape) or 0) + 1
        self._wanted.put(shape, wanted, 1)
        # Once more after twice as many calls: others may have pushed the wish out, or memory was short.
        if wanted >= WORTH and wanted & (wanted - 1) == 0:
            self.builds.wish(shape)

    def warm(self, shape: Shape, build: bool = True) -> None:
        if shape in self._code or shape in self._reasons:
            return
        self._short.pop(shape, None)
        if not build and self.builds is not None:
            self.builds.order(shape)
        else:
            try:
                if not self.find(shape) and build:
                    self._build(shape)
            except RuntimeError as error:
                if not devices.is_out_of_memory(error):
                    raise
                self.fail(shape, str(error), again=True)
        if shape not in self._code:
            self._eager.warm(shape)
            if self._quick is not None and shape not in self._quick:
                self._start(shape)

    def kept(self, buckets: Sequence[int]) -> list[Shape]:
        """Nothing if somebody builds beside traffic, who looks for it first."""
        if self._store is None or self.builds is not None:
            return []
        found = self._store.shapes(self._facts)
        return [shape for shape in found if shape.places in buckets and shape not in self._code]

    def find(self, shape: Shape) -> bool:
        """Take it from the store, seconds of this thread, if it is there. Any thread. Raises as `adopt`."""
        kept = self._store.get(self._facts(shape)) if self._store is not None else None
        if kept is None or not self.adopt(shape, kept):
            return False
        self._counts["loaded"] += 1
        return True

    def adopt(self, shape: Shape, packed: bytes) -> bool:
        """Take code that was compiled before or elsewhere. False: it is broken or wrong, and is forgotten.
        Any thread. Raises RuntimeError as torch does, for memory."""
        try:
            code = loaded(packed, self._program, shape)
            reason = self._wrong(shape, code)
        except RuntimeError as error:
            if devices.is_out_of_memory(error):
                raise
            reason = str(error)
        if not reason:
            self._use(shape, code)
            return True
        log.warning("kept code of %s is of no use: %s", shape, reason)
        if self._store is not None:
            self._store.discard(self._facts(shape))
            # Inductor takes what it finds there on trust.
            shutil.rmtree(self._store.cache, ignore_errors=True)
        return False

    def keep(self, shape: Shape, packed: bytes) -> None:
        """What was built just now."""
        self._counts["built"] += 1
        if self._store is not None and packed:
            self._store.put(self._facts(shape), packed)

    def fail(self, shape: Shape, reason: str, again: bool = False) -> None:
        told = self._short if again else self._reasons
        told[shape] = reason
        if len(told) > KNOWN:
            del told[next(iter(told))]
        log.warning("%s stays eager%s: %s", shape, " for now" if again else "", reason)

    def relieve(self) -> None: ...

    def reasons(self) -> dict[str, str]:
        return {str(shape): reason for shape, reason in (self._short | self._reasons).items()}

    def close(self) -> None:
        if self.builds is not None:
            self.builds.close()

    def stats(self) -> dict[str, float]:
        return {
            **self._counts,
            **self._eager.stats(),
            "compiled": float(len(self._code)),
            "failed": float(len(self._reasons)),
            "building": 0.0 if self.builds is None else float(self.builds.left()),
            "built_s": self._built_s,
        }

    def _build(self, shape: Shape) -> None:
        began, short = time.perf_counter(), False
        try:
            code, packed = compiled(self._program, shape, self.mode)
            reason = self._wrong(shape, code)
        except Exception as error:  # of a compiler: of every kind
            reason, short = f"{type(error).__name__}: {error}", devices.is_out_of_memory(error)
        self._built_s += time.perf_counter() - began
        if reason:
            self.fail(shape, reason, short)
            return
        self._use(shape, code)
        self.keep(shape, packed)

    def _start(self, shape: Shape) -> None:
        assert self._quick is not None
        try:
            if shape.controls not in self._twins:
                self._twins[shape.controls] = regional(self._program, shape)
            twin = self._twins[shape.controls]
            reason = self._wrong(shape, twin)
        except Exception as error:  # as above
            reason = f"{type(error).__name__}: {error}"
        if reason:
            log.warning("%s is eager until it is built whole: %s", shape, reason)
        else:
            self._quick[shape] = twin

    @torch.inference_mode()
    def _wrong(self, shape: Shape, code: Step) -> str:
        """Why not to use it; "" if it is right."""
        eager = self._program.of(shape)
        batch = eager.sample(shape)
        error, bound = difference(eager(*batch), code(*batch)), BOUNDS[eager.dtype]
        return "" if error <= bound else f"compiled, it is {error:.1e} off; the bound is {bound:.0e}"

    @torch.inference_mode()
    def _use(self, shape: Shape, code: Code) -> None:
        """From the next call on; on a CPU if that is no slower. What is too slow is kept all the same, so
        that it is not compiled again to find out."""
        eager = self._program.of(shape)
        # On a GPU launches hide what the kernels take, and CUDA graphs hide the launches.
        if eager.device.type == "cpu" and (ratio := slower(eager, code, eager.sample(shape))) > SLOWER:
            self.fail(shape, f"compiled, it takes {ratio:.2f} of the time")
        else:
            self._code.put(shape, code, 1)
            self._short.pop(shape, None)

    def _facts(self, shape: Shape) -> Facts:
        options = patches(self.mode, self._program.device.type)
        return facts(
            self._program, shape, backend=self.name, mode=self.mode, patches=options, recipe=recipe()
        )


def slower(eager: Step, code: Step, batch: Batch, clock: Callable[[], float] | None = None) -> float:
    """Seconds of a call of `code` to those of `eager`: the least of some turns each, in alternation.

    clock: of this thread's processor time where it does all the work: beside traffic a clock on the wall
    found code slower that takes 0.7 of the time.
    """
    if clock is None:
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    least = [math.inf, math.inf]
    for _ in range(TURNS):
        for at, step in enumerate((eager, code)):
            began = clock()
            step(*batch)
            least[at] = min(least[at], clock() - began)
    return least[1] / least[0]
