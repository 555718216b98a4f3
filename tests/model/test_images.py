"""Decoding of odd pictures and the five views."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion.model.images import decode_image, normalize_pixels, static_hd
from fusion.model.template import SampleError
from tests.model.tiny import picture, png


def test_normalisation_is_bit_equal_for_every_value() -> None:
    values = np.arange(256, dtype=np.uint8)
    expected = ((values * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)
    assert np.array_equal(normalize_pixels(torch.from_numpy(values)).numpy(), expected)


def test_views_are_tiles_then_thumbnail() -> None:
    image = Image.new("RGB", (16, 16))
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for index, colour in enumerate(colours):
        image.paste(colour, (8 * (index % 2), 8 * (index // 2), 8 * (index % 2) + 8, 8 * (index // 2) + 8))
    views = static_hd(image, 8)
    assert views.shape == (5, 3, 8, 8) and views.dtype == np.uint8
    for index, colour in enumerate(colours):
        assert (views[index] == np.array(colour, dtype=np.uint8)[:, None, None]).all()
    assert np.array_equal(views[4], np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50))
def test_any_size_gives_five_views(width: int, height: int) -> None:
    assert static_hd(decode_image(png(picture(0, (width, height)))), 8).shape == (5, 3, 8, 8)


def test_transparency_is_composited_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    grey = Image.new("LA", (4, 4), (7, 0))
    keyed = png(Image.new("RGB", (4, 4)), transparency=(0, 0, 0))
    for source in (clear, png(clear), png(palette, transparency=0), grey, keyed):
        assert (np.asarray(decode_image(source)) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_modes_are_converted(mode: str) -> None:
    source = picture(1).convert("RGB") if mode == "LAB" else picture(1).convert(mode)
    if mode == "LAB":
        source = Image.merge("LAB", picture(1).split())
    assert decode_image(source).mode == "RGB"


def test_sixteen_bits_are_scaled() -> None:
    values = np.array([[0, 257, 65535, 128 * 257]], dtype=np.uint16)
    decoded = np.asarray(decode_image(png(Image.fromarray(values))))
    assert decoded[0, :, 0].tolist() == [0, 1, 255, 128]


def test_orientation_is_applied_and_the_first_frame_taken() -> None:
    image = Image.new("RGB", (4, 8), (9, 9, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue()).size == (8, 4)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(buffer.getvalue()).getpixel((0, 0)) == (255, 0, 0)


def _truncated() -> bytes:
    buffer = io.BytesIO()
    picture(0, (64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()[:-400]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "image_unreadable"),
        (b"not an image", "image_unreadable"),
        (_truncated(), "image_unreadable"),
        (Image.new("RGB", (0, 5)), "image_empty"),
        (Image.new("F", (4, 4)), "image_mode_unsupported"),
        (png(Image.new("1", (30_000, 30_000))), "image_too_large"),
    ],
)
def test_unusable_pictures_have_a_reason(source: Image.Image | bytes, reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        decode_image(source)
    assert caught.value.reason == reason


def test_a_long_thin_picture_is_fine() -> None:
    assert static_hd(decode_image(png(Image.new("L", (30_000, 1), 200))), 8).max() == 200
