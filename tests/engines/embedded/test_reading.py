"""The text encoder learns what captions say before it helps to draw."""

from random import Random

import pytest
import torch

from engines.embedded.captions import caption, lexicon
from engines.embedded.diffusion import text_encoder_for
from engines.embedded.optimiser import Pair
from engines.embedded.reading import PATCH, Reader, labels_of, reading_loss
from engines.embedded.scene import ATTRIBUTES, attributes, random_scene
from engines.embedded.vocabulary import token_ids, tokenizer_for

WIDTH, CELLS = 32, 8


def lesson(rng: Random, tokenizer, count: int):
    scenes = [random_scene(rng) for _ in range(count)]
    ids = torch.tensor(token_ids(tokenizer, [caption(s, rng, plain=True) for s in scenes]))
    return ids, labels_of(scenes), scenes


def test_every_scene_has_one_value_of_every_attribute():
    rng = Random(3)
    scenes = [random_scene(rng) for _ in range(200)]
    labels = labels_of(scenes)
    assert labels.shape == (200, len(ATTRIBUTES))
    for scene, row in zip(scenes, labels.tolist(), strict=True):
        said = {key: values[index] for (key, values), index in zip(ATTRIBUTES.items(), row, strict=True)}
        assert said == attributes(scene)


def test_expected_latents_have_the_shape_of_latents_and_only_neighbours_of_a_patch_share_a_query():
    torch.manual_seed(0)
    reader = Reader(WIDTH, CELLS)
    latents = reader.expected(torch.randn(3, 5, WIDTH))
    assert latents.shape == (3, 4, CELLS, CELLS)
    text = torch.randn(1, 5, WIDTH)
    with torch.no_grad():
        before = reader.expected(text)
        reader.places[0] += torch.randn(WIDTH)  # the first query answers for the first patch, nothing else
        changed = (reader.expected(text) - before).abs().amax((0, 1)) > 1e-6
    assert changed[:PATCH, :PATCH].all()
    assert not changed[PATCH:].any()
    assert not changed[:, PATCH:].any()


@pytest.mark.timeout(120)
def test_reading_teaches_the_text_encoder_to_name_what_captions_say():
    torch.manual_seed(0)
    rng = Random(5)
    tokenizer = tokenizer_for(lexicon(), 32)
    encoder, reader = text_encoder_for(tokenizer, WIDTH, 1), Reader(WIDTH, CELLS)
    exam, truth, _ = lesson(Random(6), tokenizer, 200)
    keys = list(ATTRIBUTES)

    @torch.no_grad()
    def score(key: str) -> float:
        logits = reader.named(encoder(exam).last_hidden_state)[keys.index(key)]
        asked = truth[:, keys.index(key)] > 0 if key != "kind" else torch.ones(200, dtype=torch.bool)
        return float((logits.argmax(1) == truth[:, keys.index(key)])[asked].float().mean())

    assert score("sky") < 0.5
    optimiser = Pair([encoder, reader])
    for _ in range(500):
        ids, labels, _ = lesson(rng, tokenizer, 32)
        reading_loss(encoder, reader, ids, torch.zeros(32, 4, CELLS, CELLS), labels).backward()
        optimiser.at(3e-3)
        optimiser.step()
    assert score("kind") > 0.95
    assert score("sky") > 0.9
    assert score("background") > 0.75
