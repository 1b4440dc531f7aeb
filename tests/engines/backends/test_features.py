"""Every feature a call can have, read as a compiler reads it, here and in the process that builds."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from engines.backends import builds
from engines.backends.code import MOST_CONSTANTS, _inputs
from engines.backends.program import Program, Shape, difference
from engines.control import Control
from engines.image_prompt import adapt
from tests.engines import tiny

PLAIN = Shape(3, 4, 8, 8, 77, tiny.WIDTH, features=("embedded",))


def program(lcm: bool, xl: bool, image: bool) -> Program:
    unet = tiny.unet(lcm, xl).eval().requires_grad_(False)
    if image:
        adapt(unet, tiny.image_keys(unet))
    nets = {name: Control(tiny.controlnet(xl, seed).eval()) for seed, name in ((8, "edges"), (9, "pose"))}
    return Program(unet, "v_prediction", None, nets)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("lcm", "xl", "features"),
    [
        (True, False, ("ip4",)),
        (False, False, ("control:edges", "control:pose", "ip4")),
        (True, True, ("control:pose",)),
        (False, True, ("ip4",)),
    ],
    ids=["embedded image", "cfg two nets image", "xl net", "xl cfg image"],
)
def test_a_program_with_features_is_exported_and_travels(
    lcm: bool, xl: bool, features: tuple[str, ...]
) -> None:
    ours = program(lcm, xl, "ip4" in features)
    controlled = 2 if any(name.startswith("control:") for name in features) else 0
    text = ours.unet.config.cross_attention_dim
    shape = dataclasses.replace(
        PLAIN, features=tuple(sorted({*ours.features, *features})), controlled=controlled, text=text
    )
    one = ours.of(shape)
    batch = {name: tensor for name, tensor in one.sample(shape)._asdict().items() if tensor is not None}
    with torch.no_grad():
        exported = torch.export.export(one, (), batch, strict=False)
        assert difference(one(**batch), exported.module()(**batch)) < 1e-6
    inputs, constants = _inputs(exported)
    assert [name for kind, name in inputs if kind == "input"] == list(batch)
    assert sum(tensor.nbytes for tensor in constants.values()) < MOST_CONSTANTS

    taken, there, _ = builds._taken(builds._request(ours, shape, "default"))
    assert there == shape
    assert taken.of(shape).layout() == one.layout()
    with torch.inference_mode():
        assert taken.of(shape)(*taken.of(shape).sample(shape)).isfinite().all()
