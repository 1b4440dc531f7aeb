"""Random models have the sizes of the published ones, and arithmetic in them stays alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionXLPipeline
from PIL import Image

from bench import weights
from bench.compare import COLOURS, coloured, pixels
from bench.inside import pipeline
from bench.subject import Subject
from engines.pixels import written
from engines.vae import Vae, levels

pytestmark = pytest.mark.timeout(60)  # imports of torch and diffusers, on a busy machine

CPU, META = torch.device("cpu"), torch.device("meta")
HALF = torch.float16


def millions(module: Any) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("kind", "unet", "controlnet", "text"),
    [("sd15", 859.6, 361.3, [123]), ("sdxl", 2567.5, 1251, [123, 695])],
)
def test_sizes_are_those_of_the_published_models(
    kind: str, unet: float, controlnet: float, text: list[float]
) -> None:
    assert millions(weights.random_unet(kind, META, HALF)) == pytest.approx(unet, abs=0.1)
    assert millions(weights.random_controlnet(kind, META, HALF)) == pytest.approx(controlnet, abs=0.6)
    assert millions(weights.random_vae("kl", META, HALF, kind=kind)) == pytest.approx(83.7, abs=0.1)
    encoders = weights.random_text_encoders(kind, META, HALF)
    assert [millions(encoder) for encoder in encoders] == [pytest.approx(size, abs=0.5) for size in text]


def test_a_tiny_autoencoder_has_the_published_size() -> None:
    assert millions(weights.random_vae("tiny", META, HALF)) == pytest.approx(2.45, abs=0.01)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_no_weight_is_zero_and_the_seed_decides(kind: str) -> None:
    made = [
        weights.random_unet(kind, CPU, HALF, tiny=True),
        weights.random_controlnet(kind, CPU, HALF, tiny=True),
        weights.random_vae("kl", CPU, HALF, kind=kind, tiny=True),
        weights.random_vae("tiny", CPU, HALF, tiny=True),
        *weights.random_text_encoders(kind, CPU, HALF, tiny=True),
    ]
    for module in made:
        for name, parameter in module.named_parameters():
            assert parameter.dtype == HALF
            assert parameter.isfinite().all(), name
            assert parameter.float().abs().mean() > 0, name
    one, same, other = (weights.random_unet(kind, CPU, HALF, tiny=True, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.conv_out.weight, same.conv_out.weight)
    assert not torch.equal(one.conv_out.weight, other.conv_out.weight)


@pytest.mark.parametrize(
    ("kind", "oracle"), [("sd15", LatentConsistencyModelPipeline), ("sdxl", StableDiffusionXLPipeline)]
)
@pytest.mark.parametrize("vae", ["kl", "tiny"])
def test_a_checkpoint_is_a_model_to_diffusers_and_its_pictures_are_alive(
    tmp_path: Path, kind: str, oracle: Any, vae: str
) -> None:
    folder = weights.random_checkpoint(tmp_path, kind, tiny=True, vae=vae)
    assert (folder / "vae_tiny").is_dir() is (vae == "kl")
    pipe = oracle.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    seen = []
    for prompt in ("a", "b"):
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "guidance_scale": 1.0, "width": 64, "height": 64}
        seen.append(pipe(prompt, **options, generator=generator, output_type="pt").images)
    for image in seen:
        assert image.isfinite().all()
        assert image.std() > 0.02
    assert (seen[0] - seen[1]).abs().mean() > 1e-4, "the prompt reaches the picture"


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """Latents of a picture of 512 px, as a random UNet leaves them after four steps: [1, 4, 64, 64]."""
    subject = Subject("sd15", CPU, torch.float32, tiny=True, side=512)
    engine = pipeline(subject, max_batch=1)
    (row,) = engine.rows(subject.job(0, 4), None)
    for _ in range(4):
        engine.step([row], 1)
    return row.latents[None]


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize(("layout", "tiny"), [("tiny", False), ("tiny", True), ("kl", True)])
def test_a_random_picture_compresses_as_an_ordinary_one(
    drawn: torch.Tensor, layout: str, tiny: bool, seed: int
) -> None:
    vae = Vae(weights.random_vae(layout, CPU, torch.float32, tiny=tiny, seed=seed), 8)
    picture = levels(vae.decode(drawn))[0].numpy()
    # 34 to 40 kB is what libjpeg-turbo makes of photographs of this size; noise of full contrast is 170 kB.
    assert 0.1 < len(written(Image.fromarray(picture), "jpeg")) / 512**2 < 0.25
    assert (abs(picture.astype(float).mean((0, 1)) - 128) < 32).all(), "grey, not black or white"


def test_what_two_users_asked_for_can_be_told_apart() -> None:
    subject = Subject("sd15", CPU, torch.float32, tiny=True)
    engine = pipeline(subject, max_batch=2)
    jobs = [coloured(subject, owner) for owner in COLOURS]
    rows = [engine.rows(job, engine.decode_inputs(job))[0] for job in jobs]
    for _ in range(rows[0].steps):
        engine.step(rows, 2)
    together = [engine.encode(row, engine.decode([row])[0], row.job)[0] for row in rows]
    alone = engine.rows(jobs[0], engine.decode_inputs(jobs[0]))[0]
    for _ in range(alone.steps):
        engine.step([alone], 1)
    mine, other = (pixels(file) for file in together)
    found = pixels(engine.encode(alone, engine.decode([alone])[0], alone.job)[0])
    assert np.abs(found - other).mean() > 5 * np.abs(found - mine).mean()
