from __future__ import annotations

import io

import pytest
from PIL import Image

from engines.fake import Fake, colour_of
from engines.messages import Job
from engines.pipeline import Fault


def file(colour: tuple[int, int, int] | int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def drawn(job: Job) -> list[Image.Image]:
    fake = Fake(base_ms=0, row_ms=0, vae_ms=0)
    rows = fake.rows(job, fake.decode_inputs(job))
    for _ in range(job.steps):
        assert fake.launch(rows, len(rows)) is None
    files = [fake.encode(row, pixels, job)[0] for row, pixels in zip(rows, fake.decode(rows), strict=True)]
    return [Image.open(io.BytesIO(data)) for data in files]


@pytest.mark.parametrize(("format", "off"), [("png", 0), ("jpeg", 3), ("webp", 6)])
def test_a_picture_has_the_colour_of_its_prompt_and_seed(format, off):
    (picture,) = drawn(Job("a fox", 7, 48, 24, format=format))
    assert picture.size == (48, 24)
    assert picture.format == format.upper()
    for got, want in zip(picture.convert("RGB").getpixel((11, 13)), colour_of("a fox", 7), strict=True):
        assert abs(got - want) <= off


def test_colours_tell_prompts_and_seeds_apart():
    assert len({colour_of(f"user {n}", seed) for n in range(100) for seed in range(10)}) == 1000


def test_every_image_of_a_job_has_its_own_seed():
    pictures = drawn(Job("a fox", 7, 8, 8, count=3, format="png"))
    assert [picture.getpixel((0, 0)) for picture in pictures] == [colour_of("a fox", 7 + n) for n in range(3)]


def test_mask_only_keeps_the_unmasked_pixels_of_the_input():
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (16, 0, 32, 32))
    out = io.BytesIO()
    mask.save(out, "PNG")
    job = Job("a", 1, 32, 32, image=file((9, 8, 7)), mask=out.getvalue(), mask_only=True, format="png")
    (picture,) = drawn(job)
    assert picture.getpixel((2, 2)) == (9, 8, 7)
    assert picture.getpixel((30, 2)) == colour_of("a", 1)


@pytest.mark.parametrize(
    ("field", "job"),
    [
        ("image", Job("a", 1, 32, 32, image=b"no picture")),
        ("image", Job("a", 1, 32, 32, image=file((1, 2, 3))[:60])),
        ("mask", Job("a", 1, 32, 32, image=file((1, 2, 3)), mask=b"")),
        ("mask", Job("a", 1, 32, 32, image=file((1, 2, 3)), mask=file(255, (16, 32), "L"))),
    ],
)
def test_an_input_that_is_no_picture_is_the_fault_of_its_job(field, job):
    with pytest.raises(Fault) as caught:
        Fake().decode_inputs(job)
    assert (caught.value.code, caught.value.field) == ("image", field)


def test_the_largest_call_is_as_asked():
    assert Fake(max_batch=4).buckets == (1, 2, 3, 4)
    assert Fake(max_batch=4, deterministic=True).buckets == (4,)
    assert Fake().buckets[-1] == 16
