"""What a ControlNet and the tokens of a picture cost in a step: the call of an identity app, row for row."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bench import weights
from bench.ceilings import Clock
from bench.gpu.lab import Lab
from bench.ways import Ways
from engines.backends.program import Program
from engines.control import Control
from engines.image_prompt import adapt

TOKENS = 16  # of a face, as InstantID's projection gives them


def control(lab: Lab) -> dict[str, Any]:
    """Milliseconds of a step of one row: plain, with a ControlNet, and with face tokens that it reads, too.

    Changes the model: it has an adapter afterwards.
    """
    subject = lab.subject
    net = weights.random_controlnet(lab.kind, subject.device, subject.dtype, tiny=subject.tiny)
    adapt(subject.unet, adapter(subject.unet))
    nets = {"net": Control(net.to(memory_format=torch.channels_last)), "face": Control(net, "tokens")}
    plain = subject.shape(1)

    def shape(*more: str) -> Any:
        features = tuple(sorted((*plain.features, *more)))
        return dataclasses.replace(plain, features=features, controlled=int(len(more) > 0))

    shapes = {
        "plain": plain,
        "with a ControlNet": shape("control:net"),
        "with a ControlNet and face tokens": shape("control:face", f"ip{TOKENS}"),
    }
    found: dict[str, Any] = {}
    for way in ("eager", "eager+graph") if lab.cuda else ("eager",):
        ways = Ways(Program(subject.unet, subject.scheduler.config.prediction_type, None, nets))
        for name, of in shapes.items():
            with torch.inference_mode():
                run, batch = ways.run(way, of), ways.program.of(of).sample(of)
                seconds = Clock(subject.device).median([lambda run=run, batch=batch: run(batch)], most_s=0.5)
            found[f"{name}, {way}, ms"] = seconds * 1e3
    return found


def adapter(unet: Any) -> dict[str, Any]:
    """Random keys and values for every cross-attention, numbered as in a published file."""
    layers = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    state = {}
    for number, name in enumerate(layers):
        like = unet.get_submodule(name.removesuffix(".processor")).to_k.weight
        for part in "kv":
            drawn = torch.randn_like(like) / like.shape[1] ** 0.5
            state[f"{2 * number + 1}.to_{part}_ip.weight"] = drawn
    return state
