"""Prompts to embeddings, as `StableDiffusionPipeline.encode_prompt` does it.

Own code because diffusers 0.42 with transformers >= 5.6 cannot (huggingface/diffusers#14124), and to
keep what was encoded: a session that draws sends the same prompt with every frame.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from engines.cache import Cache


class Text:
    def __init__(self, tokenizer: Any, encoder: Any, cache: Cache[Tensor]) -> None:
        """tokenizer, encoder: transformers' CLIPTokenizer and CLIPTextModel, the latter on its device."""
        self.tokenizer, self.encoder, self.cache = tokenizer, encoder, cache
        self.attends_to_padding = not getattr(encoder.config, "use_attention_mask", False)

    def embed(self, prompt: str, timings: dict[str, float]) -> Tensor:
        """[tokens, D] on the encoder's device and in its dtype; the prompt is cut at the model's length.

        Adds the seconds it took to timings["text"]. The tensor is shared, never write to it.
        """
        began = time.perf_counter()
        embedding = self.cache.get(prompt)
        if embedding is None:
            embedding = self._encode(prompt)
            self.cache.put(prompt, embedding, embedding.nbytes)
        timings["text"] = timings.get("text", 0.0) + time.perf_counter() - began
        return embedding

    def _encode(self, prompt: str) -> Tensor:
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = self.encoder.device
        attention = None if self.attends_to_padding else tokens.attention_mask.to(device)
        with torch.inference_mode():
            hidden: Tensor = self.encoder(tokens.input_ids.to(device), attention_mask=attention)[0]
        return hidden[0].to(self.encoder.dtype)
