from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from engines.backends.graphs import WARM_UPS
from engines.cache import Cache
from engines.messages import Job
from engines.text import Text
from tests.engines import tiny
from tests.engines.backends.tapes import Tapes

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


@pytest.mark.parametrize("options", [{}, {"xl": True}], ids=str)
def test_replayed_prompts_say_what_others_say_and_are_the_callers_to_keep(
    pipeline: Any, options: dict[str, Any]
) -> None:
    plain, tapes = pipeline(**options).text, Tapes()
    text = Text(plain.encoders, Cache(10**6), plain.blank, tapes)
    prompts = [*PROMPTS, "the sea", "a hill"]
    found = [text.embed(prompt, {}) for prompt in prompts]
    for prompt, embedding in zip(prompts, found, strict=True):
        expected = Text(plain.encoders, Cache(10**6), plain.blank).embed(prompt, {})
        assert torch.equal(embedding.text, expected.text)
        assert len(embedding.tensors) == len(expected.tensors)
        assert all(map(torch.equal, embedding.tensors, expected.tensors))
        assert (embedding.nbytes, embedding.cut) == (expected.nbytes, expected.cut)
    replayed = len(prompts) - WARM_UPS
    assert text.prompts.stats() == {"prompts_replayed": replayed, "prompts_recorded": 1, "prompts_unfit": 0}


def test_an_encoder_that_reads_a_mask_is_not_recorded(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers looks whether a mask hides anything."""
    (words, encoder), *_ = pipeline().text.encoders
    monkeypatch.setattr(encoder.config, "use_attention_mask", True, raising=False)
    expected = Text([(words, encoder)], Cache(10**6)).embed("the sea", {}).text
    tapes = Tapes()
    text = Text([(words, encoder)], Cache(0), recorder=tapes)
    with caplog.at_level(logging.WARNING):
        for _ in range(WARM_UPS + 3):
            assert torch.equal(text.embed("the sea", {}).text, expected)
    assert (tapes.recorded, tapes.aside_calls) == (0, WARM_UPS + 3)
    assert "prompts of 2x77: aten::_local_scalar_dense reads a value back" in caplog.text
