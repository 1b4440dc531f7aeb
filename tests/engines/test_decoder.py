"""Recorded decodes: the same levels as ever, bounded, and never in the way of a picture."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.backends.graphs import WARM_UPS
from engines.decoder import Decoder, developed
from engines.lcm import Lcm
from engines.messages import Job
from engines.vae import levels
from tests.engines import tiny
from tests.engines.backends.tapes import Tapes

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture
def ours(pipeline: Any) -> Lcm:
    return pipeline()


@pytest.fixture
def tapes() -> Tapes:
    return Tapes()


@pytest.fixture
def decoder(ours: Lcm, tapes: Tapes) -> Decoder:
    return Decoder(ours.tiny, tapes, most=3)


def latents(count: int, seed: int = 0, side: int = 4) -> list[Tensor]:
    drawn = torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed))
    return list(drawn.unbind())


def recorded(decoder: Decoder, count: int, side: int = 4) -> None:
    for _ in range(WARM_UPS + 1):
        decoder(latents(count, side=side))


def test_a_row_is_the_levels_of_its_picture_and_whether_they_mean_anything(ours: Lcm) -> None:
    given = torch.stack(latents(3))
    given[1, 0, 0, 0] = torch.nan
    told = developed(ours.tiny, given)
    expected = levels(ours.tiny.decode(given))
    for row in (0, 2):
        assert torch.equal(told[row, :-1].view(expected[row].shape), expected[row])
    assert told[:, -1].tolist() == [1, 0, 1]


def test_calls_are_recorded_after_the_first_ones_and_all_give_the_same_levels(
    ours: Lcm, decoder: Decoder, tapes: Tapes
) -> None:
    kept = []
    for turn in range(WARM_UPS + 3):
        given = latents(2, seed=turn)
        kept.append((decoder(given), developed(ours.tiny, torch.stack(given))))
        assert tapes.recorded == (turn >= WARM_UPS)
    for found, expected in kept:  # the first ones too: nothing is written to what was given away
        assert torch.equal(found, expected)
    assert decoder.stats() == {"decodes_replayed": 3, "decodes_recorded": 1, "decodes_unfit": 0}


def test_each_size_of_call_is_recorded_and_the_one_used_longest_ago_dropped(
    decoder: Decoder, tapes: Tapes
) -> None:
    for count in (1, 2, 3):
        recorded(decoder, count)
    decoder(latents(1))
    assert (tapes.recorded, tapes.dropped) == (3, 0)
    decoder(latents(1, side=8))
    assert tapes.dropped == 1, "what is dropped may still run"
    decoder(latents(1))
    assert tapes.recorded == 3
    recorded(decoder, 2)
    assert tapes.recorded == 4


def test_each_thread_makes_its_first_calls_before_it_records_and_replays_what_another_has(
    decoder: Decoder, tapes: Tapes
) -> None:
    """cuDNN has a handle and plans for each thread, which no recording can make."""
    for _ in range(WARM_UPS):
        decoder(latents(1))
    with ThreadPoolExecutor(1) as other:
        for turn in range(WARM_UPS + 2):
            other.submit(decoder, latents(1)).result()
            assert tapes.recorded == (turn >= WARM_UPS)
    asides = tapes.aside_calls
    decoder(latents(1))
    assert (tapes.recorded, tapes.aside_calls) == (1, asides)


def test_what_cannot_be_recorded_now_is_recorded_later(ours: Lcm, decoder: Decoder, tapes: Tapes) -> None:
    tapes.busy = True
    recorded(decoder, 1)
    assert torch.equal(decoder(latents(1)), developed(ours.tiny, torch.stack(latents(1))))
    assert tapes.recorded == 0
    tapes.busy = False
    decoder(latents(1))
    assert tapes.recorded == 1


def test_what_cannot_be_recorded_is_decoded_all_the_same_and_said_once(
    ours: Lcm, decoder: Decoder, tapes: Tapes, caplog: pytest.LogCaptureFixture
) -> None:
    tapes.failing = [RuntimeError("operation not permitted when stream is capturing")]
    with caplog.at_level(logging.WARNING):
        for turn in range(WARM_UPS + 3):
            given = latents(1, seed=turn)
            assert torch.equal(decoder(given), developed(ours.tiny, torch.stack(given)))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1x4x4x4" in caplog.text
    assert tapes.recorded == 0


def test_where_memory_is_short_the_other_recordings_go_and_the_picture_comes(
    ours: Lcm, decoder: Decoder, tapes: Tapes
) -> None:
    recorded(decoder, 1)
    tapes.failing = [RuntimeError(FULL)]
    recorded(decoder, 2)
    assert torch.equal(decoder(latents(2)), developed(ours.tiny, torch.stack(latents(2))))
    assert tapes.dropped == 1
    recorded(decoder, 1)
    assert tapes.recorded == 2, "the first was made again"


def test_relieving_gives_back_every_recording(decoder: Decoder, tapes: Tapes) -> None:
    decoder.relieve()
    assert tapes.dropped == 0, "nothing to wait for"
    recorded(decoder, 1)
    decoder.relieve()
    assert tapes.dropped == 1
    recorded(decoder, 1)
    assert tapes.recorded == 2


def test_large_decoders_and_devices_without_graphs_record_nothing(
    ours: Lcm, pipeline: Any, tapes: Tapes
) -> None:
    for made in (Decoder(pipeline(vae="kl").codec, tapes), Decoder(ours.tiny)):
        recorded(made, 1)
        assert made.stats() == {}
    assert (tapes.recorded, tapes.aside_calls) == (0, 0)


def test_pictures_and_faults_of_a_pipeline_are_those_of_one_that_records_nothing(ours: Lcm) -> None:
    jobs = [Job("the sea", seed, 64, 32, steps=1) for seed in range(3)]
    rows = tiny.drawn(ours, jobs)
    rows[1].latents = torch.full_like(rows[1].latents, torch.inf)
    expected = ours.decode(rows)
    plain, ours.decoders = ours.decoders, {ours.tiny: Decoder(ours.tiny, Tapes())}
    try:
        for _ in range(WARM_UPS + 2):
            found = ours.decode(rows)
            assert [type(one) for one in found] == [type(one) for one in expected]
            for row in (0, 2):
                assert np.array_equal(found[row], expected[row])
        assert ours.stats()["decodes_replayed"] > 0
    finally:
        ours.decoders = plain
