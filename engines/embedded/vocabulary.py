"""The tokenizer: a CLIPTokenizer whose merges make every word of the grammar one token.

Unknown words fall back to shorter pieces, at worst to single bytes, so any text can be typed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from random import Random

from transformers import CLIPTokenizer

from engines.embedded.captions import caption
from engines.embedded.scene import random_scene

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes of byte-level BPE (Radford et al. 2019, GPT-2), in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def merges_for(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first (ties alphabetically), until each word is one piece.

    Source: Sennrich et al. 2016, arXiv 1508.07909. The last piece of a word carries "</w>", as in CLIP.
    """
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for piece in pieces for pair in itertools.pairwise(piece))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for piece in pieces:
            at = 0
            while at < len(piece) - 1:
                if (piece[at], piece[at + 1]) == best:
                    piece[at : at + 2] = ["".join(best)]
                at += 1


def tokenizer_for(words: Sequence[str], max_tokens: int) -> CLIPTokenizer:
    """A CLIPTokenizer that pads with the end token to `max_tokens`, its model_max_length."""
    characters = byte_characters()
    merges = merges_for(sorted(set(words)))
    tokens = [*characters, *(c + "</w>" for c in characters), *("".join(m) for m in merges), START, END]
    tokens = list(dict.fromkeys(tokens))
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=max_tokens,
    )


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Padded and cut to model_max_length, as the diffusers pipeline does."""
    return tokenizer(list(texts), padding="max_length", truncation=True).input_ids


def sample_captions(count: int, seed: int) -> list[str]:
    """Captions of random scenes, for looking at."""
    rng = Random(seed)
    return [caption(random_scene(rng), rng) for _ in range(count)]
