"""Prompts to embeddings, as diffusers' pipelines for SD1.5 and SDXL encode them.

Own code because diffusers 0.42 with transformers >= 5.6 cannot (huggingface/diffusers#14124), and to
keep what was encoded: a session that draws sends the same prompt with every frame. Who types sends another
one with every key, so the encoders, hundreds of small kernels, are replayed where steps are
(engines/replays.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engines.backends.graphs import Recorder
from engines.cache import Cache
from engines.replays import Replays

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
        recorder: Recorder | None = None,
    ) -> None:
        """encoders: transformers' CLIPTokenizer and CLIPTextModel, the latter on its device; SDXL has two
        pairs, and its second model is a CLIPTextModelWithProjection.

        blank: no negative prompt is all zeros, not the empty prompt (force_zeros_for_empty_prompt).
        recorder: nobody else's; None records nothing.
        """
        self.encoders, self.cache, self.blank = list(encoders), cache, blank
        self.prompts = Replays(partial(said, [encoder for _, encoder in encoders]), recorder, "prompts")
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

    def warm(self) -> None:
        """Encode, and keep nothing."""
        with self._one:
            self._encode("")

    def knows(self, prompt: str, negative: bool = False) -> bool:
        """Whether `embed` would be quick."""
        return (prompt, negative and not prompt and self.blank) in self.cache

    @torch.inference_mode()
    def _encode(self, prompt: str) -> Embedding:
        rows = [_tokens(tokenizer, encoder, prompt) for tokenizer, encoder in self.encoders]
        cut = next(filter(None, (_cut(tokenizer, prompt) for tokenizer, _ in self.encoders)), "")
        if len(rows) == 1:
            return Embedding(self.prompts(rows[0]), cut=cut)
        told = self.prompts([ids for ids, *_ in rows])
        tokenizer, encoder = self.encoders[-1]
        text, pooled = told.tensor_split([-encoder.config.projection_dim])
        return Embedding(text.view(tokenizer.model_max_length, -1), pooled, cut)


def said(encoders: Sequence[Any], rows: Tensor) -> Tensor:
    """What encoders of transformers say of a prompt, in their dtype. rows: [N, tokens] int64.

    Of one, [tokens, D]; its rows are the ids, and the attention mask if it reads one. Of two, with the ids
    of each, [tokens * D + P]: the text and then what the second one has pooled. One tensor is one copy.
    """
    if len(encoders) == 1:
        (encoder,), masks = encoders, len(rows) > 1
        hidden: Tensor = encoder(rows[:1], attention_mask=rows[1:] if masks else None)[0]
        return hidden[0].to(encoder.dtype)
    # Podell et al. 2023 (arXiv 2307.01952): what the last layer but one of each says, side by side.
    told = [encoder(rows[at : at + 1], output_hidden_states=True) for at, encoder in enumerate(encoders)]
    text = torch.cat([one.hidden_states[-2] for one in told], dim=-1)
    return torch.cat([text.flatten(), told[-1].text_embeds[0]])


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


def _tokens(tokenizer: Any, encoder: Any, prompt: str) -> list[Tensor]:
    """Ids [tokens] int64 on the device; and a mask of them for encoders that do not look at padding: CLIP's
    do."""
    found = tokenizer(
        prompt,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    masks = getattr(encoder.config, "use_attention_mask", False)
    rows = [found.input_ids, found.attention_mask] if masks else [found.input_ids]
    return [row[0].to(encoder.device) for row in rows]
