from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from engines.cache import Cache
from engines.text import Text

PROMPTS = ["a red circle on the sea", "", "Ünïcode ☂ 雨, (brackets:1.2)", "night " * 200]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_embeddings_are_those_of_encode_prompt(folder: Any, pipeline: Any, prompt: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = LatentConsistencyModelPipeline.from_pretrained(folder(), safety_checker=None)
        expected, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
    embedding = pipeline().text.embed(prompt, {})
    assert embedding.text.shape == (77, 64)
    assert torch.equal(embedding.text, expected[0])
    assert embedding.pooled is None


def test_a_prompt_is_encoded_once_and_its_time_is_told(pipeline: Any) -> None:
    text = pipeline().text
    fresh = Text(text.encoders, Cache(10**6))
    first: dict[str, float] = {}
    again: dict[str, float] = {}
    assert fresh.embed("the sea", first) is fresh.embed("the sea", again)
    assert (fresh.cache.hits, fresh.cache.misses, fresh.cache.bytes) == (1, 1, 77 * 64 * 4)
    assert 0 < again["text"] < first["text"]
