"""Curation measures and scores the pixels that training sees, whatever mode a picture is saved in."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion.data.curate.blocks.scores import pictures
from fusion.data.store.pixels import measure
from fusion.model.images import decode_image
from tests.data.workshop import Workshop, picture, sample

MODES = ("16-bit grey", "RGBA", "P", "LA", "RGB with a transparent colour", "CMYK", "1", "L", "turned", "frames")


def drawing(kind: str, seed: int, side: int) -> bytes:
    """An encoded picture of the kind; where it may be transparent, lines in black on nothing."""
    generator = np.random.default_rng(seed)
    image = Image.open(io.BytesIO(picture(seed, (side, side // 2))))
    grey = image.convert("L")
    lines = Image.fromarray((np.asarray(grey) > generator.integers(60, 200)).astype(np.uint8) * 255)
    black = Image.new("L", image.size)
    more: dict[str, Any] = {}
    form = "PNG"
    if kind == "16-bit grey":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif kind == "RGBA":
        image = Image.merge("RGBA", (black, black, black, lines))
    elif kind == "LA":
        image = Image.merge("LA", (black, lines))
    elif kind == "P":
        image, more["transparency"] = image.quantize(8), int(generator.integers(0, 8))
    elif kind == "RGB with a transparent colour":
        more["transparency"] = image.getpixel((0, 0))
    elif kind == "CMYK":
        image, form = image.convert("CMYK"), "TIFF"
    elif kind == "turned":
        more["exif"] = Image.Exif()
        more["exif"][0x0112] = int(generator.integers(2, 9))
    elif kind == "frames":
        form, more["save_all"], more["append_images"] = "WEBP", True, [image.rotate(180)]
    else:
        image = image.convert(kind)
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def plain(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(MODES), seed=st.integers(0, 2**32 - 1), side=st.sampled_from([16, 90, 700]))
def test_what_is_measured_is_what_training_sees(kind: str, seed: int, side: int):
    data = drawing(kind, seed, side)
    seen = measure(plain(decode_image(data)), 10**6)
    found = measure(data, 10**6)
    for name in ("pdq", "pdq_quality", "contrast", "colours"):
        assert getattr(found, name) == getattr(seen, name), name


@pytest.mark.parametrize("kind", MODES)
def test_what_is_scored_is_what_training_sees(tmp_path: Path, kind: str):
    data = drawing(kind, 1, 90)
    (tmp_path / "shard").write_bytes(b"before" + data + b"behind")
    frame = pl.DataFrame({"image_sha256": ["a"], "shard": ["shard"], "image_offset": [6], "image_size": [len(data)]})
    shown = cast(Iterator[tuple[str, Image.Image]], pictures(cast(Any, SimpleNamespace(root=tmp_path)), frame, "test"))
    assert [(name, image.mode, image.tobytes()) for name, image in shown] == [
        ("a", "RGB", decode_image(data).tobytes())
    ]


def test_drawings_without_a_ground_and_deep_greys_are_not_blank(workshop: Workshop):
    kinds = ("16-bit grey", "RGBA", "LA")
    images = {f"{number}.png": drawing(kind, number, 90) for number, kind in enumerate(kinds)}
    workshop.add("s", [sample(number) for number in range(len(kinds))], images)
    manifest, _, _ = workshop.curate()
    assert manifest["row"].to_list() == [0, 1, 2]
