"""Random models have the sizes of the published ones, and arithmetic in them stays alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionXLPipeline

from bench import weights

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
