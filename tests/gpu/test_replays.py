"""Encodes and prompts as CUDA graphs for real: the same numbers, from any thread and stream, beside steps."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("msgspec", reason="the engine's messages need msgspec")

import torch
from torch import Tensor

from engines.backends.eager import Eager
from engines.backends.graphs import WARM_UPS, Cuda, Graphs
from engines.cache import Cache
from engines.decoder import developed
from engines.lcm import Lcm
from engines.messages import Job
from engines.replays import Replays
from engines.text import Text, said
from engines.trial import Trial
from engines.vae import Vae
from tests.engines import tiny
from tests.engines.backends.small import SHAPE, program

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(180)]

DEVICE, HALF = torch.device("cuda"), torch.float16
ROUNDS = 40


def there(module: Any) -> Any:
    return module.to(DEVICE, HALF).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def module() -> Any:
    return there(tiny.tiny_vae())


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Any, Any]]:
    """Tokenizers and encoders, of SDXL but for their size."""
    first, second = tiny.tokenizer(), tiny.tokenizer(pad_token="!")
    return [(first, there(tiny.text_encoder(first))), (second, there(tiny.text_encoder(second, second=True)))]


def picture(seed: int, side: int = 64) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


# ---- nothing waits for the host ----


@contextmanager
def strict() -> Iterator[None]:
    """In here torch raises where it waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def runs(module: Any, pairs: list[tuple[Any, Any]]) -> dict[str, Callable[[], Tensor]]:
    codec, encoders = Vae(module, 8), [encoder for _, encoder in pairs]
    pixels = torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device=DEVICE)
    latents = torch.zeros(2, 4, 8, 8, device=DEVICE)
    ids = torch.ones(2, 77, dtype=torch.int64, device=DEVICE)
    ours = program(True, HALF, "cuda", width=64)
    batch = ours.sample(SHAPE)
    return {
        "encode": lambda: codec._latents(pixels),
        "decode": lambda: developed(codec, latents),
        "prompt": lambda: said(encoders[:1], ids[:1]),
        "prompt of two": lambda: said(encoders, ids),
        "step": lambda: ours(*batch),
    }


@pytest.mark.parametrize("name", ["encode", "decode", "prompt", "prompt of two", "step"])
@torch.inference_mode()
def test_what_is_recorded_waits_for_nothing(name: str, module: Any, pairs: list[tuple[Any, Any]]) -> None:
    run = runs(module, pairs)[name]
    run()  # what is made at first calls is made
    with strict():
        with Trial() as trial:
            watched = run()
        plain = run()
    assert trial.objections == []
    assert off(watched, plain) <= 1e-3, "watching changes nothing"


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor([1.0, 1.0, 1.0, 1.0], device=DEVICE),
        lambda x: x.cpu(),
        lambda x: torch.arange(4.0).to(DEVICE),
    ],
)
@torch.inference_mode()
def test_what_waits_is_objected_to_here_too(run: Callable[[Tensor], Any]) -> None:
    given = torch.ones(4, device=DEVICE)
    with Trial() as trial:
        run(given)
    assert trial.objections != []


def test_what_waits_is_never_recorded_and_later_recordings_come_about() -> None:
    """A recording of it would fail, and this process might record nothing any more."""
    recorder = Cuda(DEVICE)
    wrong = Replays(lambda rows: rows.sum(0) * rows.sum().item(), recorder, "sums")
    rows = [torch.ones(4, device=DEVICE), torch.ones(4, device=DEVICE)]
    for _ in range(WARM_UPS + 3):
        assert (wrong(rows) == 16).all()
    assert wrong.stats() == {"sums_replayed": 0, "sums_recorded": 0, "sums_unfit": 1}
    right = Replays(lambda rows: rows.sum(0), recorder, "sums")
    for _ in range(WARM_UPS + 2):
        assert (right(rows) == 2).all()
    assert right.stats() == {"sums_replayed": 2, "sums_recorded": 1, "sums_unfit": 0}


# ---- numbers ----


@pytest.mark.parametrize("side", [64, 96])
def test_replayed_encodes_say_what_unrecorded_ones_say(module: Any, side: int) -> None:
    plain, codec = Vae(module, 8), Vae(module, 8, Cuda(DEVICE))
    for turn in range(WARM_UPS + 4):
        pixels = picture(turn, side)
        assert off(codec.encode(pixels).mean, plain.encode(pixels).mean) <= 5e-3
    assert codec.encodes.stats() == {"encodes_replayed": 4, "encodes_recorded": 1, "encodes_unfit": 0}


def test_pictures_are_scaled_on_the_device_as_on_the_host(module: Any) -> None:
    """Each level of 255, in half precision: what diffusers' VaeImageProcessor gives."""
    codec = Vae(module, 8)
    seen: list[Tensor] = []
    encode = module.encode
    module.encode = lambda scaled: (seen.append(scaled), encode(scaled))[1]
    try:
        codec.encode(np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3))
    finally:
        del module.encode
    levels = torch.arange(64 * 64 * 3) % 256
    wanted = (2.0 * (levels.float() / 255.0) - 1.0).view(64, 64, 3).permute(2, 0, 1)[None]
    torch.testing.assert_close(seen[0].float().cpu(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_replayed_prompts_say_what_unrecorded_ones_say(pairs: list[tuple[Any, Any]], count: int) -> None:
    plain, text = Text(pairs[:count], Cache(0)), Text(pairs[:count], Cache(0), recorder=Cuda(DEVICE))
    kept = []
    for prompt in ("the sea", "", "a red circle", "night " * 90, "a hill"):
        kept.append((text.embed(prompt, {}), plain.embed(prompt, {})))
    for found, expected in kept:  # nothing is written to what was given away
        for one, other in zip(found.tensors, expected.tensors, strict=True):
            assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
            assert off(one, other) <= 5e-3
    assert text.prompts.stats() == {"prompts_replayed": 3, "prompts_recorded": 1, "prompts_unfit": 0}


# ---- threads and streams ----


def test_threads_on_streams_of_their_own_get_what_is_theirs(
    module: Any, pairs: list[tuple[Any, Any]]
) -> None:
    """Every call is written where the last one is still read, if its turn is not waited for."""
    plain, codec = Vae(module, 8), Vae(module, 8, Cuda(DEVICE))
    text = Text(pairs, Cache(0), recorder=Cuda(DEVICE))
    expected = [plain.encode(picture(seed)).mean for seed in range(4)]
    words = [Text(pairs, Cache(0)).embed(f"a hill {seed}", {}) for seed in range(4)]
    torch.cuda.synchronize()
    barrier, wrong = threading.Barrier(4), []

    def work(seed: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                barrier.wait()
                for _ in range(ROUNDS):
                    found = text.embed(f"a hill {seed}", {})
                    assert off(codec.encode(picture(seed)).mean, expected[seed]) <= 5e-3
                    for one, other in zip(found.tensors, words[seed].tensors, strict=True):
                        assert off(one, other) <= 5e-3
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert codec.encodes.stats()["encodes_recorded"] == 1
    assert text.prompts.stats()["prompts_recorded"] == 1


def test_encodes_and_prompts_are_recorded_while_another_thread_records_and_replays_steps(
    module: Any, pairs: list[tuple[Any, Any]]
) -> None:
    ours = program(True, HALF, "cuda", width=64)
    stop, wrong = threading.Event(), []

    @torch.inference_mode()
    def step() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                places = 0
                while not stop.is_set():
                    places = places % 6 + 1
                    shape = dataclasses.replace(SHAPE, places=places)
                    backend = Graphs(Eager(ours), ours)
                    backend.warm(shape)
                    assert backend.stats()["graphs_recorded"] == 1
                    backend.close()
        except BaseException as error:
            wrong.append(error)

    plain = Vae(module, 8)
    beside = threading.Thread(target=step)
    beside.start()
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            for turn in range(20):
                codec, text = Vae(module, 8, Cuda(DEVICE)), Text(pairs, Cache(0), recorder=Cuda(DEVICE))
                expected = plain.encode(picture(turn)).mean
                for _ in range(WARM_UPS + 3):
                    assert off(codec.encode(picture(turn)).mean, expected) <= 5e-3
                    text.embed("the sea", {})
                assert codec.encodes.stats()["encodes_recorded"] == 1
                assert text.prompts.stats()["prompts_recorded"] == 1
                codec.encodes.relieve()
                text.prompts.relieve()
    finally:
        stop.set()
        beside.join()
    assert not wrong


# ---- the pipeline ----


@pytest.mark.parametrize("xl", [False, True], ids=["sd15", "sdxl"])
def test_a_pipeline_that_has_rehearsed_replays_the_first_frame_on_a_thread_of_its_own(
    xl: bool, tmp_path: Path
) -> None:
    before = torch.cuda.current_stream()
    ours = Lcm(str(tiny.build(tmp_path / "lcm", xl=xl)), device="cuda", max_batch=2, backend="eager")
    try:
        ours.load(lambda *progress: None)
        told = ours.stats()
        assert (told["encodes_recorded"], told["prompts_recorded"]) == (1, 1)
        assert (told["encodes_unfit"], told["prompts_unfit"], told["decodes_unfit"]) == (0, 0, 0)
        job = Job("a hill at night", 5, tiny.SIDE, tiny.SIDE, image=tiny.picture(4), strength=0.5)
        rows: list[Any] = []
        thread = threading.Thread(target=lambda: rows.extend(ours.rows(job, ours.decode_inputs(job))))
        thread.start()
        thread.join()
        later = ours.stats()
        assert later["encodes_replayed"] == told["encodes_replayed"] + 1
        assert later["prompts_replayed"] == told["prompts_replayed"] + 1
        ours._relieve()
        ours.posteriors.budget = ours.text.cache.budget = 0
        again = ours.rows(job, ours.decode_inputs(job))
        assert off(rows[0].latents, again[0].latents) <= 5e-3
        assert off(rows[0].embedding.text, again[0].embedding.text) <= 5e-3
    finally:
        torch.cuda.synchronize()
        torch.cuda.set_stream(before)
