from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from engines.cache import Cache
from engines.messages import Job
from engines.text import Text
from tests.engines import tiny

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


def test_what_a_prompt_loses_to_the_limit_is_told_each_time(pipeline: Any) -> None:
    text = Text(pipeline().text.encoders, Cache(10**6))
    long = "night " * 75 + "the Sea, as   red"
    for _ in range(2):  # the second comes from the cache
        assert text.embed(long, {}).cut == "has 83 tokens, the model reads 77: 'the Sea, as red' was not read"
    assert "77: 'red' was not read" in text.embed("night " * 75 + ", red", {}).cut
    assert text.embed("night " * 75, {}).cut == ""


def test_of_a_long_rest_the_beginning_is_told(pipeline: Any) -> None:
    cut = Text(pipeline().text.encoders, Cache(10**6)).embed("night " * 200, {}).cut
    assert "'night night " in cut
    assert "…' was not read" in cut
    assert len(cut) < 150


@pytest.mark.parametrize("options", [{"lcm": False, "lora": True}, {"xl": True, "lcm": False, "lora": True}])
def test_both_prompts_of_a_row_are_told_of_once(pipeline: Any, options: dict[str, Any]) -> None:
    engine, side = pipeline(**options), tiny.SIDE
    job = Job("night " * 76, 1, side, side, negative_prompt="sea " * 77, guidance=3.0, count=2)
    for row in engine.rows(job, None):
        assert row.warnings == (
            "the prompt has 78 tokens, the model reads 77: 'night' was not read",
            "the negative prompt has 79 tokens, the model reads 77: 'sea sea' was not read",
        )
    assert engine.rows(Job("sea", 1, side, side), None)[0].warnings == ()


def test_a_kept_picture_is_still_told_of(pipeline: Any) -> None:
    engine = pipeline()
    (row,) = engine.rows(Job("night " * 76, 1, tiny.SIDE, tiny.SIDE), None)
    kept, _ = engine.keep(row)
    assert engine.kept(kept, row.job).warnings == row.warnings != ()
