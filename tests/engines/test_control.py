"""ControlNets: as diffusers' pipelines run them, and nobody else's business in a shared call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from torch import Tensor

from engines import model
from engines.backends.program import Batch, Shape
from engines.control import Control
from engines.denoiser import Followed, LcmRow, Shown
from engines.image_prompt import adapt
from engines.lcm import Lcm
from engines.messages import Job
from tests.engines import tiny
from tests.engines.oracle import call, oracle

CPU = torch.device("cpu")
PICTURES = [tiny.picture(seed) for seed in (11, 12)]
PROMPTS = "the sea", "a hill", ""
JOBS = [Job(prompt, seed, 64, 64, steps=2, guidance=1.6) for seed, prompt in enumerate(PROMPTS)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"lcm": False, "lora": True},
    {"xl": True},
    {"xl": True, "lcm": False, "lora": True},
]
IDS = ["sd15", "sd15-cfg", "sdxl", "sdxl-cfg"]


@functools.cache
def nets(xl: bool) -> dict[str, Control]:
    made = {name: tiny.controlnet(xl, seed) for seed, name in ((8, "edges"), (9, "pose"))}
    return {name: Control(net.to(memory_format=torch.channels_last)) for name, net in made.items()}


@pytest.fixture(scope="session")
def controlled(folder: Any) -> Any:
    """controlled(xl=..., ...): an Lcm with two ControlNets, "edges" and "pose"; shared."""
    made: dict[Any, Lcm] = {}

    def find(**options: Any) -> Lcm:
        key = tuple(sorted(options.items()))
        if key not in made:
            found = made[key] = Lcm(device="cpu", max_batch=16)
            torch.set_num_threads(1)  # as Lcm.load
            found.at, found.precision = CPU, torch.float32
            loaded = model.load(str(folder(**options)), CPU, torch.float32, "auto", "", lambda *_: None)
            found.take(dataclasses.replace(loaded, controls=nets(options.get("xl", False))))
        return made[key]

    return find


def tensor(picture: bytes) -> Tensor:
    return torch.from_numpy(np.asarray(tiny.opened(picture)).copy()).permute(2, 0, 1) / 255.0


def row_of(
    ours: Lcm, job: Job, names: Sequence[str] = ("edges",), scales: Sequence[float] | None = (0.7,)
) -> LcmRow:
    """A row in the lane of these ControlNets; without scales it follows none of them."""
    (row,) = ours.rows(job, None)
    row.join(f"control:{name}" for name in names)
    if scales is not None:
        pictures = torch.stack([tensor(picture) for picture in PICTURES[: len(names)]])
        row.followed = Followed(pictures, [torch.tensor(scales)] * job.steps)
    return row


def finish(ours: Lcm, rows: Sequence[LcmRow], bucket: int) -> list[Tensor]:
    while live := [row for row in rows if row.position < row.steps]:
        ours.step(live, bucket)
    return [row.latents for row in rows]


def stock(folder: Path, xl: bool, lora: bool, names: Sequence[str]) -> Any:
    kind = StableDiffusionXLControlNetPipeline if xl else StableDiffusionControlNetPipeline
    return oracle(kind, folder, lora, nets=tuple(nets(xl)[name].net for name in names))


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_a_controlled_row_is_the_stock_pipeline(
    folder: Any, controlled: Any, options: dict[str, Any]
) -> None:
    ours, job = controlled(**options), JOBS[0]
    pipe = stock(folder(**options), options.get("xl", False), "lora" in options, ["edges"])
    row = row_of(ours, job)
    (latents,) = finish(ours, [row], row.slots)
    picture = tiny.opened(PICTURES[0])
    expected = call(pipe, job, image=picture, controlnet_conditioning_scale=0.7, width=64, height=64)
    assert (latents - expected).norm() <= 1e-6 * expected.norm()
    (plain,) = finish(ours, ours.rows(job, None), row.slots)
    assert (latents - plain).norm() > 1e-2 * plain.norm(), "it follows the picture"


@pytest.mark.parametrize("xl", [False, True])
def test_several_nets_are_the_stock_pipeline_of_several(folder: Any, controlled: Any, xl: bool) -> None:
    options = {"xl": True} if xl else {}
    ours, job = controlled(**options), JOBS[1]
    pipe = stock(folder(**options), xl, False, ["edges", "pose"])
    (latents,) = finish(ours, [row_of(ours, job, ("pose", "edges"), (0.7, 0.4))], 1)
    expected = call(
        pipe,
        job,
        image=[tiny.opened(picture) for picture in PICTURES],
        controlnet_conditioning_scale=[0.7, 0.4],
        width=64,
        height=64,
    )
    assert (latents - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_rows_beside_a_controlled_one_are_bitwise_as_in_a_lane_without(
    controlled: Any, options: dict[str, Any]
) -> None:
    ours = controlled(**options)
    alone = finish(ours, [row for job in JOBS for row in ours.rows(job, None)], 8)
    rows = [row_of(ours, JOBS[0], scales=None), row_of(ours, JOBS[1]), row_of(ours, JOBS[2], scales=None)]
    first, followed, last = finish(ours, rows, 8)
    assert torch.equal(first, alone[0])
    assert torch.equal(last, alone[2])
    assert not torch.equal(followed, alone[1])


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_each_row_of_a_mixed_call_is_what_it_is_alone(controlled: Any, options: dict[str, Any]) -> None:
    ours = controlled(**options)
    scales = [(0.7, 0.0), None, (0.2, 1.0), (1.0, 0.5), None]
    jobs = [*JOBS, *(Job("a red circle", seed, 64, 64, steps=1 + seed % 3) for seed in (7, 8))]
    both = "edges", "pose"
    mixed = finish(ours, [row_of(ours, job, both, own) for job, own in zip(jobs, scales, strict=True)], 12)
    for job, own, latents in zip(jobs, scales, mixed, strict=True):
        row = row_of(ours, job, both, own)
        (alone,) = finish(ours, [row], row.slots)
        assert (latents - alone).norm() <= 1e-5 * alone.norm()


def test_a_scale_of_zero_and_a_closed_window_are_no_control(controlled: Any) -> None:
    ours = controlled()
    beside = row_of(ours, JOBS[1]), row_of(ours, JOBS[1])
    zero, closed = row_of(ours, JOBS[0], scales=(0.0,)), row_of(ours, JOBS[0])
    closed.followed = Followed(closed.followed.pictures, [None, None])
    (plain,) = finish(ours, ours.rows(JOBS[0], None), 4)
    assert torch.equal(finish(ours, [zero, beside[0]], 4)[0], plain)
    assert torch.equal(finish(ours, [closed, beside[1]], 4)[0], plain)


def test_a_broken_picture_breaks_its_own_row_only(controlled: Any) -> None:
    ours = controlled()
    rows = [row_of(ours, JOBS[0]), row_of(ours, JOBS[1]), row_of(ours, JOBS[2], scales=None)]
    healthy = finish(ours, [*(row_of(ours, job) for job in JOBS[:2]), *ours.rows(JOBS[2], None)], 4)
    rows[0].followed.pictures[:] = torch.nan
    broken, second, third = finish(ours, rows, 4)
    assert broken.isnan().any()
    assert torch.equal(second, healthy[1])
    assert torch.equal(third, healthy[2])


@pytest.mark.parametrize(
    ("following", "bucket", "size"), [(0, 4, 0), (1, 4, 1), (2, 4, 2), (3, 4, 4), (3, 3, 3), (5, 8, 8)]
)
def test_only_those_that_follow_a_picture_pass_through_the_net(
    controlled: Any, monkeypatch: pytest.MonkeyPatch, following: int, bucket: int, size: int
) -> None:
    ours = controlled()
    passed: list[int] = []
    forward = Control.forward

    def counted(self: Control, latents: Tensor, *rest: Any) -> Any:
        passed.append(len(latents))
        return forward(self, latents, *rest)

    monkeypatch.setattr(Control, "forward", counted)
    jobs = [Job("a", seed, 64, 64, steps=1) for seed in range(bucket)]
    rows = [row_of(ours, job, scales=(0.5,) if at < following else None) for at, job in enumerate(jobs)]
    ours.step(rows, bucket)
    assert passed == ([size] if size else [])


@pytest.mark.parametrize("steady", [True, False])
def test_a_deterministic_engine_makes_calls_of_one_shape_whoever_shares_them(
    controlled: Any, monkeypatch: pytest.MonkeyPatch, steady: bool
) -> None:
    ours = controlled()
    monkeypatch.setattr(ours.denoiser, "steady", steady)
    shapes: list[Shape] = []
    step = ours.denoiser.backend.step
    monkeypatch.setattr(
        ours.denoiser.backend, "step", lambda shape, batch: (shapes.append(shape), step(shape, batch))[1]
    )
    found = []
    for company in ([], [row_of(ours, JOBS[1])], [row_of(ours, JOBS[1], scales=None)] * 2):
        found += finish(ours, [row_of(ours, JOBS[0], scales=None), *company], 4)[:1]
    assert all(torch.equal(latents, found[0]) for latents in found)
    assert {shape.controlled for shape in shapes} == ({4} if steady else {0, 1})


class Slotted:
    """A back end with static slots, which it keeps full of NaN between calls."""

    name = "slotted"

    def __init__(self, inner: Any) -> None:
        self.program = inner
        self.into: dict[Shape, Batch] = {}

    def slots(self, shape: Shape) -> Batch:
        return self.into.setdefault(shape, self.program.of(shape).empty(shape))

    def step(self, shape: Shape, batch: Batch) -> Tensor:
        advanced: Tensor = self.program.of(shape)(*batch)
        for part in batch:
            if part is not None:
                part.fill_(torch.nan if part.is_floating_point() else 0)
        return advanced


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_features_gathered_into_static_slots_come_out_the_same(folder: Any, options: dict[str, Any]) -> None:
    ours = Lcm(device="cpu", max_batch=16)
    ours.at, ours.precision = CPU, torch.float32
    loaded = model.load(str(folder(**options)), CPU, torch.float32, "auto", "", lambda *_: None)
    xl = options.get("xl", False)
    found = nets(xl) | {"pose": Control(nets(xl)["pose"].net, reads="tokens")}
    ours.take(dataclasses.replace(loaded, controls=found))
    adapt(loaded.unet, tiny.image_keys(loaded.unet))
    draw = torch.Generator().manual_seed(1)
    width = tiny.WIDTH + tiny.SECOND * xl

    def rows() -> list[LcmRow]:
        draw.manual_seed(1)
        both = "edges", "pose"
        made = [row_of(ours, JOBS[0], both, (0.6, 0.3)), row_of(ours, JOBS[1], both, None)]
        for row in made:
            row.join(["ip4"])
        tokens = torch.randn(2, 4, width, generator=draw)
        made[0].shown = Shown(tokens[0], tokens[1], torch.full((1, 1), 0.5))
        return made

    expected = finish(ours, rows(), 6)
    slotted = ours.denoiser.backend = Slotted(ours.denoiser.program)
    for one, other in zip(finish(ours, rows(), 6), expected, strict=True):
        assert torch.equal(one, other)
    (shape,) = slotted.into
    assert {"ip4", "control:edges", "control:pose"} <= set(shape.features)
    program = ours.denoiser.program.of(shape)
    assert program(*program.sample(shape)).isfinite().all()


def test_a_lane_names_its_features_in_one_order(controlled: Any) -> None:
    (row,) = controlled().rows(JOBS[0], None)
    bare = row.lane
    row.join(["ip4"])
    row.join(["control:edges", "ip4"])
    assert row.lane == f"{bare}+control:edges+ip4"
    assert row.features == ("control:edges", "ip4")


def test_a_net_that_reads_tokens_sees_them_and_not_the_text(controlled: Any) -> None:
    net = tiny.controlnet()
    told = torch.randn(1, 4, tiny.WIDTH, generator=torch.Generator().manual_seed(3))
    arguments = torch.randn(1, 4, 8, 8), torch.tensor([499.0]), told, torch.rand(1, 3, 64, 64)
    *down, middle = Control(net, "tokens")(*arguments, None)
    expected = net(*arguments, return_dict=False)
    assert torch.equal(middle, expected[1])
    assert all(torch.equal(one, other) for one, other in zip(down, expected[0], strict=True))
