"""Portraits show each named attribute, and their captions name only what is there."""

from dataclasses import replace
from random import Random

import pytest
import torch

from engines.embedded import portrait
from engines.embedded.likeness import FIELDS, portrait_results
from engines.embedded.person import (
    EXPRESSIONS,
    EYE_COLOURS,
    HAIR_COLOURS,
    HAIR_STYLES,
    HATS,
    PEOPLE,
    SKINS,
    Portrait,
    portrait_attributes,
    random_portrait,
)
from engines.embedded.portrayal import HAIR_WORDS, LONGEST, SKIN_WORDS, describe, length, phrases, portray
from engines.embedded.vocabulary import tokenizer_for

SIZE = 64
ANNA = Portrait("woman", "light", "long", "blonde", "blue", "red", "green")


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def people(count: int, seed: int = 1) -> list[Portrait]:
    rng = Random(seed)
    return [random_portrait(rng) for _ in range(count)]


def ideal(*portraits: Portrait, size: int = SIZE) -> torch.Tensor:
    return portrait.draw(portraits, size, generator(), jitter=0.0)


def changed(a: Portrait, b: Portrait) -> torch.Tensor:
    """[SIZE, SIZE] bool: where the ideal pictures differ clearly."""
    first, second = ideal(a, b)
    return (first - second).abs().amax(0) > 0.15


def test_same_seed_draws_the_same_portrait_and_another_seed_does_not():
    someone = people(6)
    first, again, other = (portrait.draw(someone, 48, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().mean((1, 2, 3)).min() > 0.02


def test_portraits_stay_between_zero_and_one():
    pictures = portrait.draw(people(60), 48, generator())
    assert torch.isfinite(pictures).all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_a_portrait_looks_the_same_alone_and_among_others():
    crowd = ideal(*people(12), ANNA)
    assert torch.allclose(crowd[-1], ideal(ANNA)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("attribute", "value", "rows", "columns", "least"),
    [
        ("skin", "dark", slice(20, 52), slice(20, 44), 200),
        ("hair_colour", "black", slice(4, 64), slice(8, 56), 400),
        ("eyes", "brown", slice(24, 36), slice(16, 48), 20),
        ("shirt", "blue", slice(52, 64), slice(0, 64), 60),
        ("background", "purple", slice(0, 64), slice(0, 64), 800),
        ("eyewear", "glasses", slice(22, 40), slice(8, 56), 60),
        ("eyewear", "sunglasses", slice(22, 40), slice(8, 56), 150),
        ("expression", "happy", slice(18, 48), slice(16, 48), 20),
        ("expression", "sad", slice(18, 48), slice(16, 48), 20),
        ("expression", "surprised", slice(14, 50), slice(16, 48), 20),
        ("hair", "short", slice(0, 64), slice(4, 60), 150),
        ("hair", "curly", slice(0, 64), slice(4, 60), 150),
        ("hair", "bald", slice(0, 64), slice(4, 60), 300),
    ],
)
def test_each_attribute_changes_the_picture_where_it_is_and_nowhere_else(
    attribute, value, rows, columns, least
):
    where = changed(ANNA, replace(ANNA, **{attribute: value}))
    inside = where[rows, columns].sum()
    assert inside >= least
    if attribute != "skin":  # the neck is skin too
        assert where.sum() == inside


@pytest.mark.parametrize("hat", HATS)
def test_a_hat_of_each_colour_is_above_the_head(hat):
    pictures = ideal(*(replace(ANNA, hat=hat, hat_colour=c) for c in ("red", "blue", "white", "black")))
    top = pictures[:, :, 10:16, 28:36].flatten(2).median(2).values
    for row, wanted in zip(
        top, ((0.88, 0.11, 0.13), (0.13, 0.30, 0.85), (0.97,) * 3, (0.05, 0.05, 0.06)), strict=True
    ):
        assert (row - torch.tensor(wanted)).abs().max() < 0.05, hat


def test_a_beard_covers_the_chin_of_a_man():
    man = replace(ANNA, who="man", hair="short", hair_colour="black")
    where = changed(man, replace(man, beard=True))
    assert where[30:].sum() == where.sum() > 80


def test_every_two_people_differ():
    pictures = ideal(*(replace(ANNA, who=who) for who in PEOPLE))
    for i in range(len(PEOPLE)):
        for j in range(i):
            assert (pictures[i] - pictures[j]).abs().mean() > 0.02, (PEOPLE[i], PEOPLE[j])


def test_the_mouth_curves_with_the_mood():
    """Height of the reddish mouth at its middle minus at its corners: down in a smile, up in a frown."""
    bend = {}
    for mood in EXPRESSIONS:
        with_mouth = ideal(replace(ANNA, who="man", hair="short", expression=mood), size=128)[0]
        mouth = (with_mouth[0] - with_mouth[1] > 0.35) & (with_mouth[2] < 0.5)
        mouth[:78], mouth[100:], mouth[:, :48], mouth[:, 80:] = False, False, False, False
        y = torch.arange(128.0).view(-1, 1)
        height = (y * mouth).sum(0) / mouth.sum(0).clamp(min=1)
        columns = mouth.any(0).nonzero().flatten()
        bend[mood] = float(height[63:65].mean() - height[columns[[0, 1, -2, -1]]].mean())
    assert bend["happy"] > 2
    assert bend["sad"] < -2
    assert abs(bend["neutral"]) < 0.5


def test_random_portraits_cover_every_value_and_only_men_wear_a_beard():
    drawn = people(3000)
    for attribute, values in (
        ("who", PEOPLE),
        ("skin", SKINS),
        ("hair", HAIR_STYLES),
        ("hair_colour", HAIR_COLOURS),
        ("eyes", EYE_COLOURS),
        ("expression", EXPRESSIONS),
        ("hat", (None, *HATS)),
    ):
        assert {getattr(p, attribute) for p in drawn} == set(values)
    assert {p.who for p in drawn if p.beard} == {"man"}
    assert all((p.hat is None) == (p.hat_colour is None) for p in drawn)


def test_hidden_things_are_not_attributes():
    hidden = portrait_attributes(replace(ANNA, hair="bald", eyewear="sunglasses"))
    assert hidden["eyes"] == "none"
    assert hidden["hair colour"] == "none"


def test_a_caption_names_what_it_is_asked_to_and_nothing_else():
    rng = Random(4)
    for _ in range(200):
        text = portray(ANNA, {"who", "hair colour", "skin"}, rng)
        assert any(word in text for word in HAIR_WORDS["blonde"])
        assert any(f"{word} skin" in text for word in SKIN_WORDS["light"])
        for absent in ("eyes", "shirt", "background", "green", "red", "long", "hat", "glasses"):
            assert absent not in text.split(), text


def test_plain_captions_name_everything_there():
    rng = Random(5)
    for p in people(500, seed=5):
        text = describe(p, rng, plain=True)
        attributes = portrait_attributes(p)
        for key, word in (
            ("eyes", "eyes"),
            ("hair colour", "hair"),
            ("background", "background"),
            ("skin", "skin"),
        ):
            assert (attributes[key] == "none") == (word not in text.replace(",", "").split()), text
        assert (p.beard and "beard" in text) or (not p.beard and "beard" not in text), text
        assert ("glasses" in text or "spectacles" in text) == (p.eyewear is not None), text


def test_captions_are_short_varied_and_the_promised_ones_belong_to_the_grammar():
    rng = Random(6)
    for p in people(400, seed=6):
        for plain, openness in ((True, 0.0), (False, 0.0), (False, 0.8)):
            assert length(describe(p, rng, openness, plain)) <= LONGEST
    texts = {describe(ANNA, rng) for _ in range(300)}
    assert len(texts) > 200
    named = {"who", "hair style", "hair colour", "eyes", "background"}
    wanted = "a portrait of a woman with long blonde hair and blue eyes on a green background"
    assert wanted in {portray(ANNA, named, rng) for _ in range(3000)}


def test_every_word_about_people_is_one_token():
    words = sorted({w for text in phrases() for w in text.replace("{}", "").replace(",", " ").split()})
    tokenizer = tokenizer_for(words, 32)
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, word


def test_every_attribute_can_be_told_from_a_portrait_drawn_with_all_its_chances():
    drawn = people(14, seed=8)
    pictures = portrait.draw(drawn, SIZE, generator())
    for attribute in FIELDS:
        results = [
            portrait_results(picture, p, [attribute]) for picture, p in zip(pictures, drawn, strict=True)
        ]
        right = [value for result in results for value in result.values()]
        assert sum(right) >= 0.85 * len(right), attribute
        assert right, attribute


def test_a_portrait_of_somebody_else_is_told_apart():
    other = Portrait(
        "man", "dark", "bald", "black", "brown", "yellow", "red", "sunglasses", "cap", "blue", True, "sad"
    )
    picture = ideal(other)[0]
    results = portrait_results(picture, ANNA, list(FIELDS))
    assert sum(results.values()) <= 2, results


def test_no_part_of_a_head_leaves_the_band_of_rows_it_is_painted_in(monkeypatch):
    crowd = people(80, seed=9)
    banded = portrait.draw(crowd, SIZE, generator(9))
    for band in ("FEATURES", "BELOW", "ABOVE"):
        monkeypatch.setattr(portrait, band, (0.0, 1.0))
    assert torch.equal(banded, portrait.draw(crowd, SIZE, generator(9)))
