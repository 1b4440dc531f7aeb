"""Image prompts: as diffusers' IP-Adapters see them, with a strength of its own for every row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Generator, Tensor

from engines import model
from engines.denoiser import LcmRow, Shown
from engines.image_prompt import adapt
from engines.lcm import Lcm
from engines.messages import Job
from tests.engines import tiny
from tests.engines.oracle import call, oracle

CPU = torch.device("cpu")
CLIP = 48  # width of what an image encoder says
JOB = Job("the sea", 1, 64, 64, steps=2, guidance=1.6)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"lcm": False, "lora": True},
    {"xl": True},
    {"xl": True, "lcm": False, "lora": True},
]
IDS = ["sd15", "sd15-cfg", "sdxl", "sdxl-cfg"]


def adapter(unet: Any) -> dict[str, dict[str, Tensor]]:
    """A published file of the first kind: a linear projection to four tokens, and keys and values."""
    width, draw = unet.config.cross_attention_dim, Generator().manual_seed(4)
    projection = {
        "proj.weight": torch.randn(4 * width, CLIP, generator=draw) / CLIP**0.5,
        "proj.bias": 0.1 * torch.randn(4 * width, generator=draw),
        "norm.weight": 1 + 0.1 * torch.randn(width, generator=draw),
        "norm.bias": 0.1 * torch.randn(width, generator=draw),
    }
    return {"image_proj": projection, "ip_adapter": tiny.image_keys(unet)}


@pytest.fixture(scope="session")
def adapted(folder: Any) -> Any:
    """adapted(xl=..., ...): (an Lcm with an adapter, diffusers' pipeline with the same one); shared."""
    made: dict[Any, tuple[Lcm, Any]] = {}

    def find(**options: Any) -> tuple[Lcm, Any]:
        key = tuple(sorted(options.items()))
        if key not in made:
            torch.set_num_threads(1)  # as Lcm.load
            path = folder(**options)
            ours = Lcm(device="cpu", max_batch=16)
            ours.at, ours.precision = CPU, torch.float32
            loaded = model.load(str(path), CPU, torch.float32, "auto", "", lambda *_: None)
            ours.take(loaded)
            state = adapter(loaded.unet)
            adapt(loaded.unet, state["ip_adapter"])
            base = LatentConsistencyModelPipeline if options.get("lcm", True) else StableDiffusionPipeline
            kind = StableDiffusionXLPipeline if options.get("xl") else base
            pipe = oracle(kind, path, "lora" in options, fresh=True)
            pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
            made[key] = ours, pipe
        return made[key]

    return find


def seen(seed: int) -> Tensor:
    """[1, 1, CLIP], what an image encoder says of a picture."""
    return torch.randn(1, 1, CLIP, generator=Generator().manual_seed(seed))


def shown(pipe: Any, picture: Tensor, strength: float) -> Shown:
    layer = pipe.unet.encoder_hid_proj.image_projection_layers[0]
    if pipe.unet.config.time_cond_proj_dim is not None:
        tokens = layer(picture[0])[0].detach()
        return Shown(tokens, torch.zeros_like(tokens), torch.full((1, 1), strength))
    # Both in one call, as there: a product of two rows rounds otherwise than two of one.
    negative, tokens = layer(torch.cat([torch.zeros_like(picture[0]), picture[0]])).detach()
    return Shown(tokens, negative, torch.full((1, 1), strength))


def row_of(ours: Lcm, job: Job, picture: Shown | None) -> LcmRow:
    (row,) = ours.rows(job, None)
    row.join(["ip4"])
    row.shown = picture
    return row


def finish(ours: Lcm, rows: list[LcmRow], bucket: int) -> list[Tensor]:
    while live := [row for row in rows if row.position < row.steps]:
        ours.step(live, bucket)
    return [row.latents for row in rows]


@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_a_row_with_a_picture_is_the_stock_pipeline(
    adapted: Any, options: dict[str, Any], strength: float
) -> None:
    ours, pipe = adapted(**options)
    row = row_of(ours, JOB, shown(pipe, seen(1), strength))
    (latents,) = finish(ours, [row], row.slots)
    pipe.set_ip_adapter_scale(strength)
    embeds = seen(1) if row.slots == 1 else torch.cat([torch.zeros_like(seen(1)), seen(1)])
    expected = call(pipe, JOB, ip_adapter_image_embeds=[embeds], width=64, height=64)
    assert (latents - expected).norm() <= 1e-6 * expected.norm()
    (plain,) = finish(ours, ours.rows(JOB, None), row.slots)
    assert torch.equal(latents, plain) is (strength == 0)


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_each_row_of_a_mixed_call_is_what_it_is_alone(adapted: Any, options: dict[str, Any]) -> None:
    ours, pipe = adapted(**options)
    pictures = [shown(pipe, seen(2), 0.3), None, shown(pipe, seen(3), 1.0), shown(pipe, seen(2), 0.0), None]
    jobs = [Job("a hill", seed, 64, 64, steps=1 + seed % 3, guidance=1.0 + seed % 2) for seed in range(5)]
    mixed = finish(ours, [row_of(ours, *given) for given in zip(jobs, pictures, strict=True)], 12)
    for job, picture, latents in zip(jobs, pictures, mixed, strict=True):
        row = row_of(ours, job, picture)
        (alone,) = finish(ours, [row], row.slots)
        assert (latents - alone).norm() <= 1e-5 * alone.norm()


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_no_picture_zero_tokens_and_strength_zero_are_bitwise_no_adapter(
    adapted: Any, pipeline: Any, options: dict[str, Any]
) -> None:
    ours, pipe = adapted(**options)
    bare = finish(pipeline(**options), pipeline(**options).rows(JOB, None), 8)[0]
    some = shown(pipe, seen(1), 0.8)
    zeros = Shown(torch.zeros_like(some.tokens), torch.zeros_like(some.tokens), some.strength)
    none = Shown(some.tokens, some.negative, torch.zeros(1, 1))
    rows = [row_of(ours, JOB, picture) for picture in (None, zeros, none, some)]
    *same, changed = finish(ours, rows, 8)
    assert all(torch.equal(latents, bare) for latents in same)
    assert (changed - bare).norm() > 1e-2 * bare.norm()
    assert torch.equal(finish(ours, ours.rows(JOB, None), 8)[0], bare), "and a lane without the feature"


def test_another_adapter_takes_the_place_of_the_first(folder: Any, pipeline: Any) -> None:
    loaded = model.load(str(folder()), CPU, torch.float32, "auto", "", lambda *_: None)
    adapt(loaded.unet, tiny.image_keys(loaded.unet, seed=1))
    adapt(loaded.unet, tiny.image_keys(loaded.unet, seed=2))
    kinds = {type(one.plain).__name__ for name, one in loaded.unet.attn_processors.items() if "attn2" in name}
    assert kinds == {"AttnProcessor2_0"}


def test_an_adapter_that_does_not_fit_is_refused_in_words(folder: Any) -> None:
    loaded = model.load(str(folder()), CPU, torch.float32, "auto", "", lambda *_: None)
    keys = tiny.image_keys(loaded.unet)
    with pytest.raises(ValueError, match="no image keys or values"):
        adapt(loaded.unet, keys | {"0.to_q_lora.down.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="for 1 cross-attentions, the UNet has"):
        adapt(loaded.unet, {name: keys[name] for name in list(keys)[:2]})
    with pytest.raises(ValueError, match="another kind of UNet"):
        adapt(loaded.unet, {name: weight[:, :8] for name, weight in keys.items()})
    assert not any("plain" in dir(one) for one in loaded.unet.attn_processors.values()), "nothing was changed"
