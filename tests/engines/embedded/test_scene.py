"""The grammar of scenes: shares, held-out combinations, attributes; and groups that can be counted."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from engines.embedded.captions import COUNT_WORDS, LONGEST, caption, lexicon
from engines.embedded.render import render
from engines.embedded.scene import (
    ATTRIBUTES,
    COLOURS,
    COUNTS,
    GROUNDS,
    RELATIONS,
    SHAPES,
    SKIES,
    Group,
    Landscape,
    Still,
    Thing,
    attributes,
    is_held_out,
    random_scene,
)
from engines.embedded.vocabulary import tokenizer_for


def drawn(count: int, seed: int, held_out: bool = False) -> list:
    rng = Random(seed)
    return [random_scene(rng, held_out) for _ in range(count)]


def parts(mask: Tensor) -> int:
    """Connected components (eight neighbours) of a [H, W] bool mask, by spreading the largest label."""
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view(1, 1, *mask.shape) * mask
    while True:
        spread = torch.nn.functional.max_pool2d(labels, 3, 1, 1) * mask
        if torch.equal(spread, labels):
            return len(labels.unique()) - int(not mask.all())
        labels = spread


def test_training_never_sees_a_held_out_combination():
    assert not any(is_held_out(scene) for scene in drawn(20_000, seed=1))


def test_held_out_draws_show_nothing_else():
    assert all(is_held_out(scene) for scene in drawn(2_000, seed=2, held_out=True))


def test_about_a_tenth_of_all_combinations_is_held_out():
    triples = [(s, c, b) for s in SHAPES for c in COLOURS for b in COLOURS if c != b]
    share = sum(is_held_out(Still((Thing(s, c),), b)) for s, c, b in triples) / len(triples)
    assert 0.08 < share < 0.12
    for s, c, b in triples:
        assert is_held_out(Group(s, c, 3, b)) == is_held_out(Still((Thing(s, c),), b))


def test_what_is_held_out_does_not_depend_on_place_size_or_style():
    for scene in drawn(500, seed=3):
        if isinstance(scene, Still) and scene.relation is None:
            moved = replace(scene.things[0], place="top left", size="big")
            assert not is_held_out(replace(scene, things=(moved,), style="neon"))


def test_training_still_sees_every_single_value():
    seen: dict[str, set[str]] = {key: set() for key in ATTRIBUTES}
    for scene in drawn(20_000, seed=4):
        for key, value in attributes(scene).items():
            seen[key].add(value)
    assert seen == {key: set(values) for key, values in ATTRIBUTES.items()}


def test_every_scene_has_a_listed_value_for_every_attribute():
    for scene in drawn(3_000, seed=5) + drawn(1_000, seed=6, held_out=True):
        named = attributes(scene)
        assert list(named) == list(ATTRIBUTES)
        assert all(value in ATTRIBUTES[key] for key, value in named.items())


def test_attributes_say_what_a_scene_shows():
    pair = Still((Thing("star", "red"), Thing("heart", "blue")), "white", "above", style="neon")
    named = {key: value for key, value in attributes(pair).items() if value != "none"}
    assert named == {
        "kind": "pair",
        "shape": "star",
        "colour": "red",
        "background": "white",
        "second shape": "heart",
        "second colour": "blue",
        "relation": "above",
        "style": "neon",
    }
    sea = attributes(Landscape("night", "sea", weather="fog"))
    assert (sea["weather"], sea["hill colour"], sea["light side"]) == ("fog", "none", "none")


def test_kinds_and_styles_come_in_their_shares():
    scenes = [attributes(scene) for scene in drawn(20_000, seed=7)]
    kinds = Counter(named["kind"] for named in scenes)
    shares = {"thing": 0.36, "pair": 0.12, "group": 0.09, "landscape": 0.22, "portrait": 0.21}
    for kind, share in shares.items():
        assert abs(kinds[kind] / len(scenes) - share) < 0.02, kind
    assert abs(sum(named["style"] != "none" for named in scenes) / len(scenes) - 0.15) < 0.02


def test_a_training_may_draw_other_shares_of_kinds_but_never_what_is_held_out():
    rng = Random(12)
    scenes = [random_scene(rng, shares={"pair": 0.75, "portrait": 0.25}) for _ in range(4000)]
    kinds = Counter(attributes(scene)["kind"] for scene in scenes)
    assert set(kinds) == {"pair", "portrait"}
    assert abs(kinds["pair"] / len(scenes) - 0.75) < 0.03
    assert not any(is_held_out(scene) for scene in scenes)


def test_no_style_outlines_every_drop_of_the_weather():
    for scene in drawn(10_000, seed=11):
        if isinstance(scene, Landscape) and scene.weather is not None:
            assert scene.style not in ("neon", "line art")


def test_every_sky_and_ground_is_trained():
    lands = [s for s in drawn(10_000, seed=8) if isinstance(s, Landscape)]
    assert {s.sky for s in lands} == set(SKIES)
    assert {s.ground for s in lands} == set(GROUNDS)


@pytest.mark.parametrize("count", COUNTS)
def test_the_things_of_a_group_can_be_counted(count):
    groups = [Group(shape, "red", count, "white") for shape in SHAPES] * 8
    for picture in render(groups, 128, torch.Generator().manual_seed(count)):
        reddish = picture[0] - picture[1] > 0.15  # no tip of a star stands alone
        assert parts(reddish) == count


@pytest.mark.parametrize("relation", RELATIONS)
def test_two_things_are_apart(relation):
    pairs = [Still((Thing(a, "red"), Thing(b, "blue")), "white", relation) for a in SHAPES for b in SHAPES]
    axis = 1 if relation in ("left of", "right of") else 0
    for picture in render(pairs, 100, torch.Generator().manual_seed(4)):
        red, blue = picture[0] - picture[2] > 0.3, picture[2] - picture[0] > 0.3
        first, second = (mask.nonzero()[:, axis] for mask in (red, blue))
        if relation in ("right of", "below"):
            first, second = second, first
        assert int(second.min()) - int(first.max()) >= 6


def test_weather_can_be_measured():
    def pictures(weather: str | None) -> Tensor:
        lands = [Landscape(sky, ground, weather=weather) for sky in SKIES for ground in GROUNDS]
        return render(lands, 96, torch.Generator().manual_seed(2))

    def roughness(pictures: Tensor, rows: slice) -> Tensor:
        part = pictures[:, :, rows]
        return (part[..., 1:] - part[..., :-1]).abs().mean((1, 2, 3))

    sky, ground = slice(8, 40), slice(48, 88)
    clear = pictures(None)
    for weather in ("rain", "snowfall"):
        assert (roughness(pictures(weather), sky) > 1.5 * roughness(clear, sky)).float().mean() > 0.9, weather
    assert (roughness(pictures("fog"), ground) < 0.8 * roughness(clear, ground)).float().mean() > 0.9


def test_plain_captions_name_count_weather_and_style():
    rng = Random(9)
    for scene in drawn(3_000, seed=9):
        text = caption(scene, rng, plain=True)
        if isinstance(scene, Group):
            assert any(word in text.split() for word in COUNT_WORDS[scene.count]), text
        if isinstance(scene, Landscape):
            assert ("rain" in text) == (scene.weather == "rain"), text
            assert ("fog" in text) == (scene.weather == "fog"), text
            for what in (scene.light, scene.prop):
                assert what is None or what in text, text
        if scene.style is not None:
            assert scene.style.removesuffix("art") in text.replace("vivid", "vibrant"), text


def test_captions_fit_a_short_text_encoder():
    rng = Random(10)
    tokenizer = tokenizer_for(lexicon(), 64)
    for scene in drawn(4_000, seed=10):
        for plain in (False, True):
            text = caption(scene, rng, plain)
            assert len(tokenizer(text).input_ids) <= LONGEST + 2, text
