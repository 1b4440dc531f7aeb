"""Several processes of one run: one batch between them, one clock, one set of checkpoints."""

from random import Random

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from engines.embedded.loop import Loop
from engines.embedded.optimiser import Pair
from engines.embedded.presets import SMOKE
from engines.embedded.together import agreed, mean_gradients, rank
from engines.embedded.training import dice

STEPS = 4


def linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(24, 24)


def pictures(which: int) -> torch.Tensor:
    return torch.randn(8, 24, generator=torch.Generator().manual_seed(which))


def learnt(layer: torch.nn.Linear, optimiser: Pair, batch: torch.Tensor) -> torch.Tensor:
    loss = (layer(batch) - batch).square().mean()
    loss.backward()
    optimiser.at(1e-2)
    optimiser.step()
    return loss.detach()


def work(which: int, folder, count: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/met", rank=which, world_size=count)
    layer = linear()
    optimiser = Pair([layer])
    for step in range(STEPS):
        learnt(layer, optimiser, pictures(10 * step + which))
    weight = layer.weight.detach().clone()

    own = folder / f"own{which}"
    own.mkdir()
    # Clocks that differ: left to themselves the second would go on for long after the first.
    stage = Loop(own, "stage", 1, {"layer": layer}, *dice(SMOKE, 1), budget_s=0.05 if which == 0 else 3.0)
    looks = []
    stage.run(lambda step, progress: torch.zeros(()), looks.append)
    drawn = float(dice(SMOKE, 1)[0].random())
    kept = (own / "stage.pt").exists()
    found = {"weight": weight, "steps": stage.step, "looks": len(looks), "kept": kept, "drawn": drawn}
    torch.save(found, folder / f"found{which}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(150)  # each process imports torch
def test_processes_learn_as_one_and_stop_together_and_the_first_keeps_the_checkpoints(tmp_path):
    processes.spawn(work, (tmp_path, 2), nprocs=2)
    first, second = (torch.load(tmp_path / f"found{which}.pt") for which in (0, 1))

    assert torch.equal(first["weight"], second["weight"])
    alone = linear()
    optimiser = Pair([alone])
    for step in range(STEPS):
        learnt(alone, optimiser, torch.cat([pictures(10 * step + which) for which in (0, 1)]))
    torch.testing.assert_close(alone.weight.detach(), first["weight"], atol=2e-3, rtol=0)  # Muon: bfloat16

    assert first["steps"] == second["steps"] > 0
    assert (first["kept"], first["looks"] > 0) == (True, True)
    assert (second["kept"], second["looks"]) == (False, 0)
    assert first["drawn"] != second["drawn"], "each draws pictures of its own"


def test_one_process_is_the_first_and_agrees_with_itself():
    layer = linear()
    layer.weight.grad = torch.ones_like(layer.weight)
    mean_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))
    assert (rank(), agreed(0.25)) == (0, 0.25)
    assert dice(SMOKE, 1)[0].random() == Random(SMOKE.seed + 1).random()
