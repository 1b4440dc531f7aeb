"""Does the picture show what the caption says? Pixel tests against the grammar, on fresh captions."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from diffusers import LatentConsistencyModelPipeline
from torch import Tensor

from engines.embedded.captions import caption
from engines.embedded.render import thing_mask
from engines.embedded.scene import (
    COLOURS,
    GROUNDS,
    PLACES,
    SHAPES,
    SKIES,
    Landscape,
    Still,
    Thing,
    random_scene,
)


def generated(
    pipe: LatentConsistencyModelPipeline,
    prompts: Sequence[str],
    size: int,
    steps: int,
    seed: int,
    guidance: float = 4.0,
    batch: int = 32,
) -> Tensor:
    """[B, 3, size, size] float32 in 0..1, one seed per picture."""
    parts = []
    for at in range(0, len(prompts), batch):
        chunk = list(prompts[at : at + batch])
        generators = [torch.Generator().manual_seed(seed + at + i) for i in range(len(chunk))]
        answer = pipe(
            chunk,
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="pt",
        )
        parts.append(answer.images.float().cpu())
    return torch.cat(parts)


def nearest_colours(picture: Tensor) -> Tensor:
    """Index into COLOURS of the nearest named colour of each pixel: [3, H, W] to [H, W] int64."""
    table = torch.tensor(list(COLOURS.values())).view(-1, 3, 1, 1)
    return (table - picture.unsqueeze(0)).square().sum(1).argmin(0)


def named_colour(pixels: Tensor) -> str:
    """The named colour nearest to the median of [3, N] pixels."""
    return list(COLOURS)[int(nearest_colours(pixels.median(1).values.view(3, 1, 1)))]


def frame_of(picture: Tensor, taken: Tensor) -> Tensor:
    """The pixels [3, N] of the outer eighth that no thing may touch."""
    size = picture.shape[-1]
    edge = torch.ones(size, size, dtype=torch.bool)
    edge[size // 8 : -size // 8, size // 8 : -size // 8] = False
    return picture[:, edge & ~taken]


def foreground(picture: Tensor, thing: Tensor, ground: Tensor) -> Tensor:
    """Where a pixel is nearer to the colour of the thing than to that of the ground: [H, W] bool."""
    away = [(picture - c.view(3, 1, 1)).square().sum(0) for c in (thing, ground)]
    return away[0] < away[1]


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two [H, W] bool masks."""
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def shifted_overlap(mask: Tensor, ideal: Tensor) -> float:
    """The overlap after moving the ideal's centre onto the mask's: place forgiven, shape not."""
    if not mask.any() or not ideal.any():
        return 0.0
    move = [
        round(float(a.float().mean() - b.float().mean()))
        for a, b in zip(mask.nonzero().T, ideal.nonzero().T, strict=True)
    ]
    return overlap(mask, torch.roll(ideal, move, (0, 1)))


def recognised_shape(mask: Tensor, thing: Thing) -> str:
    """The shape whose ideal, at the best of five sizes, covers the mask best."""
    size = mask.shape[-1]
    ideals = {s: thing_mask(Still((Thing(s, thing.colour),), "white"), 0, size) for s in SHAPES}
    area = float(mask.sum())

    def score(ideal: Tensor) -> float:
        scale = (area / float(ideal.sum())) ** 0.5
        best = 0.0
        for factor in (0.92, 1.0, 1.08):
            zoom = torch.nn.functional.affine_grid(
                torch.tensor(
                    [[[1 / (scale * factor), 0, 0], [0, 1 / (scale * factor), 0]]], dtype=torch.float32
                ),
                [1, 1, size, size],
                align_corners=False,
            )
            resized = (
                torch.nn.functional.grid_sample(ideal.float()[None, None], zoom, align_corners=False)[0, 0]
                > 0.5
            )
            best = max(best, shifted_overlap(mask, resized))
        return best

    return max(ideals, key=lambda s: score(ideals[s]))


def still_results(picture: Tensor, scene: Still) -> dict[str, float]:
    """Named colours, place, shape and overlap of one picture of one thing; 1 is right, 0 is wrong."""
    thing, size = scene.things[0], picture.shape[-1]
    ideal = thing_mask(scene, 0, size)
    ground = frame_of(picture, ideal)
    inner = ideal & torch.roll(ideal, (3, 3), (0, 1)) & torch.roll(ideal, (-3, -3), (0, 1))
    pixels = picture[:, inner if inner.any() else ideal]
    mask = foreground(picture, torch.tensor(COLOURS[thing.colour]), ground.median(1).values)
    apart = (picture - ground.median(1).values.view(3, 1, 1)).square().sum(0)
    apart = apart > (apart.quantile(0.995) / 4).clamp(min=0.02)
    anywhere = picture[:, apart]
    near = False
    if mask.any():
        rows, columns = mask.nonzero().float().mean(0).tolist()
        x, y = PLACES[thing.place]
        near = abs(columns / size - x) < 0.1 and abs(rows / size - y) < 0.1
    return {
        "background colour": float(named_colour(ground) == scene.background),
        "object colour at its place": float(named_colour(pixels) == thing.colour),
        "object colour anywhere": float(anywhere.shape[1] > 40 and named_colour(anywhere) == thing.colour),
        "place": float(near),
        "shape": float(mask.any() and recognised_shape(mask, thing) == thing.shape),
        "overlap": overlap(mask, ideal),
    }


def recognised_sky(picture: Tensor) -> str:
    """The sky whose gradient is nearest to the mean colours of the top rows."""
    from engines.embedded.landscape import SKY

    size = picture.shape[-1]
    rows = picture[:, : size // 3].median(2).values
    fall = ((torch.arange(size // 3) + 0.5) / size / 0.66).view(1, -1)
    gap = {}
    for name, (top, low, _) in SKY.items():
        a, b = torch.tensor(top).view(3, 1), torch.tensor(low).view(3, 1)
        gap[name] = float((a + (b - a) * fall - rows).square().mean())
    return min(gap, key=lambda name: gap[name])


def recognised_ground(picture: Tensor, scene: Landscape, references: dict[str, Tensor]) -> str:
    """The ground whose rendered mean colours (same sky, lower half, in four bands) are nearest."""
    bands = ground_bands(picture)
    return min(references, key=lambda name: float((references[name] - bands).square().mean()))


def ground_bands(picture: Tensor) -> Tensor:
    """[3, 5] mean colours of five bands from 45 % of the height to the bottom."""
    size = picture.shape[-1]
    return torch.nn.functional.adaptive_avg_pool2d(picture[:, int(0.45 * size) :], (5, 1))[..., 0]


def ground_references(sky: str, size: int) -> dict[str, Tensor]:
    from engines.embedded.render import render

    generator = torch.Generator().manual_seed(5)
    answer = {}
    for name in GROUNDS:
        pictures = render([Landscape(sky, name)] * 12, size, generator)
        answer[name] = torch.stack([ground_bands(p) for p in pictures]).mean(0)
    return answer


def landscape_results(picture: Tensor, scene: Landscape, references: dict[str, Tensor]) -> dict[str, float]:
    results = {"sky": float(recognised_sky(picture) == scene.sky)}
    if not (scene.ground == "hills" and scene.hill_colour != "green"):
        results["ground"] = float(recognised_ground(picture, scene, references) == scene.ground)
    if scene.light is not None and scene.light_side != "middle":
        upper = picture[:, : int(0.45 * picture.shape[-1])]
        # A sun is the yellowest thing above the horizon (clouds are white); a moon is the brightest.
        upper = upper[1] - upper[2] if scene.light == "sun" else upper[:2].mean(0)
        half = upper.shape[-1] // 2
        left, right = (
            float(part.flatten().topk(60).values.mean()) for part in (upper[:, :half], upper[:, half:])
        )
        results["sun or moon on its side"] = float((left > right) == (scene.light_side == "left"))
    return results


def exam_scenes(count: int, seed: int) -> list[Still | Landscape]:
    """`count` one-thing stills and half as many landscapes, fresh from the grammar: no style, no weather."""
    rng = Random(seed)
    stills: list[Still | Landscape] = []
    lands: list[Still | Landscape] = []
    while len(stills) < count or len(lands) < count // 2:
        scene = random_scene(rng)
        if scene.style is not None:
            continue
        if isinstance(scene, Still):
            if scene.relation is None and len(stills) < count:
                stills.append(scene)
        elif isinstance(scene, Landscape) and scene.weather is None and len(lands) < count // 2:
            lands.append(scene)
    return stills + lands


def evaluate(
    pipe: LatentConsistencyModelPipeline,
    size: int,
    count: int = 96,
    steps: Sequence[int] = (1, 2, 4, 8),
    seed: int = 7001,
    guidance: float = 4.0,
) -> dict[str, dict[str, float]]:
    """{"<n> steps": {measure: mean}} over `count` stills and `count` / 2 landscapes."""
    scenes = exam_scenes(count, seed)
    rng = Random(seed + 1)
    prompts = [caption(scene, rng, plain=True) for scene in scenes]
    references = {sky: ground_references(sky, size) for sky in SKIES}
    table: dict[str, dict[str, float]] = {}
    for n in steps:
        pictures = generated(pipe, prompts, size, n, seed, guidance)
        sums: dict[str, list[float]] = {}
        for picture, scene in zip(pictures, scenes, strict=True):
            if isinstance(scene, Still):
                results = still_results(picture, scene)
                results["overlap > 0.5"] = float(results["overlap"] > 0.5)
            else:
                results = landscape_results(picture, scene, references[scene.sky])
            for key, value in results.items():
                sums.setdefault(key, []).append(value)
        table[f"{n} steps" if n > 1 else "1 step"] = {k: round(sum(v) / len(v), 3) for k, v in sums.items()}
    return table


def as_text(table: dict[str, dict[str, float]]) -> str:
    """A Markdown table: measures down, step counts across."""
    columns = list(table)
    rows = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for measure in table[columns[0]]:
        shown = (
            f"{table[c][measure]:.2f}" if measure == "overlap" else f"{table[c][measure]:.0%}"
            for c in columns
        )
        rows.append(f"| {measure} | {' | '.join(shown)} |")
    return "\n".join(rows)
