"""SDXL, ControlNets and image prompts on CUDA: recorded as computed, and nobody else's business."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import weights
from engines.backends import make
from engines.backends.program import Batch, Program, Shape, difference
from engines.control import Control
from engines.image_prompt import adapt

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]

DEVICE, HALF = torch.device("cuda"), torch.float16
FEATURES = [(), ("control:edges",), ("ip4",), ("control:edges", "control:pose", "ip4")]


def program(kind: str, time_cond: bool = True, dtype: torch.dtype = HALF) -> Program:
    unet = weights.random_unet(kind, DEVICE, dtype, tiny=True, time_cond=time_cond)
    unet.to(memory_format=torch.channels_last)
    adapt(unet, image_keys(unet))
    nets = {
        name: Control(
            weights.random_controlnet(kind, DEVICE, dtype, tiny=True, seed=seed).to(
                memory_format=torch.channels_last
            )
        )
        for seed, name in enumerate(("edges", "pose"))
    }
    return Program(unet, "v_prediction", None, nets)


def image_keys(unet: torch.nn.Module) -> dict[str, Tensor]:
    generator, state = torch.Generator().manual_seed(1), {}
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(names):
        rows, columns = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for part in ("k", "v"):
            drawn = torch.randn(rows, columns, generator=generator) / columns**0.5
            state[f"{2 * number + 1}.to_{part}_ip.weight"] = drawn
    return state


def shape_of(ours: Program, further: tuple[str, ...], places: int = 4) -> Shape:
    features = tuple(sorted((*ours.features, *further)))
    controlled = 2 if any(name.startswith("control:") for name in further) else 0
    width = ours.unet.config.cross_attention_dim
    return Shape(places, 4, 8, 8, 77, width, features, controlled)


@pytest.mark.parametrize("time_cond", [True, False], ids=["embedded", "cfg"])
@pytest.mark.parametrize("further", FEATURES, ids=str)
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.inference_mode()
def test_a_recorded_call_gives_what_eager_gives(kind: str, further: tuple[str, ...], time_cond: bool) -> None:
    ours = program(kind, time_cond)
    shape = shape_of(ours, further)
    backend = make("eager", ours)
    backend.warm(shape)
    for seed in range(2):
        batch = ours.of(shape).sample(shape, seed)
        slots = backend.slots(shape)
        for slot, tensor in zip(slots, batch, strict=True):
            if slot is not None and tensor is not None:
                slot.copy_(tensor)
        found = backend.step(shape, slots)
        assert found.isfinite().all()
        assert difference(ours.of(shape)(*batch), found) <= 5e-3
    assert backend.stats()["graphs_unfit"] == 0


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.inference_mode()
def test_float32_on_cuda_is_that_of_the_cpu(kind: str) -> None:
    there = program(kind, dtype=torch.float32)
    make("eager", there)  # float32 asked for is float32
    shape = shape_of(there, FEATURES[-1])
    batch = there.of(shape).sample(shape)
    found = there.of(shape)(*batch).cpu()
    here = there.of(shape).cpu()
    here.device = torch.device("cpu")
    moved = Batch(*(None if tensor is None else tensor.cpu() for tensor in batch))
    assert difference(here(*moved), found) <= 1e-4


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.inference_mode()
def test_a_row_without_a_feature_is_bitwise_itself_beside_rows_with_it(kind: str) -> None:
    ours = program(kind)
    plain, full = (shape_of(ours, further) for further in ((), FEATURES[-1]))
    batch = ours.of(full).sample(full)
    batch.strength[3], batch.tokens[2] = 0.0, 0.0  # of these two one has no strength, the other no picture
    batch.scales[2:] = 0.0
    known = ours.empty(plain)
    kept = Batch(*(None if there is None else tensor for tensor, there in zip(batch, known, strict=True)))
    alone, beside = ours(*kept), ours.of(full)(*batch)
    assert torch.equal(beside[2:], alone[2:])
    assert not torch.equal(beside[:2], alone[:2])


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.inference_mode()
def test_a_model_of_published_size_is_alive_in_half_precision(kind: str) -> None:
    unet = weights.random_unet(kind, DEVICE, HALF).to(memory_format=torch.channels_last)
    ours = Program(unet, "epsilon", None)
    shape = Shape(1, 4, 64, 64, 77, unet.config.cross_attention_dim, tuple(sorted(ours.features)))
    one, other = (ours(*ours.sample(shape, seed)) for seed in (1, 2))
    assert one.isfinite().all()
    assert 0.1 < float(one.std()) < 10
    assert difference(one, other) > 0.1
    vae = weights.random_vae("kl", DEVICE, torch.bfloat16, kind=kind)
    decoded = vae.decode(one.to(torch.bfloat16) / vae.config.scaling_factor).sample
    assert decoded.isfinite().all()
    assert float(decoded.float().std()) > 0.05
