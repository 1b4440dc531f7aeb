"""Prompts to embeddings, as diffusers' pipelines for SD1.5 and SDXL encode them.

Own code because diffusers 0.42 with transformers >= 5.6 cannot (huggingface/diffusers#14124), and to
keep what was encoded: a session that draws sends the same prompt with every frame.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engines.cache import Cache

CUT_CHARS = 40  # of what was not read: enough to find the place


class Embedding(NamedTuple):
    """What a UNet reads of a prompt, on its device and in its dtype. Shared: never write to it."""

    text: Tensor  # [tokens, D]
    pooled: Tensor | None = None  # [P], of SDXL's second encoder
    cut: str = ""  # what of the prompt was not read and why, for its writer: "has 93 tokens, the model ..."

    @property
    def tensors(self) -> list[Tensor]:
        return [self.text] if self.pooled is None else [self.text, self.pooled]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


class Text:
    def __init__(
        self,
        encoders: Sequence[tuple[Any, Any]],
        cache: Cache[Embedding],
        blank: bool = False,
    ) -> None:
        """encoders: transformers' CLIPTokenizer and CLIPTextModel, the latter on its device; SDXL has two
        pairs, and its second model is a CLIPTextModelWithProjection.

        blank: no negative prompt is all zeros, not the empty prompt (force_zeros_for_empty_prompt).
        """
        self.encoders, self.cache, self.blank = list(encoders), cache, blank
        self._one = threading.Lock()  # at a time: a tokenizer is changed by those who use it

    def embed(self, prompt: str, timings: dict[str, float], negative: bool = False) -> Embedding:
        """The prompt is cut at the model's length, which `cut` tells. Adds its seconds to timings["text"].

        Any thread.
        """
        began = time.perf_counter()
        key = prompt, negative and not prompt and self.blank
        embedding = self.cache.get(key)
        if embedding is None:
            with self._one:
                embedding = self._encode(prompt)
            if key[1]:
                embedding = Embedding(*map(torch.zeros_like, embedding.tensors))
            self.cache.put(key, embedding, embedding.nbytes)
        timings["text"] = timings.get("text", 0.0) + time.perf_counter() - began
        return embedding

    def knows(self, prompt: str, negative: bool = False) -> bool:
        """Whether `embed` would be quick."""
        return (prompt, negative and not prompt and self.blank) in self.cache

    @torch.inference_mode()
    def _encode(self, prompt: str) -> Embedding:
        if len(self.encoders) == 1:
            tokenizer, encoder = self.encoders[0]
            ids, attention = _tokens(tokenizer, encoder, prompt)
            hidden: Tensor = encoder(ids, attention_mask=attention)[0]
            return Embedding(hidden[0].to(encoder.dtype), cut=_cut(tokenizer, prompt))
        # Podell et al. 2023 (arXiv 2307.01952): what the last layer but one of each says, side by side.
        texts = []
        for tokenizer, encoder in self.encoders:
            ids, _ = _tokens(tokenizer, encoder, prompt)
            told = encoder(ids, output_hidden_states=True)
            texts.append(told.hidden_states[-2])
        pooled: Tensor = told.text_embeds[0]
        cuts = (_cut(tokenizer, prompt) for tokenizer, _ in self.encoders)
        return Embedding(torch.cat(texts, dim=-1)[0], pooled, next(filter(None, cuts), ""))


def _cut(tokenizer: Any, prompt: str) -> str:
    """As Embedding.cut. Tokens count the two that mark the beginning and the end."""
    whole = tokenizer(prompt, return_offsets_mapping=True, verbose=False)
    count, limit = len(whole.input_ids), tokenizer.model_max_length
    if count <= limit:
        return ""
    start, _ = whole.offset_mapping[limit - 1]  # in its place stands the end
    rest = " ".join(prompt[start:].split())
    rest = rest.lstrip(",.;: ") or rest
    shown = rest if len(rest) <= CUT_CHARS else rest[:CUT_CHARS] + "…"
    return f"has {count} tokens, the model reads {limit}: '{shown}' was not read"


def _tokens(tokenizer: Any, encoder: Any, prompt: str) -> tuple[Tensor, Tensor | None]:
    """(ids [1, tokens], attention mask or None for the encoders that look at padding, as CLIP's do)."""
    found = tokenizer(
        prompt,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    masks = getattr(encoder.config, "use_attention_mask", False)
    return found.input_ids.to(encoder.device), found.attention_mask.to(encoder.device) if masks else None
