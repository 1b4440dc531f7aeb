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
from torch import Generator


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
    process's CPU time spent in this stage over all its runs.
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
    ):
        self.folder, self.name, self.steps, self.parts = folder, name, steps, parts
        self.rng, self.generator, self.every_s = rng, generator, every_s
        self.step, self.seconds = 0, 0.0
        self.losses: list[tuple[int, float]] = []
        self.path = folder / f"{name}.pt"
        if self.path.exists():
            self._load()

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=False)
        for key, part in self.parts.items():
            part.load_state_dict(state["parts"][key])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.rng.setstate(state["rng"])
        self.generator.set_state(state["generator"])

    def save(self) -> None:
        state = {
            "parts": {key: part.state_dict() for key, part in self.parts.items()},
            "step": self.step,
            "seconds": self.seconds,
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

    def run(self, take: Callable[[int], float], look: Callable[[int], None] | None = None) -> None:
        """Call `take(step)` for every step left (it returns the loss). `look(step)` follows a checkpoint."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        saved = spoken = time.monotonic()
        cpu, total, count = time.process_time(), 0.0, 0
        with Progress(*columns, TextColumn("{task.fields[loss]}")) as progress:
            bar = progress.add_task(self.name, total=self.steps, completed=self.step, loss="")
            began, first = time.monotonic(), self.step
            while not self.done:
                total, count = total + take(self.step), count + 1
                self.step += 1
                if count == 20 or self.done:
                    self.losses.append((self.step, total / count))
                    total, count = 0.0, 0
                    progress.update(bar, completed=self.step, loss=f"loss {self.losses[-1][1]:.4f}")
                now = time.monotonic()
                if not progress.console.is_terminal and now - spoken > 20 and self.losses:
                    spoken, pace = now, (now - began) / (self.step - first)
                    left = (self.steps - self.step) * pace / 60
                    recent = sum(v for _, v in self.losses[-10:]) / len(self.losses[-10:])
                    print(
                        f"{self.name} {self.step}/{self.steps} loss {recent:.4f}, {left:.1f} min left",
                        flush=True,
                    )
                if now - saved > self.every_s or self.done:
                    used = time.process_time()
                    self.seconds, cpu = self.seconds + used - cpu, used
                    self.save()
                    if look is not None:
                        look(self.step)
                    saved, cpu = time.monotonic(), time.process_time()
