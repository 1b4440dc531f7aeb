"""Several processes of one run, each with its own share of every batch:

    torchrun --nproc-per-node 2 -m -- engines.embedded train --preset further ...

On a CPU, two processes of one thread learn faster than one of two threads, whose layers are too small to be
shared. The first process alone keeps checkpoints, draws sheets and says how far it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def join() -> None:
    """Meet the others, where torchrun has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")


def rank() -> int:
    """0 for the first process, and where there is but one."""
    return dist.get_rank() if dist.is_initialized() else 0


def mean_gradients(params: Iterable[Tensor]) -> None:
    """Every process's gradients become the mean over all processes; nothing where there is but one."""
    if not dist.is_initialized():
        return
    given = [p.grad for p in params if p.grad is not None]
    whole = torch.cat([g.flatten() for g in given])
    dist.all_reduce(whole)
    whole /= dist.get_world_size()
    for g, part in zip(given, whole.split([g.numel() for g in given]), strict=True):
        g.copy_(part.view_as(g))


def agreed(value: float) -> float:
    """The first process's value: clocks differ, and all must stop after the same step."""
    if not dist.is_initialized():
        return value
    told = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(told, 0)
    return float(told)
