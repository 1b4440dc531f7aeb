"""Scenes with their encoded pictures and captions: drawn once, learned from several times."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Tensor
from transformers import CLIPTokenizer

from engines.embedded.captions import caption, lexicon
from engines.embedded.painters import Feed, paint
from engines.embedded.reading import labels_of
from engines.embedded.render import render
from engines.embedded.scene import SHARES, random_scene
from engines.embedded.vocabulary import token_ids, tokenizer_for

if TYPE_CHECKING:  # painters need no diffusers, and each imports this
    from diffusers import AutoencoderTiny

BLOCK = 50  # scenes drawn at once
CAPTIONS = 6  # ways of saying each scene
GROUP = 5  # blocks encoded at once


class Block(NamedTuple):
    """BLOCK scenes as painted."""

    pictures: Tensor  # [BLOCK, 3, size, size] uint8
    ids: Tensor  # [BLOCK, CAPTIONS, tokens] int16
    labels: Tensor  # [BLOCK, len(ATTRIBUTES)] int8, as labels_of


@functools.cache
def tokenizer(max_tokens: int) -> CLIPTokenizer:
    """The one tokenizer of the grammar; made once in each process."""
    return tokenizer_for(lexicon(), max_tokens)


def drawn(
    size: int, max_tokens: int, shares: Mapping[str, float], rng: Random, generator: Generator
) -> Block:
    scenes = [random_scene(rng, shares=shares) for _ in range(BLOCK)]
    words = [caption(scene, rng) for scene in scenes for _ in range(CAPTIONS)]
    ids = torch.tensor(token_ids(tokenizer(max_tokens), words), dtype=torch.int16)
    pictures = render(scenes, size, generator).mul(255).round().byte()
    return Block(pictures, ids.unflatten(0, (BLOCK, CAPTIONS)), labels_of(scenes).to(torch.int8))


class Pool:
    """Grows as training goes on. Latents are kept in float16 of unit scale (already times scaling_factor).

    Pictures may come before there is a codec; they are encoded when a batch is first asked for.
    """

    def __init__(
        self,
        size: int,
        max_tokens: int,
        rng: Random,
        generator: Generator,
        device: str,
        workers: int,
        shares: Mapping[str, float] = SHARES,
    ):
        self.ae: AutoencoderTiny | None = None  # set once it is trained
        self.device, self.workers = device, workers
        self._draw = functools.partial(drawn, size, max_tokens, shares)
        self._lock = threading.Lock()
        self._waiting: list[Block] = []
        self._feed: Feed | None = None
        self._kept: list[Tensor] = []  # latents, ids, labels, with room for more
        self._count = 0
        self._taken = 0  # scenes in all; some may be on their way from waiting to kept
        self.use(rng, generator)

    def use(self, rng: Random, generator: Generator) -> None:
        """Draw from these from now on: a stage resumes with the chance its checkpoint holds."""
        self.generator = generator
        if self._feed is None:
            self._fresh = paint(self._draw, self.workers, rng, generator)

    latents = property(lambda self: self._column(0))  # [N, 4, h, w] float16
    ids = property(lambda self: self._column(1))  # [N, CAPTIONS, tokens] int16
    labels = property(lambda self: self._column(2))  # [N, len(ATTRIBUTES)] int8

    def _column(self, index: int) -> Tensor:
        return self._kept[index][: self._count] if self._kept else torch.empty(0, device=self.device)

    def __len__(self) -> int:
        """Scenes, encoded or not."""
        with self._lock:
            return self._taken

    def grow(self) -> None:
        """BLOCK new random scenes, drawn here and now."""
        self._keep(next(self._fresh))
        if self.ae is not None:
            self.encode()

    def feed(self, most: int) -> None:
        """Let the workers fill the pool from now on, up to `most` scenes."""
        self._feed = Feed(self._fresh, lambda block: self._keep(block) < most)

    def wait(self, least: int, told: Callable[[int], None], pause_s: float = 0.25) -> None:
        """Until at least `least` scenes are there; `told` hears how many are."""
        while (count := len(self)) < least:
            told(count)
            if self._feed is None:
                self.grow()
            else:
                self._feed.check()
                time.sleep(pause_s)
        told(count)

    def quiet(self) -> AbstractContextManager[object]:
        """Nothing that painters finish is taken in here."""
        return nullcontext() if self._feed is None else self._feed.still

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()

    def _keep(self, block: Block) -> int:
        moved = Block(*(tensor.to(self.device) for tensor in block))
        with self._lock:
            self._waiting.append(moved)
            self._taken += BLOCK
            return self._taken

    @torch.no_grad()
    def encode(self) -> None:
        """Turn all pictures that wait into latents. Needs `ae`."""
        ae = self.ae
        assert ae is not None, "a pool has no latents before it has a codec"
        with self._lock:
            blocks, self._waiting = self._waiting, []
        if not blocks:
            return
        latents = []
        for at in range(0, len(blocks), GROUP):
            pictures = torch.cat([block.pictures for block in blocks[at : at + GROUP]])
            scaled = pictures.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
            told = ae.encoder(scaled).float() * ae.config.scaling_factor
            latents.append(told.half().contiguous())
        ids, labels = (torch.cat([block[column] for block in blocks]) for column in (1, 2))
        self._add([torch.cat(latents), ids, labels])

    def _add(self, fresh: list[Tensor]) -> None:
        count = self._count + len(fresh[0])
        if not self._kept or count > len(self._kept[0]):
            # Twice the room: a GPU's allocator cannot use again what is freed in ever larger pieces.
            wider = [torch.empty(2 * count, *f.shape[1:], dtype=f.dtype, device=f.device) for f in fresh]
            for column, kept in zip(wider, self._kept, strict=False):
                column[: self._count] = kept[: self._count]
            self._kept = wider
        for column, more in zip(self._kept, fresh, strict=True):
            column[self._count : count] = more
        self._count = count

    def batch(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """(latents [count, 4, h, w] float32, caption ids [count, tokens] int64, labels [count, A] int64).

        Drawn with replacement, each with one of its captions.
        """
        if len(self._waiting) > 64 or not self._count:
            self.encode()
        chance, device = self.generator, self.generator.device
        rows = torch.randint(0, self._count, (count,), generator=chance, device=device)
        said = torch.randint(0, CAPTIONS, (count,), generator=chance, device=device)
        rows, said = rows.to(self.device), said.to(self.device)
        return self.latents[rows].float(), self.ids[rows, said].long(), self.labels[rows].long()

    def state_dict(self) -> dict[str, Any]:
        """All that is encoded; workers draw again what waits to be."""
        return {key: getattr(self, key).clone() for key in ("latents", "ids", "labels")}  # not the spare room

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept, self._count, self._waiting = [], 0, []
        self._add([state[key].to(self.device) for key in ("latents", "ids", "labels")])
        self._taken = self._count
