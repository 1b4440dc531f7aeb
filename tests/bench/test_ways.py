"""What a peer is compiled with is what the engine compiles with; what is searched for is searched apart."""

import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import ways
from bench.gpu.plan import Late, limit
from engines.backends.code import MODES, Code, patches
from engines.backends.eager import Eager
from tests.engines.backends.small import SHAPE, Inner, program
from tests.engines.backends.tapes import Tapes

pytestmark = pytest.mark.timeout(60)  # imports of torch, on a busy machine


def test_a_compiled_peer_has_the_compilers_options_of_the_engine(monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda module, **given: asked.update(given))
    ways.compiled(torch.nn.Identity())
    assert asked["options"] == patches("default", "cpu")
    if hasattr(torch._inductor.config, "loop_reindexing_after_fusion"):
        assert asked["options"]["loop_reindexing_after_fusion"] is False


@torch.inference_mode()
def test_the_options_are_such_as_torch_takes():
    identity = torch.nn.Identity()
    assert ways.compiled(identity)._orig_mod is identity


def test_no_way_moves_the_weights_that_recordings_of_another_one_read():
    of = ways.Ways(program())
    where = {name: p.data_ptr() for name, p in of.program.named_parameters()}
    for way in ("inductor", ways.TUNED):
        of.backend(way)
    assert {name: p.data_ptr() for name, p in of.program.named_parameters()} == where


class Built(Code):
    """Compiled code that is none: it says where it ran, and computes what eager computes."""

    def __init__(self) -> None:
        self.program = program()
        self.calls: list[tuple[str, bool]] = []  # thread, whether cuDNN was to search
        self.endless = False

    def __call__(self, *batch: Tensor | None) -> Tensor:
        searching = torch.backends.cudnn.benchmark
        self.calls.append((threading.current_thread().name, searching))
        try:
            while self.endless:
                time.sleep(0.01)
        finally:
            self.endless = False
        advanced: Tensor = self.program(*batch)
        return advanced


def searched(code: Built) -> ways.Searched:
    return ways.Searched(Inner(code.program, code), code.program, Tapes())


@torch.inference_mode()
def test_convolutions_are_searched_for_on_a_thread_of_their_own_and_replayed_on_any():
    code = Built()
    backend = searched(code)
    backend.warm(SHAPE)
    backend.warm(SHAPE)
    threads = {thread for thread, searching in code.calls if searching}
    assert len(threads) == 1
    assert threading.current_thread().name not in threads
    assert not torch.backends.cudnn.benchmark
    batch = code.program.sample(SHAPE, seed=3)
    slots = backend.slots(SHAPE)
    assert slots is not None
    assert torch.equal(backend.step(SHAPE, ways.filled(slots, batch)), code.program(*batch))
    assert backend.stats()["graphs_recorded"] == 1


def test_an_algorithm_that_computes_another_thing_does_not_serve():
    class Wrong(Tapes):
        """What was recorded is wrong, wherever it is replayed."""

        def record(self, run):
            return super().record(lambda: run() * 1.01)

    code = Built()
    with pytest.raises(RuntimeError, match=r"searched, .* off"):
        ways.Searched(Inner(code.program, code), code.program, Wrong()).warm(SHAPE)


def test_what_is_not_compiled_is_not_searched_for():
    small = program()
    backend = ways.Searched(Eager(small), small, Tapes())
    backend.warm(SHAPE)
    assert backend.stats()["graphs_recorded"] == 0


def test_a_limit_ends_a_search_before_it_goes_on_and_another_one_can_begin():
    code = Built()
    backend = searched(code)
    code.endless = True
    with pytest.raises(Late), limit(0.2):
        backend.warm(SHAPE)
    assert not code.endless, "it goes on beside what is measured next"
    assert not torch.backends.cudnn.benchmark
    backend.warm(SHAPE)
    assert backend.stats()["graphs_recorded"] == 1


def test_what_cannot_be_captured_is_no_way():
    code, tapes = Built(), Tapes()
    tapes.failing.append(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        ways.Searched(Inner(code.program, code), code.program, tapes).warm(SHAPE)


def test_every_way_has_its_mode_of_the_compiler_and_what_is_ready_is_known():
    small = ways.Ways(program())
    assert small.backend("inductor").mode == MODES[0]
    assert small.backend(ways.TUNED).mode == MODES[1]
    assert not small.ready("eager", SHAPE)
    small.run("eager", SHAPE)
    assert small.ready("eager", SHAPE)
    with pytest.raises(RuntimeError, match=r"inductor max left .* eager: it was not built ahead"):
        small.run(ways.TUNED, SHAPE, build=False)
    assert not small.ready(ways.TUNED, SHAPE)
    assert not any(ways.possible(way, torch.device("cpu")) for way in (ways.SEARCHED, ways.TUNED + "+graph"))
