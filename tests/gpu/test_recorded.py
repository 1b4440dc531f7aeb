"""A training step recorded as a CUDA graph does what it does when run."""

from __future__ import annotations

import copy

import pytest
import torch

from engines.embedded.optimiser import Average, Pair
from engines.embedded.recorded import Recorded

pytestmark = pytest.mark.gpu


def trained(recorded: bool, steps: int = 12) -> tuple[list[float], torch.Tensor, torch.Tensor]:
    """(losses, weight, averaged weight) of a small net that denoises, after `steps`."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(4, 32, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(32, 32, 3, padding=1)
    ).cuda()
    net = net.to(memory_format=torch.channels_last)
    optimiser, average = Pair([net]), Average(net, 0.9)
    generator = torch.Generator("cuda").manual_seed(5)
    slot = torch.zeros(8, 4, 16, 16, device="cuda")

    def work() -> torch.Tensor:
        noise = torch.randn(slot.shape, generator=generator, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = (net(slot + noise).float().mean(1, keepdim=True) - noise).square().mean()
        loss.backward()
        optimiser.step()
        average.update()
        return loss

    learn = Recorded(work, generator) if recorded else lambda: work().detach()
    losses = []
    for step in range(steps):
        optimiser.at(1e-2 / (1 + step))
        average.tick()
        slot.copy_(
            torch.randn(slot.shape, generator=torch.Generator("cuda").manual_seed(step), device="cuda")
        )
        losses.append(float(learn()))
    if recorded:
        assert learn._graph is not None
    return losses, copy.deepcopy(net[2].weight.detach()), average.values[2].clone()


def test_a_recorded_step_learns_what_the_same_step_learns_run_by_python() -> None:
    told, weight, averaged = trained(recorded=False)
    found, same, alike = trained(recorded=True)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(told), rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(same, weight, rtol=0, atol=2e-2)
    torch.testing.assert_close(alike, averaged, rtol=0, atol=2e-2)
    assert len(set(found)) == len(found)  # every replay drew its own noise


def test_the_loss_of_a_step_is_the_callers_to_keep() -> None:
    net = torch.nn.Linear(4, 4).cuda()
    generator = torch.Generator("cuda").manual_seed(1)
    learn = Recorded(lambda: torch.rand((), generator=generator, device="cuda") * net.weight.sum(), generator)
    kept = [learn() for _ in range(8)]
    assert len({float(loss) for loss in kept}) == 8
