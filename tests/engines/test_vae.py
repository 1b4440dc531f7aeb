from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Generator

from tests.engines import tiny

PIXELS = np.asarray(Image.open(io.BytesIO(tiny.picture(1))))


@pytest.mark.parametrize("kind", ["tiny", "kl"])
def test_encoding_and_sampling_are_those_of_diffusers(pipeline: Any, kind: str) -> None:
    codec = pipeline(vae=kind).codec
    with torch.inference_mode():
        told = codec.module.encode(VaeImageProcessor().preprocess(Image.fromarray(PIXELS)))
        drawn = Generator().manual_seed(9)
        expected = told.latents if kind == "tiny" else told.latent_dist.sample(drawn)
    generator = Generator().manual_seed(9)
    latents = codec.sample(codec.encode(PIXELS), generator)
    assert torch.equal(latents, codec.factor * expected[0])
    untouched = torch.equal(generator.get_state(), Generator().manual_seed(9).get_state())
    assert untouched is (kind == "tiny")  # a tiny VAE leaves the row's draws alone


@pytest.mark.parametrize("kind", ["tiny", "kl"])
def test_decoding_divides_by_the_scaling_factor(pipeline: Any, kind: str) -> None:
    codec = pipeline(vae=kind).codec
    latents = torch.randn(1, 4, 8, 8, generator=Generator().manual_seed(1))
    with torch.inference_mode():
        expected = codec.module.decode(latents / codec.module.config.scaling_factor).sample
    assert torch.equal(codec.decode(latents), expected)
    assert codec.factor not in (0, 1)
