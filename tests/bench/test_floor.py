"""Counted floors against figures counted by hand for the same models, and the arithmetic of a floor."""

import pytest

from bench import floor

# GFLOP a picture (a multiply and an add are two) and millions of parameters.
BY_HAND = {
    ("sd15", "unet", 512): (803.3, 859.6),
    ("sd15", "unet", 384): (423.0, 859.6),
    ("sd15", "unet", 768): (2148.0, 859.6),
    ("sdxl", "unet", 512): (1589.0, 2567.5),
    ("sdxl", "unet", 768): (3641.0, 2567.5),
    ("sdxl", "unet", 1024): (6761.0, 2567.5),
    ("sd15", "controlnet", 512): (283.0, 361.3),
    ("sdxl", "controlnet", 1024): (3020.0, 1251.0),
    ("sd15", "kl-decode", 512): (2515.0, 83.7),
    ("sd15", "kl-decode", 1024): (10470.0, 83.7),
    ("sd15", "kl-encode", 512): (1117.0, 83.7),
    ("sd15", "tiny-decode", 512): (141.0, 2.45),
    ("sd15", "tiny-decode", 1024): (565.0, 2.45),
    ("sd15", "tiny-encode", 512): (122.0, 2.45),
    ("sd15", "text", 0): (13.3, 123.0),
    ("sdxl", "text", 0): (13.3 + 97.9, 123.0 + 695.0),
}


@pytest.mark.parametrize(("kind", "part", "side"), BY_HAND)
def test_the_file_of_floors_says_what_was_counted_by_hand(kind: str, part: str, side: int):
    gflop, millions = BY_HAND[kind, part, side]
    work = floor.work(kind, part, side)
    assert work.flop / 1e9 == pytest.approx(gflop, rel=0.02)
    assert work.parameters / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("kind", "part", "side"), [("sd15", "unet", 512), ("sd15", "tiny-decode", 512)])
def test_counting_again_gives_what_the_file_says(kind: str, part: str, side: int):
    assert floor.count(kind, part, side) == floor.work(kind, part, side)


def test_a_floor_is_arithmetic_or_reading_the_weights_whatever_is_slower():
    work = floor.Work(flop=8e12, parameters=10**9)
    assert work.seconds(1, flop_s=8e14, bytes_s=4e12) == pytest.approx(0.010)
    assert work.seconds(4, flop_s=8e14, bytes_s=4e12) == pytest.approx(0.040)
    assert work.seconds(1, flop_s=8e14, bytes_s=1e11) == pytest.approx(0.020)
