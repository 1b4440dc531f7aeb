"""The whole engine on CUDA against diffusers' pipeline in float32 on the CPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="the engine's messages need msgspec")

import diffusers
import torch
from torch import Generator

from engines.lcm import Lcm
from engines.messages import Job
from tests.engines import tiny

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]

JOBS = [
    Job("the sea", 1, 64, 64, steps=4, guidance=2.0),
    Job("a red circle", 2, 64, 64, steps=2, guidance=1.0),
    Job("a hill at night", 3, 64, 64, steps=1, guidance=6.0),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("model") / "lcm")


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[torch.Tensor]:
    pipe = diffusers.LatentConsistencyModelPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return [
        pipe(
            job.prompt,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance,
            generator=Generator().manual_seed(job.seed),
            output_type="latent",
        ).images
        for job in JOBS
    ]


@pytest.mark.parametrize(
    ("dtype", "least"), [("float16", 35.0), ("bfloat16", 35.0), ("float32", 80.0)], ids=str
)
def test_pictures_are_those_of_diffusers(
    folder: Path, expected: list[torch.Tensor], dtype: str, least: float
) -> None:
    vae = diffusers.AutoencoderTiny.from_pretrained(folder / "vae")
    ours = Lcm(str(folder), device="cuda", dtype=dtype, max_batch=4)
    ours.load(lambda *progress: None)
    for turn in range(3):  # by now the calls of every size are recorded
        rows = tiny.drawn(ours, JOBS)
        for row, theirs in zip(rows, expected, strict=True):
            with torch.no_grad():
                found, wanted = (
                    vae.decode(latents.float().cpu() / vae.config.scaling_factor).sample.clamp(-1, 1)
                    for latents in (row.latents[None], theirs)
                )
            assert psnr(found, wanted) >= least, (turn, row.job.prompt)


def psnr(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """dB, of pixels in -1..1."""
    error = float(((found - wanted) / 2).pow(2).mean())
    return math.inf if error == 0 else -10 * math.log10(error)
