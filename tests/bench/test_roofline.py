"""A row of the roofline says what was timed, its floor, and how far the one is from the other."""

import pytest
import torch

from bench.ceilings import Ceilings, Clock
from bench.roofline import attention, step, table, vae
from bench.subject import Subject
from bench.ways import possible

pytestmark = pytest.mark.timeout(60)  # imports of torch and diffusers, on a busy machine
CPU = torch.device("cpu")
GIVEN = Ceilings("planted", flop_s=1e9, bytes_s=1e9, host_bytes_s=1e9, launch_s=1e-6)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject("sd15", CPU, torch.float32, tiny=True)


def test_a_step_stands_beside_the_work_of_its_rows(subject: Subject):
    one, two = (step(subject, "eager", rows, GIVEN, most_s=0.1) for rows in (1, 2))
    work = subject.work("unet")
    assert one["floor_ms"] == pytest.approx(1e3 * work.flop / GIVEN.flop_s)
    assert two["floor_ms"] == pytest.approx(2 * one["floor_ms"])
    assert one["times_floor"] == pytest.approx(one["ms"] / one["floor_ms"])
    assert one["share"] == pytest.approx(one["tflop_s"] * 1e12 / GIVEN.flop_s)
    read = work.parameters * 4 / (one["ms"] / 1e3)
    assert one["read"] == pytest.approx(read / GIVEN.bytes_s)
    assert two["images_s"] == pytest.approx(2e3 / two["ms"])


def test_another_size_is_of_the_same_model_and_of_its_own_work(subject: Subject):
    row = step(subject.at(128), "eager", 1, GIVEN, most_s=0.1)
    assert (row["side"], subject.side) == (128, 64)
    assert row["floor_ms"] == pytest.approx(1e3 * subject.work("unet", 128).flop / GIVEN.flop_s)
    assert subject.at(128).unet is subject.unet


def test_a_decoder_of_one_picture_is_counted_as_its_own_work(subject: Subject):
    row = vae(subject, "tiny-decode", 1, GIVEN, most_s=0.05)
    assert row["floor_ms"] == pytest.approx(1e3 * subject.work("tiny-decode").flop / GIVEN.flop_s)
    assert table([row], "").rows[0][0] == "tiny-decode"


def test_inputs_take_turns_and_calls_are_bounded():
    seen: list[int] = []
    calls = [lambda n=n: seen.append(n) for n in range(3)]
    assert len(Clock(CPU).seconds(calls, repeats=7, warm=2)) == 7
    assert seen == [0, 1, 0, 1, 2, 0, 1, 2, 0]
    assert len(Clock(CPU).seconds(calls, repeats=1000, most_s=0.0)) == 3


def test_a_way_that_does_not_exist_or_was_not_built_is_said_by_name(subject: Subject):
    assert not possible("eager+graph", CPU)
    with pytest.raises(ValueError, match="eager, eager\\+graph, inductor"):
        subject.ways.backend("tensor")
    with pytest.raises(RuntimeError, match="it was not built ahead"):
        subject.ways.run("inductor", subject.shape(1), build=False)


def test_kernels_that_a_device_lacks_have_no_time():
    rows = attention(CPU, torch.float32, (1,), tiny=True)
    assert all(row["cudnn"] is None and row["math"] > 0 for row in rows)
    assert all(row[row["best"]] == min(v for v in (row["flash"], row["math"]) if v) for row in rows)
