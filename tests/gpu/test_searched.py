"""What the lab measures on CUDA: convolutions searched for apart and replayed here; files of usual size."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import weights
from bench.ways import Searched, filled
from engines.backends.code import Code
from engines.backends.program import difference
from engines.pixels import written
from engines.vae import Vae, levels
from tests.engines.backends.small import SHAPE, Inner, program

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]

DEVICE = torch.device("cuda")
BIG = dataclasses.replace(SHAPE, places=4, height=32, width=32)


class Built(Code):
    """Compiled code that is none: what is searched for and captured is the program as torch runs it."""

    def __init__(self) -> None:
        self.eager = program(True, torch.float16, "cuda", width=64)

    def __call__(self, *batch: Tensor | None) -> Tensor:
        advanced: Tensor = self.eager(*batch)
        return advanced


@torch.inference_mode()
def test_a_search_on_its_thread_is_replayed_on_others() -> None:
    code = Built()
    backend = Searched(Inner(code.eager, code), code.eager)
    backend.warm(BIG)
    assert backend.stats()["graphs_recorded"] == 1
    assert not torch.backends.cudnn.benchmark
    found: list[float] = []

    @torch.inference_mode()
    def elsewhere() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for seed in range(3):
                batch = code.eager.sample(BIG, seed)
                slots = backend.slots(BIG)
                assert slots is not None
                made = backend.step(BIG, filled(slots, batch))
                found.append(difference(code.eager(*batch), made))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(found) == 3
    assert max(found) <= 1e-2


@torch.inference_mode()
def test_a_random_picture_compresses_as_an_ordinary_one() -> None:
    vae = Vae(weights.random_vae("tiny", DEVICE, torch.float16), 8)
    latents = weights.SPREAD * torch.randn(1, 4, 64, 64, device=DEVICE)
    picture = levels(vae.decode(latents))[0].cpu().numpy()
    assert 0.1 < len(written(Image.fromarray(picture), "jpeg")) / 512**2 < 0.25
