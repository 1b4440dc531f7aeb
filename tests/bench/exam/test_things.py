"""What is measured on flat shapes, against pictures drawn for the purpose and planted mistakes."""

import pytest
import torch

from bench.exam.judge import relation
from bench.exam.things import look
from engines.embedded.render import render
from engines.embedded.scene import COLOURS, COUNTS, PLACES, SHAPES, Group, Still, Thing


def drawn(scene, side=128, seed=3):
    return render([scene], side, torch.Generator().manual_seed(seed))[0]


def one(thing, background="white"):
    return Still((thing,), background)


@pytest.mark.parametrize("side", [128, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_told_from_the_others(shape, side):
    seen = look(drawn(one(Thing(shape, "red", "top left")), side))
    assert [(t.shape, t.colour, t.place) for t in seen.things] == [(shape, "red", "top left")]


def test_every_place_and_colour_is_told():
    for index, place in enumerate(PLACES):
        colour = list(COLOURS)[index]
        ground = "black" if colour != "black" else "white"
        seen = look(drawn(one(Thing("square", colour, place), ground)))
        assert (seen.background, seen.things[0].colour, seen.things[0].place) == (ground, colour, place)


@pytest.mark.parametrize("count", COUNTS)
def test_things_are_counted(count):
    assert len(look(drawn(Group("star", "yellow", count, "blue"))).things) == count


@pytest.mark.parametrize("name", ["left of", "right of", "above", "below"])
def test_a_relation_is_where_the_first_is_seen_from_the_second(name):
    scene = Still((Thing("circle", "red"), Thing("square", "blue")), "white", name)
    by_colour = {t.colour: t for t in look(drawn(scene)).things}
    assert relation(by_colour["red"], by_colour["blue"]) == name
    assert relation(by_colour["blue"], by_colour["red"]) != name


def test_an_empty_picture_shows_nothing():
    seen = look(torch.full((3, 64, 64), 0.97))
    assert (seen.background, seen.things) == ("white", ())


def test_noise_is_no_thing_of_the_right_shape_more_often_than_by_chance():
    noise = torch.rand(60, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    right = sum(any(t.shape == "star" and t.colour == "red" for t in look(p).things) for p in noise[:12])
    assert right == 0
