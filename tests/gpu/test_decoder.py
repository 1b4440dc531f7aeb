"""Decodes as CUDA graphs for real: the same levels, also while another thread records and steps."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from torch import Tensor

from engines.backends.eager import Eager
from engines.backends.graphs import WARM_UPS, Cuda, Graphs
from engines.decoder import Decoder, developed
from engines.vae import Vae
from tests.engines import tiny
from tests.engines.backends.small import SHAPE, program

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def codec() -> Vae:
    return Vae(tiny.tiny_vae().to("cuda", torch.float16).eval(), 8)


def latents(count: int, side: int, seed: int) -> list[Tensor]:
    drawn = torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed))
    return list(drawn.cuda().unbind())


def off(found: Tensor, expected: Tensor) -> int:
    return int((found.int() - expected.int()).abs().max())


@pytest.mark.parametrize("count", [1, 4])
def test_replays_give_the_levels_of_uncaptured_decodes(codec: Vae, count: int) -> None:
    decoder = Decoder(codec, Cuda(torch.device("cuda")))
    for turn in range(WARM_UPS + 4):
        given = latents(count, 32, turn)
        assert off(decoder(given), developed(codec, torch.stack(given))) <= 1
    assert decoder.stats() == {"decodes_replayed": 4, "decodes_recorded": 1, "decodes_unfit": 0}
    given[0] = torch.full_like(given[0], torch.nan)
    assert decoder(given)[:, -1].tolist() == [0] + [1] * (count - 1)


def test_decodes_are_recorded_while_another_thread_records_and_replays_steps(codec: Vae) -> None:
    ours = program(True, torch.float16, "cuda", width=64)
    stop = threading.Event()
    wrong: list[BaseException] = []

    @torch.inference_mode()
    def step() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                places = 0
                while not stop.is_set():
                    places = places % 6 + 1
                    shape = dataclasses.replace(SHAPE, places=places)
                    backend = Graphs(Eager(ours), ours)
                    batch = ours.sample(shape, places)
                    expected = ours(*batch)
                    for _ in range(WARM_UPS + 2):
                        slots = backend.slots(shape)
                        for slot, tensor in zip(slots or (), batch, strict=False):
                            if slot is not None and tensor is not None:
                                slot.copy_(tensor)
                        found = backend.step(shape, slots or batch)
                        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
                    assert backend.stats()["graphs_recorded"] == 1
                    backend.close()
        except BaseException as error:
            wrong.append(error)

    beside = threading.Thread(target=step)
    beside.start()
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            for turn in range(30):
                decoder = Decoder(codec, Cuda(torch.device("cuda")))
                given = latents(1 + turn % 4, 16, turn)
                expected = developed(codec, torch.stack(given))
                for _ in range(WARM_UPS + 3):
                    assert off(decoder(given), expected) <= 1
                assert decoder.stats()["decodes_recorded"] == 1
                decoder.relieve()
    finally:
        stop.set()
        beside.join()
    assert not wrong


def test_a_recording_that_fails_costs_neither_the_picture_nor_memory(codec: Vae) -> None:
    """Waiting for the device ends a recording. Torch before 2.13 needs help to use memory again then."""
    recorder = Cuda(torch.device("cuda"))
    given = torch.stack(latents(1, 32, 1))

    def run() -> Tensor:
        torch.cuda.synchronize()
        return developed(codec, given)

    with pytest.raises(RuntimeError):
        recorder.record(run)
    decoder = Decoder(codec, recorder)
    for _ in range(WARM_UPS + 2):
        assert off(decoder(list(given.unbind())), developed(codec, given)) <= 1
    assert decoder.stats()["decodes_recorded"] == 0, "and none is tried again"
    other = torch.cuda.Stream()
    held = []
    for _ in range(8):
        for _ in range(16):
            read = torch.empty(1 << 22, dtype=torch.uint8, device="cuda")
            read.record_stream(other)
            del read
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_reserved())
    assert held[-1] == held[1]
