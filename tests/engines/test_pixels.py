from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engines import pixels
from engines.pipeline import Fault
from tests.engines import tiny


def file(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, format, **options)
    return data.getvalue()


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    array = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(array)


# ---- sizes ----


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ((512, 512), (512, 512)),
        ((768, 512), (768, 512)),
        ((696, 504), (696, 504)),
        ((1024, 1024), (512, 512)),
        ((1024, 768), (592, 440)),
        ((1920, 256), (768, 256)),
        ((64, 64), (512, 512)),
        ((8, 2048), (256, 768)),
    ],
)
def test_sizes_a_model_cannot_draw_are_drawn_near_in_the_same_shape(
    asked: tuple[int, int], drawn: tuple[int, int]
) -> None:
    assert pixels.drawn_size(*asked, native=512, smallest=256, largest=768, multiple=8) == drawn


@given(
    width=st.integers(1, 4096),
    height=st.integers(1, 4096),
    native=st.sampled_from([64, 128, 256, 512]),
    multiple=st.sampled_from([8, 16, 64]),
)
def test_drawn_sizes_are_in_range_and_keep_the_shape_where_the_range_has_room(
    width: int, height: int, native: int, multiple: int
) -> None:
    smallest, largest = native // 2, native * 3 // 2
    if largest // multiple * multiple < multiple or -(-smallest // multiple) * multiple > largest:
        return
    drawn = pixels.drawn_size(width, height, native, smallest, largest, multiple)
    for side in drawn:
        assert side % multiple == 0
        assert smallest <= side <= largest
    if max(width, height) <= 2 * min(width, height) and multiple == 8:
        ratio = (drawn[0] / drawn[1]) / (width / height)
        assert 0.8 < ratio < 1.25
    if (
        smallest <= width <= largest
        and smallest <= height <= largest
        and width % multiple == height % multiple == 0
    ):
        assert drawn == (width, height)


# ---- opening ----


def test_a_picture_of_the_drawn_size_is_taken_bit_by_bit() -> None:
    source = noise(64, 48)
    opened = pixels.fit(file(source), None, (64, 48), (64, 48), "k", False)
    assert (opened.picture == np.asarray(source)).all()


@pytest.mark.parametrize("size", [(128, 96), (50, 30), (64, 48)])
def test_resizing_is_that_of_the_vae_image_processor(size: tuple[int, int]) -> None:
    source = noise(*size)
    fitted = pixels.fitted(source, (64, 48), size)
    expected = VaeImageProcessor().preprocess(source, height=48, width=64)
    ours = 2.0 * torch.from_numpy(np.asarray(fitted).astype(np.float32) / 255.0).permute(2, 0, 1) - 1.0
    assert torch.equal(ours[None], expected)


def test_a_picture_of_another_shape_loses_its_sides() -> None:
    source = Image.new("RGB", (120, 40), "red")
    source.paste("blue", (40, 0, 80, 40))
    fitted = np.asarray(pixels.fitted(source, (32, 32), (512, 512)))
    assert (fitted == (0, 0, 255)).all(-1).mean() > 0.9


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(orientation: int) -> None:
    upright = noise(40, 24)
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = upright if turned is None else upright.transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = pixels.read(file(stored, exif=exif), "image_url")
    assert (np.asarray(opened) == np.asarray(upright)).all()


def test_what_is_transparent_is_paper_in_a_picture_and_kept_in_a_mask() -> None:
    layer = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    layer.paste((255, 0, 0, 255), (0, 0, 2, 4))
    assert np.asarray(pixels.rgb(layer))[0].tolist() == [[255, 0, 0]] * 2 + [[255, 255, 255]] * 2
    layer.paste((255, 255, 255, 255), (0, 0, 2, 4))
    assert np.asarray(pixels.grey(layer))[0].tolist() == [255, 255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_a_png_is_opened(mode: str) -> None:
    grey = Image.fromarray(np.full((8, 8), 200, np.uint8))
    sixteen = Image.fromarray(np.full((8, 8), 200 * 256, np.uint16))
    stored = sixteen if mode == "I;16" else grey.convert(mode)
    opened = pixels.fit(file(stored), None, (8, 8), (8, 8), "k", False).picture
    assert opened.shape == (8, 8, 3)
    assert opened.dtype == np.uint8
    assert abs(int(opened[4, 4, 0]) - 200) <= (200 if mode == "1" else 1)


def test_a_cmyk_jpeg_is_opened() -> None:
    data = file(noise(16, 16).convert("CMYK"), "JPEG")
    assert pixels.fit(data, None, (16, 16), (16, 16), "k", False).picture.shape == (16, 16, 3)


def test_a_large_jpeg_is_decoded_small_but_never_smaller_than_drawn() -> None:
    data = file(noise(1024, 512), "JPEG")
    assert pixels.read(data, "image_url", (200, 100)).size == (512, 256)
    assert pixels.read(data, "image_url", (1024, 512)).size == (1024, 512)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", file(noise(32, 32))[:200], file(noise(32, 32), "JPEG")[:300], file(noise(8, 8), "BMP")],
    ids=["empty", "text", "cut PNG", "cut JPEG", "BMP"],
)
def test_what_is_no_picture_is_a_fault_of_its_field(data: bytes) -> None:
    for image, mask, field in ((data, None, "image_url"), (tiny.picture(1), data, "mask_url")):
        with pytest.raises(Fault) as caught:
            pixels.fit(image, mask, (64, 64), (64, 64), "k", False)
        assert (caught.value.code, caught.value.field) == ("image", field)


def corrupted() -> st.SearchStrategy[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = [file(noise(12, 12), format, exif=exif) for format in ("PNG", "JPEG", "WEBP")]
    edits = st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
    )

    def edited(data: bytes, edits: list[tuple[float, int]], kept: float) -> bytes:
        changed = bytearray(data)
        for place, value in edits:
            changed[int(place * len(changed))] = value
        return bytes(changed[: int(kept * len(changed)) + 1])

    return st.builds(edited, st.sampled_from(whole), edits, st.sampled_from([1.0, 1.0, 0.5]))


@settings(max_examples=300, deadline=None)
@given(data=corrupted())
def test_broken_files_are_faults_and_nothing_worse(data: bytes) -> None:
    with warnings.catch_warnings(), contextlib.suppress(Fault):
        warnings.simplefilter("ignore")
        assert pixels.fit(data, None, (16, 16), (16, 16), "k", False).picture.shape == (16, 16, 3)


def test_an_error_inside_the_decoder_is_a_fault_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def slip(*args: Any, **options: Any) -> None:  # Pillow 13, an EXIF tag of a wrong type, in exif_transpose
        raise TypeError("bad operand type for abs(): 'str'")

    monkeypatch.setattr(pixels.ImageOps, "exif_transpose", slip)
    with pytest.raises(Fault, match="no readable PNG, JPEG or WebP"):
        pixels.read(tiny.picture(1), "image_url")


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(Fault, match="the mask is 32x64 px, the image 64x64 px") as caught:
        pixels.fit(tiny.picture(1), tiny.stencil((0, 0, 9, 9), 32), (64, 64), (64, 64), "k", False)
    assert (caught.value.code, caught.value.field) == ("invalid", "mask_url")


def test_a_mask_is_cut_at_128() -> None:
    mask = Image.fromarray(np.array([[0, 127, 128, 255]] * 4, np.uint8))
    opened = pixels.fit(file(noise(4, 4)), file(mask), (4, 4), (4, 4), "k", False)
    assert opened.mask is not None
    assert opened.mask[0].tolist() == [False, False, True, True]


# ---- finishing ----


def test_unmasked_pixels_of_the_answer_are_the_inputs_own() -> None:
    source, box = noise(96, 64), (16, 8, 80, 56)
    opened = pixels.fit(file(source), tiny.stencil(box, 96, 64), (48, 32), (96, 64), "k", composite=True)
    green = np.full((32, 48, 3), (0, 255, 0), np.uint8)
    answer = np.asarray(pixels.finished(green, (96, 64), opened)).astype(int)
    outside = np.ones((64, 96), bool)
    outside[8:56, 16:80] = False
    assert (answer[outside] == np.asarray(source)[outside]).all()
    deep = answer[8 + pixels.SEAM : 56 - pixels.SEAM, 16 + pixels.SEAM : 80 - pixels.SEAM]
    assert (deep == (0, 255, 0)).all()
    rim = opened.seam[32, 16 : 16 + pixels.SEAM].tolist()  # type: ignore[index]
    assert rim == sorted(rim)
    assert 0 < rim[0] < 255


def test_without_mask_only_the_answer_is_the_drawing() -> None:
    opened = pixels.fit(tiny.picture(1), tiny.stencil((0, 0, 9, 9)), (64, 64), (64, 64), "k", False)
    drawn = np.asarray(noise(64, 64))
    assert (np.asarray(pixels.finished(drawn, (64, 64), opened)) == drawn).all()


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_files_are_of_the_format_and_size_asked(format: str) -> None:
    data = pixels.written(pixels.finished(np.asarray(noise(64, 64)), (200, 120), None), format)
    opened = Image.open(io.BytesIO(data))
    assert (opened.format, opened.size) == (format.upper(), (200, 120))
    assert Image.MIME[opened.format] == pixels.CONTENT_TYPES[format]


def test_png_keeps_every_bit() -> None:
    drawn = np.asarray(noise(64, 64))
    data = pixels.written(pixels.finished(drawn, (64, 64), None), "png")
    assert (np.asarray(Image.open(io.BytesIO(data))) == drawn).all()


@pytest.mark.proc
@pytest.mark.parametrize("module", ["engines.pixels", "engines.fake"])
def test_codecs_are_there_before_the_first_picture(module):
    """Pillow takes them in at the first file else, WebP with all it knows: 40 ms that a visitor waits."""
    code = f"""
import io, sys, {module}
from PIL import Image
before = set(sys.modules)
for format in ("JPEG", "PNG", "WEBP"):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format)
    Image.open(file, formats=("PNG", "JPEG", "WEBP")).load()
print(*sorted(set(sys.modules) - before))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    small = {"PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.PpmImagePlugin"}  # 1 ms, at any first file
    assert set(told.stdout.split()) <= small
