"""Linear layers of one input as one, in exported graphs of real UNets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bench import published
from engines.backends.code import compiled, loaded
from engines.backends.joined import LINEAR, SILU, family, join, lay, whole
from engines.backends.program import Program, difference
from tests.engines.backends.small import SHAPE, program

CPU = torch.device("cpu")


def exported(of: Program) -> tuple[Any, list[tuple[str, str]], dict[str, torch.Tensor]]:
    batch = {name: t for name, t in of.sample(SHAPE)._asdict().items() if t is not None}
    with torch.no_grad():
        graph = torch.export.export(of, (), batch, strict=False)
    kinds = {"PARAMETER": "weight", "BUFFER": "weight", "CONSTANT_TENSOR": "constant", "USER_INPUT": "input"}
    told = [
        (kinds[spec.kind.name], spec.arg.name if spec.kind.name == "USER_INPUT" else spec.target)
        for spec in graph.graph_signature.input_specs
    ]
    return graph.graph_module, told, dict(of.named_parameters()) | graph.constants


def count(graph: Any, target: Any) -> int:
    return sum(node.op == "call_function" and node.target is target for node in graph.graph.nodes)


def bound(graph: Any, inputs: list[tuple[str, str]], state: Any, batch: Any) -> torch.Tensor:
    def given(kind: str, name: str) -> Any:
        if kind == "joined":
            return whole([state[part] for part in name.split()])
        return getattr(batch, name) if kind == "input" else state[name]

    return graph(*[given(*one) for one in inputs])[0]


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_families_are_the_layers_of_diffusers_unets_that_read_the_same(kind: str):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**published.SMALL_UNET[kind])
    found: dict[str, list[str]] = {}
    for name, _ in unet.named_parameters():
        if family(name):
            found.setdefault(family(name), []).append(name)
    attentions = [name for name, module in unet.named_modules() if name.endswith("attn1")]
    residuals = [name for name, module in unet.named_modules() if name.endswith("time_emb_proj")]
    assert attentions
    assert residuals
    for name in attentions:
        assert found.pop(name) == [f"{name}.to_{part}.weight" for part in "qkv"]
    sizes = sorted(len(names) for names in found.values())
    assert sizes == sorted([2 * len(attentions), len(residuals), len(residuals)]), "text, weights, biases"


@pytest.mark.parametrize(
    "name",
    [
        "conv_in.weight",
        "a.attn2.to_q.weight",
        "a.attn1.to_out.0.weight",
        "x.attn2.processor.to_k_ip.0.weight",
    ],
)
def test_others_are_of_no_family(name: str):
    assert family(name) == ""
    assert family(f"unet.down_blocks.0.{name}") == ""


def test_laid_together_they_keep_names_values_and_strides_and_are_read_as_one_without_a_copy():
    of = program()
    before = {name: (p.clone(), p.stride()) for name, p in of.named_parameters()}
    lay(of)
    after = dict(of.named_parameters())
    assert list(after) == list(before)
    for name, (values, strides) in before.items():
        assert torch.equal(after[name], values), name
        assert after[name].stride() == strides
    names = sorted(name for name in after if family(name).endswith("attn1"))[:3]
    read = whole([after[name] for name in names])
    assert torch.equal(read, torch.cat([after[name] for name in names]))
    after[names[1]].fill_(7.0)
    assert read.eq(7.0).any(), "the same memory"


def test_what_lies_together_is_not_moved_again():
    of = program()
    lay(of)
    where = {name: p.data_ptr() for name, p in of.named_parameters()}
    lay(of)
    lay(Program(of.unet, "v_prediction", None))
    assert {name: p.data_ptr() for name, p in of.named_parameters()} == where


def test_weights_laid_by_who_only_infers_can_be_changed_by_who_does_not():
    of = program()
    with torch.inference_mode():
        lay(of)
    with torch.no_grad():
        for parameter in of.parameters():
            parameter.mul_(1.5)
    assert not any(parameter.is_inference() for parameter in of.parameters())


def test_parts_that_lie_elsewhere_are_copied():
    parts = [torch.randn(3, 4), torch.randn(2, 4)]
    read = whole(parts)
    assert torch.equal(read, torch.cat(parts))
    parts[0].zero_()
    assert read[:3].ne(0).all()
    base = torch.randn(8, 4)
    assert torch.equal(whole([base[4:], base[:4]]), torch.cat([base[4:], base[:4]])), "in another order"
    assert torch.equal(whole([base[:2], base[4:6]]), torch.cat([base[:2], base[4:6]])), "with a gap"


@torch.no_grad()
def test_joined_a_unet_has_fewer_products_and_gives_the_same():
    of = program()
    batch = of.sample(SHAPE)
    expected = of(*batch)
    graph, inputs, state = exported(of)
    products, activations = count(graph, LINEAR), count(graph, SILU)
    graph, told = join(graph, inputs, state)
    members = [name.split() for kind, name in told if kind == "joined"]
    weights = [names for names in members if names[0].endswith("weight")]
    assert sorted(map(len, weights)) == [3, 3, 3, 3, 6], "three attentions, as many residual blocks, all text"
    assert count(graph, LINEAR) == products - sum(len(names) - 1 for names in weights)
    assert count(graph, SILU) < activations
    gone = {part for names in members for part in names}
    assert gone.isdisjoint(name for kind, name in told if kind == "weight")
    assert difference(expected, bound(graph, told, state, batch)) < 1e-6


@torch.no_grad()
def test_a_layer_that_reads_something_else_is_left_alone():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn1 = nn.ModuleDict(
                {name: nn.Linear(4, 4, bias=False) for name in ("to_q", "to_k", "to_v")}
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (self.attn1[name] for name in ("to_q", "to_k", "to_v"))
            return q(x) + k(x) + v(x + 1)

    of = Two()
    graph = torch.export.export(of, (torch.randn(2, 4),), strict=False)
    inputs = [
        ("input" if spec.target is None else "weight", spec.target or spec.arg.name)
        for spec in graph.graph_signature.input_specs
    ]
    made, told = join(graph.graph_module, inputs, dict(of.named_parameters()))
    assert [name for kind, name in told if kind == "joined"] == ["attn1.to_k.weight attn1.to_q.weight"]
    assert count(made, LINEAR) == 2


@torch.inference_mode()
def test_compiled_code_reads_the_weights_themselves_and_can_be_kept():
    of = program()
    lay(of)
    code, packed = compiled(of, SHAPE)
    batch = of.sample(SHAPE)
    assert difference(of(*batch), code(*batch)) < 1e-5
    later = loaded(packed, of, SHAPE)
    for name, parameter in of.named_parameters():
        if family(name):
            parameter.mul_(1.5)  # as a LoRA that is fused
    expected = of(*batch)
    assert difference(expected, code(*batch)) < 1e-5
    assert difference(expected, later(*batch)) < 1e-5


def test_another_way_to_join_makes_other_builds(monkeypatch: pytest.MonkeyPatch):
    from engines.backends import code

    before = code.recipe()
    monkeypatch.setattr(code.inspect, "getsource", lambda module: f"other {module.__name__}")
    assert code.recipe() != before
