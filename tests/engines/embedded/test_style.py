"""Every style leaves its mark on any picture, and leaves the picture recognisable."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from engines.embedded import style
from engines.embedded.evaluate import named_colour
from engines.embedded.render import render, thing_mask
from engines.embedded.scene import COLOURS, SHAPES, STYLES, Still, Thing, attributes, random_scene

SIZE = 96


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rim(picture: Tensor, width: int = 3) -> Tensor:
    """The pixels [3, N] along the border."""
    inside = torch.zeros(picture.shape[1:], dtype=torch.bool)
    inside[width:-width, width:-width] = True
    return picture[:, ~inside]


def bottom(picture: Tensor) -> Tensor:
    """The mean colour of the lowest rows: red, green, blue."""
    return picture[:, -5:].mean((1, 2))


def strength(pixels: Tensor) -> Tensor:
    """Largest less smallest channel of each pixel: 0 for grey, 1 for the purest colours."""
    return pixels.amax(0) - pixels.amin(0)


def is_grey(picture: Tensor) -> bool:
    return bool(strength(picture).mean() < 0.01)


def is_leafy(picture: Tensor) -> bool:
    red, green, blue = rim(picture, 8)
    return bool(((green > red + 0.06) & (green > blue + 0.06) & (green < 0.75)).float().mean() > 0.42)


def is_neon(picture: Tensor) -> bool:
    bright = picture.amax(0)
    dark, lit = rim(picture, 6).amax(0).median() < 0.36, bright.flatten().quantile(0.99) > 0.8
    return bool(dark and lit and bright.median() < 0.46 and strength(picture).flatten().quantile(0.99) > 0.25)


def is_rusty(picture: Tensor) -> bool:
    red, green, blue = bottom(picture)
    return bool(0.3 < red < 0.6 and 2.2 < red / green < 2.8 and blue < 0.12)


def is_snowed(picture: Tensor) -> bool:
    red, green, blue = bottom(picture)
    return bool(0.85 < red < green < blue)


MARKS: dict[str, Callable[[Tensor], bool]] = {
    "watercolor": lambda p: bool(0.87 < rim(p, 2).amin(0).mean() < 0.96 and 0.012 < rim(p, 2).std() < 0.12),
    "neon": is_neon,
    "snow": is_snowed,
    "film noir": lambda p: is_grey(p) and bool(p.mean() < 0.65),
    "line art": lambda p: is_grey(p) and bool(p.median() > 0.9),
    "jungle": is_leafy,
    "mars": is_rusty,
    "vibrant": lambda p: bool(strength(rim(p, 2)).mean() > 0.7 and rim(p, 2).std(1).amin() > 0.3),
}


def pictures_in(look: str | None, count: int = 60) -> Tensor:
    """Stills, groups, clear landscapes and portraits, all in one style."""
    rng = Random(8)
    scenes = [replace(scene, style=look) for scene in (random_scene(rng) for _ in range(2 * count))]
    scenes = [s for s in scenes if attributes(s)["weather"] == "none"][:count]
    return render(scenes, SIZE, generator())


def share(mark: str, pictures: Tensor) -> float:
    return sum(MARKS[mark](p) for p in pictures) / len(pictures)


@pytest.mark.parametrize("look", STYLES)
def test_a_style_shows_on_any_picture(look):
    assert share(look, pictures_in(look)) >= 0.93


@pytest.mark.parametrize("other", [None, *STYLES])
def test_no_other_style_is_taken_for_it(other):
    pictures = pictures_in(other)
    for look in STYLES:
        if look != other:
            assert share(look, pictures) <= 0.15, look


@pytest.mark.parametrize("look", ["watercolor", "snow", "jungle", "mars", "vibrant"])
def test_colours_can_be_named_in_a_style(look):
    pairs = [(a, b) for a in COLOURS for b in COLOURS if a != b]
    scenes = [Still((Thing(SHAPES[i % 6], a, size="big"),), b, style=look) for i, (a, b) in enumerate(pairs)]
    pictures = render(scenes, 64, generator())
    middle = [named_colour(p[:, 26:38, 26:38].flatten(1)) for p in pictures]
    ground = [named_colour(p[:, 10:22, 10:54].flatten(1)) for p in pictures]
    right = [m == a for m, (a, _) in zip(middle, pairs, strict=True)]
    assert sum(right) / len(right) >= 0.88
    right = [g == b for g, (_, b) in zip(ground, pairs, strict=True)]
    assert sum(right) / len(right) >= 0.85


@pytest.mark.parametrize("look", STYLES)
def test_what_was_drawn_can_still_be_seen_in_its_place(look):
    sizes = (Thing("circle", "yellow", size="small"), Thing("circle", "yellow", size="big"))
    small, big = (Still((thing,), "blue", style=look) for thing in sizes)
    first, second = (render([scene] * 8, SIZE, generator(), jitter=0.0) for scene in (small, big))
    changed = (first - second).abs().mean((0, 1))
    between = thing_mask(big, 0, SIZE) & ~thing_mask(small, 0, SIZE)
    assert changed[between].mean() > 0.05
    assert changed[between].mean() > 4 * changed[:10].mean()


def test_the_same_seed_styles_a_picture_the_same_way():
    plain = pictures_in(None, 16)
    looks = [*STYLES, *[None] * 8]
    first, again, other = (style.apply(plain, looks, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first[8:], plain[8:])
    assert all((a - b).abs().mean() > 1e-4 for a, b in zip(first[:8], other[:8], strict=True))
    assert first.min() >= 0
    assert first.max() <= 1
