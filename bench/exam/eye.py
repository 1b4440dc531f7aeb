"""A small network that reads scene words and styles off a picture; trained on renders, never on the model.

`python -m bench.exam.eye` trains it again, from seed 31, in some minutes on one core, and prints how well it
reads renders it has not seen. Every exam measures that again beside its figures, so weights that no longer
fit the renderer show in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from engines.embedded.render import render
from engines.embedded.scene import ATTRIBUTES, Landscape, Scene, attributes, random_scene

SIDE = 64
WEIGHTS = Path(__file__).with_name("eye.safetensors")
SCENE = ("sky", "ground", "hill colour", "light", "light side", "prop", "prop side", "weather")
HEADS = (*SCENE, "style")


class Eye(nn.Module):
    """Pictures [B, 3, SIDE, SIDE] in 0..1 to one row of logits per head and value of ATTRIBUTES."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Sequential(
            *_block(3, 24, 2), *_block(24, 48, 2), *_block(48, 64, 2), *_block(64, 64, 2), nn.Flatten()
        )
        self.hidden = nn.Linear(64 * 16, 128)
        self.heads = nn.ModuleList(nn.Linear(128, len(ATTRIBUTES[head])) for head in HEADS)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        hidden = F.relu(self.hidden(self.seen(pictures * 2 - 1)))
        return [head(hidden) for head in self.heads]

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """The likeliest value of each head for pictures [B, 3, S, S] of any size.

        "none" counts for light, prop, weather and style only: a sky or a side is asked for or not looked at.
        """
        answers = self(shrunk(pictures, SIDE))
        named: list[dict[str, str]] = [{} for _ in pictures]
        for head, logits in zip(HEADS, answers, strict=True):
            first = 0 if head in ("light", "prop", "weather", "style") else 1
            for row, value in zip(named, (logits[:, first:].argmax(1) + first).tolist(), strict=True):
                row[head] = ATTRIBUTES[head][value]
        return named


def _block(channels: int, out: int, stride: int) -> tuple[nn.Module, ...]:
    return (nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def shrunk(pictures: Tensor, side: int) -> Tensor:
    """Pictures [B, 3, S, S] at `side` pixels, each the mean of those it covers."""
    if pictures.shape[-1] == side:
        return pictures
    return F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)


def worn(pictures: Tensor, generator: Generator) -> Tensor:
    """What generated pictures are like beside clean renders: a little blurred, shifted, tinted, noisy."""
    count, _, side, _ = pictures.shape
    soft = F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    share = torch.rand(count, 1, 1, 1, generator=generator) * (
        torch.rand(count, 1, 1, 1, generator=generator) < 0.6
    )
    pictures = torch.lerp(pictures, soft, share)
    tint = 1 + 0.07 * (torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1)
    shade = 0.03 * torch.randn(count, 1, 1, 1, generator=generator)
    noise = 0.03 * torch.rand(count, 1, 1, 1, generator=generator)
    pictures = pictures * tint + shade + noise * torch.randn(pictures.shape, generator=generator)
    reach = max(1, side // 32)
    top, left = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    wide = F.pad(pictures, (reach,) * 4, mode="replicate")
    return wide[:, :, top : top + side, left : left + side].clamp(0, 1)


def lessons(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` rendered scenes [N, 3, SIDE, SIDE] and their answers [N, heads]; -1 where a head is not asked.

    Held-out combinations as often as the grammar has them: the eye must read them as well as any others.
    """
    rng, generator = Random(seed), Generator().manual_seed(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = random_scene(rng, held_out=rng.random() < 0.1)
        if not isinstance(scene, Landscape) and scene.style is None and rng.random() < 0.85:
            continue
        scenes.append(scene)
    pictures = torch.cat([render(scenes[at : at + 128], SIDE, generator) for at in range(0, count, 128)])
    return pictures, answers(scenes)


def answers(scenes: Sequence[Scene]) -> Tensor:
    rows = []
    for scene in scenes:
        asked = attributes(scene)
        plain = isinstance(scene, Landscape) and scene.style is None
        row = [ATTRIBUTES[head].index(asked[head]) if plain else -1 for head in SCENE]
        for side in ("light side", "prop side", "hill colour"):
            if asked[side] == "none":
                row[HEADS.index(side)] = -1
        rows.append([*row, ATTRIBUTES["style"].index(asked["style"])])
    return torch.tensor(rows)


def train(seed: int = 31, rounds: int = 16, count: int = 12_000, batch: int = 64) -> Eye:
    """`rounds` passes over `count` scenes each, drawn anew and worn; prints each. Minutes on one core."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    eye = Eye()
    optimiser = torch.optim.AdamW(eye.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=rounds * (count // batch))
    for passed in range(rounds):
        pictures, wanted = lessons(count, 1000 * seed + passed)
        order, total = torch.randperm(count, generator=generator), 0.0
        for at in range(0, count - batch + 1, batch):
            rows = order[at : at + batch]
            logits = eye(worn(pictures[rows], generator))
            losses = [
                F.cross_entropy(guess, wanted[rows, head], ignore_index=-1)
                for head, guess in enumerate(logits)
                if (wanted[rows, head] >= 0).any()
            ]
            loss = torch.stack(losses).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(f"pass {passed + 1} of {rounds}: loss {total * batch / count:.3f}", flush=True)
    return eye.eval()


def accuracy(eye: Eye, seed: int = 5, count: int = 2000) -> dict[str, float]:
    """The share of unseen renders that each head reads right, of those that it is asked about."""
    pictures, wanted = lessons(count, seed)
    table = torch.tensor([[ATTRIBUTES[h].index(read[h]) for h in HEADS] for read in eye.read(pictures)])
    asked = wanted >= 0
    right = (table == wanted) & asked
    shares = right.sum(0) / asked.sum(0).clamp(min=1)
    return dict(zip(HEADS, shares.tolist(), strict=True))


def load(file: Path = WEIGHTS) -> Eye:
    """The trained eye. Raises FileNotFoundError, and RuntimeError for weights of another network."""
    from safetensors.torch import load_file

    eye = Eye()
    missing, strange = eye.load_state_dict({n: v.float() for n, v in load_file(file).items()}, strict=False)
    if strange or any(not name.endswith("num_batches_tracked") for name in missing):
        raise RuntimeError(f"{file.name} holds another network: train it again")
    return eye.eval()


def save(eye: Eye, file: Path = WEIGHTS) -> None:
    """float16, without the counters that only training needs."""
    from safetensors.torch import save_file

    state = eye.state_dict().items()
    save_file({n: v.half().contiguous() for n, v in state if v.is_floating_point()}, file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    save(train())
    for head, share in accuracy(load()).items():
        print(f"{head}: {share:.1%} right of 2000 unseen renders")
