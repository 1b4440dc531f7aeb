"""The pool of scenes: what a batch is made of, and what happens between painters and learners."""

from random import Random

import pytest
import torch

from engines.embedded.autoencoder import tiny_autoencoder
from engines.embedded.painters import Feed
from engines.embedded.pool import BLOCK, CAPTIONS, Pool, tokenizer
from engines.embedded.scene import ATTRIBUTES

SIZE = 32


@pytest.fixture
def pool():
    torch.manual_seed(0)
    made = Pool(SIZE, 32, Random(1), torch.Generator().manual_seed(1), "cpu", 0)
    made.grow()
    made.ae = tiny_autoencoder(16, (0, 0, 0, 1), (1, 1, 0, 0)).eval()
    made.ae.register_to_config(scaling_factor=0.5)
    return made


def test_a_batch_has_latents_captions_and_labels_of_the_same_scenes(pool):
    latents, ids, labels = pool.batch(7)
    assert latents.shape == (7, 4, SIZE // 8, SIZE // 8)
    assert latents.dtype == torch.float32
    assert ids.shape == (7, 32)
    assert labels.shape == (7, len(ATTRIBUTES))
    kinds, words = list(ATTRIBUTES).index("kind"), tokenizer(32)
    portrait = ATTRIBUTES["kind"].index("portrait")
    for row, said in zip(pool.labels, pool.ids, strict=True):
        text = words.decode(said[0].long(), skip_special_tokens=True)
        if row[kinds] == portrait:
            assert not any(word in text for word in ("triangle", "mountains"))


def test_every_scene_is_said_in_several_ways(pool):
    pool.encode()
    assert pool.ids.shape == (BLOCK, CAPTIONS, 32)
    assert len({tuple(said) for said in pool.ids[0].tolist()}) > 1


def test_latents_are_scaled_as_the_codec_says(pool):
    pool.encode()
    once = pool.latents.float()
    again = Pool(SIZE, 32, Random(1), torch.Generator().manual_seed(1), "cpu", 0)
    again.ae = pool.ae
    again.ae.register_to_config(scaling_factor=1.0)
    again.grow()
    torch.testing.assert_close(again.latents.float(), 2 * once, atol=2e-3, rtol=2e-3)


def test_a_pool_without_a_codec_keeps_its_pictures_until_there_is_one():
    pool = Pool(SIZE, 32, Random(1), torch.Generator().manual_seed(1), "cpu", 0)
    pool.wait(2 * BLOCK, lambda count: None)
    assert len(pool) == 2 * BLOCK
    assert len(pool.latents) == 0
    with pytest.raises(AssertionError, match="codec"):
        pool.batch(1)


def test_a_saved_pool_comes_back(pool):
    pool.encode()
    other = Pool(SIZE, 32, Random(9), torch.Generator().manual_seed(9), "cpu", 0)
    other.load_state_dict(pool.state_dict())
    assert len(other) == BLOCK
    assert torch.equal(other.latents, pool.latents)
    assert torch.equal(other.ids, pool.ids)


def test_a_feed_stops_when_it_has_enough_and_tells_of_errors():
    taken = []

    def take(block):
        taken.append(block)
        return len(taken) < 3

    feed = Feed(iter(range(10)), take)
    feed.close()
    assert taken in ([], [0], [0, 1], [0, 1, 2])  # as far as it came before it was closed

    def broken():
        yield 1
        raise RuntimeError("no paint left")

    feed = Feed(broken(), lambda block: True)
    feed._thread.join()
    with pytest.raises(RuntimeError, match="no paint left"):
        feed.check()
