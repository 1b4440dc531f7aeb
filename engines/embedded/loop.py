"""One stage of training that can stop at any moment: checkpoints, loss curve, progress with time left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from PIL import Image, ImageDraw
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Generator, Tensor

from engines.embedded.together import agreed, rank


class Part(Protocol):
    """Anything a checkpoint holds: a module, an optimiser, an average."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> Any: ...


def draw_curve(losses: list[tuple[int, float]], path: Path) -> None:
    """The loss over steps as a PNG of 480 x 240 pixels, logarithmic upwards."""
    wide, high, edge = 480, 240, 24
    picture = Image.new("RGB", (wide, high), "white")
    pen = ImageDraw.Draw(picture)
    values = torch.tensor([loss for _, loss in losses]).clamp(min=1e-6).log10()
    low, top, last = float(values.min()), float(values.max()) + 1e-6, max(1, losses[-1][0])
    points = [
        (
            edge + (wide - 2 * edge) * step / last,
            high - edge - (high - 2 * edge) * (float(v) - low) / (top - low),
        )
        for (step, _), v in zip(losses, values, strict=True)
    ]
    pen.rectangle((edge, edge, wide - edge, high - edge), outline="silver")
    if len(points) > 1:
        pen.line(points, fill="royalblue", width=2)
    pen.text(
        (edge, 6), f"{path.stem}: {losses[0][1]:.4f} -> {losses[-1][1]:.4f} in {last} steps", fill="black"
    )
    picture.save(path)


class Loop:
    """Runs `steps` optimiser steps and writes `<name>.pt`, `<name>.json` and `<name>.png` into `folder`.

    A run started again continues from the checkpoint, random states included. `seconds` is the
    process's CPU time spent in this stage over all its runs. With `budget_s` the stage ends after so many
    seconds of the clock, whatever number of steps that is: `progress` runs from 0 to 1 either way.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        steps: int,
        parts: dict[str, Part],
        rng: Random,
        generator: Generator,
        every_s: float = 150.0,
        budget_s: float | None = None,
    ):
        self.folder, self.name, self.steps, self.parts = folder, name, steps, parts
        self.rng, self.generator, self.every_s, self.budget_s = rng, generator, every_s, budget_s
        self.step, self.seconds, self.progress = 0, 0.0, 0.0
        self.losses: list[tuple[int, float]] = []
        self.path = folder / f"{name}.pt"
        if self.path.exists():
            self._load()

    @property
    def done(self) -> bool:
        return self.progress >= 1.0

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=False)
        for key, part in self.parts.items():
            part.load_state_dict(state["parts"][key])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.progress = state["progress"]
        self.rng.setstate(state["rng"])
        self.generator.set_state(state["generator"])
        if rank():  # the checkpoint is the first process's: others must not draw what it draws
            self.rng.seed(f"{rank()} {self.step}")
            self.generator.manual_seed(self.rng.getrandbits(32))

    def save(self) -> None:
        state = {
            "parts": {key: part.state_dict() for key, part in self.parts.items()},
            "step": self.step,
            "seconds": self.seconds,
            "progress": self.progress,
            "losses": self.losses,
            "rng": self.rng.getstate(),
            "generator": self.generator.get_state(),
        }
        fresh = self.path.with_suffix(".tmp")
        torch.save(state, fresh)
        fresh.replace(self.path)
        if self.losses:
            record = {
                "stage": self.name,
                "step": self.step,
                "cpu_seconds": round(self.seconds),
                "loss": self.losses,
            }
            self.path.with_suffix(".json").write_text(json.dumps(record))
            draw_curve(self.losses, self.path.with_suffix(".png"))

    def run(self, take: Callable[[int, float], Tensor], look: Callable[[int], None] | None = None) -> None:
        """Call `take(step, progress)` until done; it returns the loss, which is read now and then only,
        so that a GPU need not wait for Python. `look(step)` follows a checkpoint."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        saved = spoken = began = time.monotonic()
        first, before = self.step, self.progress
        cpu, losses = time.process_time(), []
        with Progress(*columns, TextColumn("{task.fields[loss]}"), disable=rank() > 0) as progress:
            bar = progress.add_task(self.name, total=100, completed=100 * self.progress, loss="")
            while not self.done:
                losses.append(take(self.step, self.progress).detach())
                self.step += 1
                if self.budget_s is None:
                    self.progress = self.step / self.steps
                else:
                    passed = (time.monotonic() - began) / max(self.budget_s, 1e-3)
                    self.progress = agreed(min(1.0, before + (1.0 - before) * passed))
                if len(losses) == 20 or self.done:
                    self.losses.append((self.step, float(torch.stack(losses).float().mean())))
                    losses = []
                    said = f"loss {self.losses[-1][1]:.4f}"
                    progress.update(bar, completed=100 * self.progress, loss=said)
                now = time.monotonic()
                if not progress.console.is_terminal and now - spoken > 20 and self.losses and not rank():
                    spoken, gone = now, max(self.progress - before, 1e-6)
                    left = (1.0 - self.progress) * (now - began) / gone / 60
                    pace = (self.step - first) / (now - began)
                    recent = [v for _, v in self.losses[-10:]]
                    print(
                        f"{self.name} {100 * self.progress:.0f} %, step {self.step}, {pace:.1f} a second, "
                        f"loss {sum(recent) / len(recent):.4f}, {left:.1f} min left",
                        flush=True,
                    )
                if now - saved > self.every_s or self.done:
                    used = time.process_time()
                    self.seconds, cpu = self.seconds + used - cpu, used
                    if not rank():
                        self.save()
                        if look is not None:
                            look(self.step)
                    saved, cpu = time.monotonic(), time.process_time()
