"""Contact sheets of the exam's pictures, for the model card: rows of tiles under their titles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bench.exam.editing import Filling, Sweep
from bench.exam.eye import shrunk
from bench.exam.order import image
from bench.exam.papers import Question, kind_of

GAP, LINE, LINES = 6, 11, 4
TILE = 144
"""Pixels a side of a tile at most: a sheet is read at a glance, and kept in a repository."""


def sheet(pictures: Sequence[Tensor], titles: Sequence[str], columns: int) -> Image.Image:
    """[3, S, S] in 0..1 each, in rows of `columns`, each over its title in at most LINES lines."""
    pictures = [shrunk(p.unsqueeze(0), min(TILE, p.shape[-1]))[0] for p in pictures]
    side = pictures[0].shape[-1]
    text = LINE * max(len(_wrapped(title, side)) for title in titles) + 3
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + text + GAP) + GAP), "white")
    pen = ImageDraw.Draw(whole)
    for index, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left, top = GAP + index % columns * (side + GAP), GAP + index // columns * (side + text + GAP)
        whole.paste(image(picture), (left, top))
        for row, line in enumerate(_wrapped(title, side)):
            pen.text((left, top + side + 1 + LINE * row), line, fill="black")
    return whole


def _wrapped(title: str, width: int) -> list[str]:
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:LINES]


def answers(questions: Sequence[Question], pictures: Tensor, kinds: Sequence[str], count: int) -> Image.Image:
    """The first `count` pictures whose question is of one of the kinds, six in a row."""
    rows = [i for i, q in enumerate(questions) if kind_of(q.scene) in kinds]
    rows = rows[:: max(1, len(rows) // count)][:count]
    return sheet([pictures[i] for i in rows], [questions[i].prompt for i in rows], 6)


def styles(questions: Sequence[Question], pictures: Tensor, each: int = 3) -> Image.Image:
    """`each` pictures of every style asked for, a style to two rows' worth of tiles."""
    by_style: dict[str, list[int]] = {}
    for row, question in enumerate(questions):
        if question.scene.style is not None:
            by_style.setdefault(question.scene.style, []).append(row)
    rows = [row for style in sorted(by_style) for row in by_style[style][:each]]
    return sheet([pictures[i] for i in rows], [questions[i].prompt for i in rows], 2 * each)


def steps(questions: Sequence[Question], by_steps: dict[int, Tensor], count: int = 8) -> Image.Image:
    """The same questions and seeds at every number of steps, a row each."""
    rows = list(range(0, len(questions), max(1, len(questions) // count)))[:count]
    tiles = [by_steps[n][i] for n in by_steps for i in rows]
    titles = [f"{n} step{'s' * (n > 1)}: {questions[i].prompt}" for n in by_steps for i in rows]
    return sheet(tiles, titles, len(rows))


def strengths(swept: Sweep, at: Sequence[float], count: int = 2) -> Image.Image:
    """A drawing and what becomes of it by strength, a row for each of `count` drawings and each task."""
    tiles, titles = [], []
    for row in range(min(count, len(swept.drawings))):
        for task, pictures in swept.pictures.items():
            tiles += [swept.drawings[row], *pictures[row]]
            titles += [f"{swept.prompts[task][row]}", *(f"strength {s:g}" for s in at)]
    return sheet(tiles, titles, 1 + len(at))


def masks(filled: Filling, count: int = 6) -> Image.Image:
    """Source, mask, the answer, and the answer when only the mask may change; a row each."""
    tiles, titles = [], []
    for row in range(min(count, len(filled.sources))):
        source, mask = filled.sources[row], filled.masks[row]
        shown = torch.lerp(source, torch.ones(3, 1, 1), 0.75 * mask)
        tiles += [source, shown, filled.pictures[False][row], filled.pictures[True][row]]
        titles += ["source", "mask", filled.prompts[row], "inpaint_mask_only"]
    return sheet(tiles, titles, 8)


def save(sheets: dict[str, Image.Image], folder: Path) -> list[str]:
    """JPEG files by name, colours at full resolution; what they are called."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, whole in sheets.items():
        whole.save(folder / f"{name}.jpg", quality=90, subsampling=0, optimize=True)
    return [f"{name}.jpg" for name in sheets]
