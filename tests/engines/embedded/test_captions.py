"""Captions say what the scene shows, and the tokenizer loses nothing of them."""

from random import Random

from engines.embedded.captions import COLOUR_WORDS, caption, lexicon
from engines.embedded.scene import COLOURS, GROUNDS, SKIES, Landscape, Still, Thing, random_scene
from engines.embedded.vocabulary import merges_for, sample_captions, token_ids, tokenizer_for

MAX_TOKENS = 32


def test_captions_survive_the_tokenizer():
    tokenizer = tokenizer_for(lexicon(), MAX_TOKENS)
    for text in sample_captions(300, seed=1):
        ids = tokenizer(text).input_ids
        words = tokenizer.decode(ids, skip_special_tokens=True)
        assert words.replace(" ,", ",").replace("4 k", "4k").strip() == text  # CLIP parts digits from letters


def test_every_word_of_the_grammar_is_one_token():
    tokenizer = tokenizer_for(lexicon(), MAX_TOKENS)
    for word in lexicon():
        if word.isalpha():  # CLIP parts digits from letters
            assert len(tokenizer(word).input_ids) == 3, word


def test_unknown_words_become_pieces_and_never_the_unknown_token():
    tokenizer = tokenizer_for(lexicon(), MAX_TOKENS)
    ids = tokenizer("zwölf xylophones 猫").input_ids[1:-1]
    assert tokenizer.eos_token_id not in ids
    assert "xylophones" in tokenizer.decode(ids)


def test_captions_fit_the_token_limit():
    tokenizer = tokenizer_for(lexicon(), MAX_TOKENS)
    rows = token_ids(tokenizer, sample_captions(500, seed=2))
    assert all(len(row) == MAX_TOKENS for row in rows)
    assert all(row[-1] == tokenizer.eos_token_id for row in rows)


def test_a_plain_caption_names_both_colours():
    rng = Random(3)
    for _ in range(200):
        scene = random_scene(rng)
        if isinstance(scene, Still):
            text = caption(scene, rng, plain=True)
            for colour in (scene.background, *(t.colour for t in scene.things)):
                assert any(word in text for word in COLOUR_WORDS.get(colour, (colour,))), (text, colour)


def test_the_two_promised_captions_belong_to_the_grammar():
    rng = Random(4)
    circle = Still((Thing("circle", "red"),), "blue")
    hills = Landscape("night", "hills")
    assert "a red circle on a blue background" in {caption(circle, rng, plain=True) for _ in range(400)}
    assert "green hills under a night sky" in {caption(hills, rng, plain=True) for _ in range(800)}


def test_captions_vary_and_some_leave_things_open():
    rng = Random(5)
    scene = Still((Thing("star", "yellow", "top left", "small"),), "purple")
    texts = {caption(scene, rng) for _ in range(300)}
    assert len(texts) > 60
    assert any("yellow" not in text for text in texts)


def test_merges_end_when_every_word_is_one_piece():
    assert merges_for(["ab", "abc"]) == [("a", "b"), ("a", "b</w>"), ("ab", "c</w>")]


def test_grammar_has_words_for_everything():
    assert len(COLOURS) >= 10
    rng = Random(6)
    scenes = [random_scene(rng, held_out) for held_out in (False, True) for _ in range(3000)]
    seen = {(s.sky, s.ground) for s in scenes if isinstance(s, Landscape)}
    assert len(seen) == len(SKIES) * len(GROUNDS)
