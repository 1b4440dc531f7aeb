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

from engines.embedded.together import mean_gradients


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices (singular values about 1): [N, rows, cols], bfloat16 out."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if tall else x


def flat(tensor: Tensor) -> Tensor:
    """[out, ...] as a matrix, columns in the order of memory: no copy of a channels-last convolution."""
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(len(tensor), -1)


def folded(matrix: Tensor, like: Tensor) -> Tensor:
    """The reverse of `flat`."""
    if like.ndim < 4:
        return matrix.view(like.shape)
    out, into, high, wide = like.shape
    return matrix.view(out, high, wide, into).permute(0, 3, 1, 2)


class Muon(torch.optim.Optimizer):
    """Momentum, then one orthogonal step per matrix. Convolutions count as [out, in * kh * kw].

    `lr` is a tensor without dimensions on the parameters' device. Works on lists of tensors throughout, since
    a GPU would wait for the launches of one matrix after another.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: Tensor, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            for p in given:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            grads, means = [p.grad for p in given], [self.state[p]["momentum"] for p in given]
            torch._foreach_lerp_(means, grads, 1 - group["momentum"])
            updates = list(torch._foreach_lerp(grads, means, group["momentum"]))
            alike: dict[tuple[int, int], list[int]] = defaultdict(list)
            for at, p in enumerate(given):
                alike[len(p), p[0].numel()].append(at)
            for (rows, cols), places in alike.items():
                whole = orthogonalised(torch.stack([flat(updates[at]) for at in places])).float()
                whole = whole.mul(group["lr"] * (-0.2 * math.sqrt(max(rows, cols))))
                for at, update in zip(places, whole, strict=True):
                    updates[at] = folded(update, given[at])
            torch._foreach_mul_(given, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(given, updates)


class Pair:
    """Muon and AdamW stepped together, on any device; on a GPU the steps can be recorded as a graph."""

    def __init__(self, modules: Iterable[nn.Module], muon: bool = True):
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
        self.params = matrices + others
        device = self.params[0].device
        self.lr = torch.zeros((), device=device)
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, self.lr))
        if others:
            on_gpu = device.type == "cuda"
            self.parts.append(
                torch.optim.AdamW(
                    others,
                    self.lr if on_gpu else 0.0,
                    betas=(0.9, 0.98),
                    weight_decay=0.0,
                    fused=True,
                    capturable=on_gpu,
                )
            )

    def at(self, lr: float) -> None:
        """The learning rate of the next steps."""
        self.lr.fill_(lr)
        for part in self.parts:
            for group in part.param_groups:
                if group["lr"] is not self.lr:
                    group["lr"] = lr

    def step(self, clip: float = 1.0) -> None:
        mean_gradients(self.params)
        torch.nn.utils.clip_grad_norm_(self.params, clip)
        for part in self.parts:
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict]:
        return [p.state_dict() for p in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
            for group in part.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"] = self.lr  # the one that `at` fills


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
        self.share = torch.zeros((), device=self.values[0].device)

    def tick(self) -> None:
        """One step more: how much of it counts is set here, so that `update` is the same work every time."""
        self.steps += 1
        self.share.fill_(1 - min(self.decay, (1 + self.steps) / (10 + self.steps)))

    @torch.no_grad()
    def update(self) -> None:
        ahead = torch._foreach_sub([p.detach() for p in self.params], self.values)
        torch._foreach_mul_(ahead, self.share)
        torch._foreach_add_(self.values, ahead)

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
