"""Muon for the weight matrices, AdamW for the rest: fewer samples to the same loss on a small budget.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (momentum orthogonalised
by a quintic Newton-Schulz iteration); the update is scaled to AdamW's root mean square as in Liu et al. 2025,
arXiv 2502.16982, so that both halves share one learning rate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices (singular values about 1): [N, rows, cols], any float dtype."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, then one orthogonal step per matrix. Convolutions count as [out, in * kh * kw]."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[(p.shape[0], p[0].numel())].append(p)
            for (rows, cols), params in alike.items():
                for p in params:
                    if "momentum" not in self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                grads = [p.grad for p in params]
                means = [self.state[p]["momentum"] for p in params]
                # Whole lists at once: a GPU would wait for the launches of one matrix after another.
                torch._foreach_lerp_(means, grads, 1 - group["momentum"])
                updates = torch._foreach_lerp(grads, means, group["momentum"])
                whole = orthogonalised(torch.stack([u.reshape(rows, cols) for u in updates])).float()
                scale = 0.2 * math.sqrt(max(rows, cols)) * group["lr"]
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                turned = [u.view(p.shape) for p, u in zip(params, whole, strict=True)]
                torch._foreach_add_(params, turned, alpha=-scale)


class Pair:
    """Muon and AdamW stepped together. `lr` is set on both before each step."""

    def __init__(self, modules: Iterable[nn.Module], lr: float, muon: bool = True):
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for module in modules:
            embedded = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
            for p in module.parameters():
                if not p.requires_grad:
                    continue
                # Thin matrices (first and last layers) gain nothing from being orthogonal.
                hidden = p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16 and id(p) not in embedded
                (matrices if muon and hidden else others).append(p)
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, lr))
        if others:
            self.parts.append(torch.optim.AdamW(others, lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True))
        self.params = matrices + others

    def step(self, lr: float, clip: float = 1.0) -> None:
        torch.nn.utils.clip_grad_norm_(self.params, clip)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict]:
        return [p.state_dict() for p in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def cosine(
    step: int, progress: float, peak: float, steps: int, warmup: int = 100, floor: float = 0.02
) -> float:
    """Learning rate at `progress` 0..1: up over `warmup` steps, then half a cosine to `floor * peak`.

    The first tenth of `steps` is the longest warm-up.
    """
    ramp = min(1.0, (step + 1) / max(1, min(warmup, steps // 10)))
    return peak * ramp * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Average:
    """Exponential moving average of a module's parameters, with a warm start."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.params = list(module.parameters())
        self.values = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.params], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the live weights; call again to undo."""
        for p, v in zip(self.params, self.values, strict=True):
            kept = p.detach().clone()
            p.copy_(v)
            v.copy_(kept)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the average into a module of the same structure."""
        torch._foreach_copy_(list(module.parameters()), self.values)

    def state_dict(self) -> dict:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        for value, kept in zip(self.values, state["values"], strict=True):
            value.copy_(kept)
