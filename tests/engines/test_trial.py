"""What may be recorded as a CUDA graph: found without CUDA, on a device that has no values to read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from engines.backends.program import Program
from engines.control import Control
from engines.decoder import developed
from engines.image_prompt import adapt
from engines.text import said
from engines.trial import Trial
from engines.vae import Vae
from tests.engines import tiny
from tests.engines.backends.small import SHAPE


def objections(run: Callable[[], Any]) -> list[str]:
    with Trial() as trial, torch.inference_mode():
        run()
    return trial.objections


@pytest.fixture
def given() -> Tensor:
    with torch.inference_mode():  # as slots are
        return torch.ones(4, 4)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda x: x.sum().item(), "reads a value back"),
        (lambda x: bool((x > 0).all()), "reads a value back"),
        (lambda x: torch.equal(x, x), "reads a value back"),
        (lambda x: torch.allclose(x, x), "reads a value back"),
        (lambda x: x.nonzero(), "reads a size back"),
        (lambda x: x[x > 0], "reads a size back"),
        (lambda x: x.masked_select(x > 0), "reads a size back"),
        (lambda x: x.clone().index_put_((x > 0,), x.new_zeros(())), "reads a size back"),
        (lambda x: x.repeat_interleave(x[0].long(), 0), "reads a size back"),
        (lambda x: torch.tensor([1.0, 2.0]), "made of the host's data"),
        (lambda x: torch.tensor(1.0), "made of the host's data"),
        (lambda x: torch.as_tensor([1.0]), "made of the host's data"),
        (lambda x: x.to("meta"), "between cpu and meta"),
        (lambda x: torch.empty(4, 4, device="meta").copy_(x), "between cpu and meta"),
    ],
)
def test_what_waits_for_the_host_or_takes_its_data_is_objected_to(
    run: Callable[[Tensor], Any], why: str, given: Tensor
) -> None:
    found = objections(lambda: run(given))
    assert any(why in objection for objection in found), found


def test_each_objection_is_told_once_and_the_call_is_made_all_the_same(given: Tensor) -> None:
    with Trial() as trial, torch.inference_mode():
        total = sum(given.sum().item() for _ in range(3))
    assert total == 48
    assert trial.objections == ["aten::_local_scalar_dense reads a value back"]


def test_ordinary_operations_pass_and_give_what_they_give_without_it(given: Tensor) -> None:
    def run() -> Tensor:
        order = torch.arange(4, device=given.device)
        mixed = torch.nn.functional.linear(given * 3, given)[order, order.flip(0)]
        return torch.where(mixed > 2, mixed, 0.5).add_(1)

    with torch.inference_mode(), Trial() as trial:
        found = run()
    assert trial.objections == []
    assert torch.equal(found, run())


# ---- what is recorded ----


def there(module: torch.nn.Module) -> Any:
    """On a device apart from the host, in half precision."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            assert tensor.device.type == "cpu", name
        return module.to("meta").half().eval().requires_grad_(False)


@pytest.mark.parametrize("further", [(), ("control:edges", "control:pose", "ip4")], ids=str)
@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("lcm", [False, True])
def test_a_step_can_be_recorded(lcm: bool, xl: bool, further: tuple[str, ...]) -> None:
    unet = tiny.unet(lcm, xl)
    if further:
        adapt(unet, tiny.image_keys(unet))
    nets = {name: Control(there(tiny.controlnet(xl))) for name in ("edges", "pose")}
    ours = Program(there(unet), "v_prediction", 1.0, nets)
    width = unet.config.cross_attention_dim
    features = tuple(sorted((*ours.features, *further)))
    shape = dataclasses.replace(SHAPE, text=width, features=features, controlled=2 if further else 0)
    run = ours.of(shape)
    batch = run.empty(shape)
    assert objections(lambda: run(*batch)) == []


def test_a_tiny_encode_and_a_tiny_decode_can_be_recorded() -> None:
    codec = Vae(there(tiny.tiny_vae()), 8)
    pixels = torch.empty(1, 64, 64, 3, dtype=torch.uint8, device="meta")
    assert objections(lambda: codec._latents(pixels)) == []
    for count in (1, 4):
        latents = torch.empty(count, 4, 8, 8, device="meta")
        assert objections(lambda given=latents: developed(codec, given)) == []


def encoders(end: int) -> list[Any]:
    """Of SDXL but for their size. end: the id that ends a prompt; published configurations say 2, which
    transformers takes for the highest id."""
    config = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    first = CLIPTextModel(CLIPTextConfig(**config, eos_token_id=end))
    second = CLIPTextConfig(**config, eos_token_id=end, projection_dim=32, hidden_act="gelu")
    return [there(first), there(CLIPTextModelWithProjection(second))]


@pytest.mark.parametrize("end", [2, 49407])
def test_text_encoders_can_be_recorded(end: int) -> None:
    first, second = encoders(end)
    ids = torch.empty(2, 77, dtype=torch.int64, device="meta")
    assert objections(lambda: said([first], ids[:1])) == []
    assert objections(lambda: said([first, second], ids)) == []


def test_a_text_encoder_that_reads_a_mask_is_objected_to() -> None:
    words = tiny.tokenizer()
    rows = torch.ones(2, 77, dtype=torch.int64)
    assert objections(lambda: said([tiny.text_encoder(words).eval()], rows)) != []
