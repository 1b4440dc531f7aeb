from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Generator

from engines.backends.graphs import WARM_UPS
from engines.vae import Vae
from tests.engines import tiny
from tests.engines.backends.tapes import Tapes

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


@pytest.mark.parametrize("kind", ["tiny", "kl"])
def test_every_level_is_scaled_as_diffusers_scales_it(
    pipeline: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, seen = pipeline(vae=kind).codec, []
    encode = codec.module.encode
    monkeypatch.setattr(codec.module, "encode", lambda scaled: (seen.append(scaled), encode(scaled))[1])
    ramp = np.arange(3 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)
    ramp.setflags(write=False)  # as Pillow's are
    codec.encode(ramp)
    assert torch.equal(seen[0], VaeImageProcessor().preprocess(Image.fromarray(ramp)))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_replayed_encodes_say_what_others_say(pipeline: Any) -> None:
    plain, tapes = pipeline().codec, Tapes()
    codec = Vae(plain.module, plain.scale, tapes)
    for turn in range(WARM_UPS + 3):
        for shape in ((64, 64), (32, 64)):
            pixels = np.random.default_rng(turn).integers(0, 256, (*shape, 3), dtype=np.uint8)
            found, expected = codec.encode(pixels), plain.encode(pixels)
            assert torch.equal(found.mean, expected.mean)
            assert (found.deviation, found.factor) == (None, expected.factor)
    assert codec.encodes.stats() == {"encodes_replayed": 6, "encodes_recorded": 2, "encodes_unfit": 0}


def test_a_kl_encoder_is_not_recorded(pipeline: Any) -> None:
    plain, tapes = pipeline(vae="kl").codec, Tapes()
    codec = Vae(plain.module, plain.scale, tapes)
    for _ in range(WARM_UPS + 2):
        found, expected = codec.encode(PIXELS), plain.encode(PIXELS)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.deviation, expected.deviation)
    assert (tapes.recorded, tapes.aside_calls) == (0, 0)
    assert codec.encodes.stats() == {}
