"""A picture's bytes, really decoded: what it measures, or why it cannot be used. Guarded against bombs.

Hash, contrast and colours are those of the pixels that training sees; width and height those of the file, unturned.
"""

import hashlib
import io
import math
from dataclasses import dataclass

import numpy as np
import pdqhash
from PIL import Image, UnidentifiedImageError

from fusion.data.ingest.record import Reject
from fusion.rgb import upright_rgb

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}
"""The formats that are accepted, and how their files are named in a shard."""
_BYTE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
MODES = _BYTE_MODES | {"I", "I;16", "I;16L", "I;16B", "I;16N"}
"""Pillow's pixel modes that training can read; the others (floating point) have no defined range of values."""
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""The first bytes of files of these formats; others are no pictures, or of a format that is not read."""
_MOST_SCANS = 500
"""Of a JPEG. A progressive one has about ten, and each costs a pass over all pixels."""
_HASHED_SIDE = 512
"""Pixels. PDQ works on 64 x 64 pixels inside; a larger picture is first made smaller, which bounds its cost."""

_LEVELS = np.arange(256, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Measured:
    """`sha256` of the bytes; `pdq` 32 bytes and its `pdq_quality` 0-100; `contrast` = standard deviation, 0-127.5."""

    extension: str
    sha256: str
    pdq: bytes
    pdq_quality: int
    width: int
    height: int
    contrast: float
    colours: bytes
    """Mean colours of a grid of 4 x 4, RGB: PDQ sees brightness alone, so two flags may have one hash."""


def measure(data: bytes, max_pixels: int) -> Measured | Reject:
    """Decodes and measures a picture of at most `max_pixels` pixels."""
    if not data:
        return Reject("empty-image", "the file has no bytes")
    if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > _MOST_SCANS:
        return Reject("too-many-scans", f"{scans} scans, limit {_MOST_SCANS}")
    try:
        with Image.open(io.BytesIO(data), formats=tuple(EXTENSIONS)) as image:
            width, height = image.size
            if width < 1 or height < 1:
                return Reject("corrupt-image", f"{width} x {height} pixels")
            if width * height > max_pixels:
                return Reject("too-many-pixels", f"{width} x {height} pixels, limit {max_pixels}")
            # Many cameras put a second picture behind the first of a JPEG; Pillow calls that MPO.
            extension = EXTENSIONS["JPEG" if image.format == "MPO" else image.format or ""]
            image.load()
            if image.mode not in MODES:
                return Reject("unsupported-mode", f"pixels of mode {image.mode} have no defined range of values")
            pixels = _seen(image)
            if isinstance(pixels, Reject):
                return pixels
    except MemoryError:
        return Reject("out-of-memory", f"{len(data)} bytes that cannot be decoded with the memory there is")
    except UnidentifiedImageError:
        reason = "corrupt-image" if data.startswith(_STARTS) else "unsupported-format"
        return Reject(reason, f"{len(data)} bytes starting {data[:16]!r} are none of {', '.join(EXTENSIONS)}")
    except Exception as error:  # decoders raise whatever their libraries do; each means the same here
        reason = "truncated-image" if "truncated" in str(error).lower() else "corrupt-image"
        return Reject(reason, f"{type(error).__name__}: {error}; {len(data)} bytes starting {data[:8].hex()}")
    if max(pixels.size) > _HASHED_SIDE:
        pixels.thumbnail((_HASHED_SIDE, _HASHED_SIDE), Image.Resampling.BOX)
    bits, quality = pdqhash.compute(np.asarray(pixels))
    return Measured(
        extension=extension,
        sha256=hashlib.sha256(data).hexdigest(),
        pdq=np.packbits(np.asarray(bits, dtype=np.uint8)).tobytes(),
        pdq_quality=int(quality),
        width=width,
        height=height,
        contrast=_contrast(pixels),
        colours=pixels.resize((4, 4), Image.Resampling.BOX).tobytes(),
    )


def _seen(image: Image.Image) -> Image.Image | Reject:
    """What training sees of a decoded picture; whatever goes wrong lies in what it uses beside the pixels."""
    try:
        return upright_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # as above
        return Reject("corrupt-metadata", f"{type(error).__name__}: {error}")


def _contrast(pixels: Image.Image) -> float:
    """The largest standard deviation of a channel of an RGB picture, from whole numbers: exact everywhere.

    Not of the greys: orange on grey of the same brightness is no blank picture.
    """
    counts = np.asarray(pixels.histogram(), dtype=np.int64).reshape(3, 256)
    total, squares = (counts @ _LEVELS).tolist(), (counts @ (_LEVELS * _LEVELS)).tolist()
    size = pixels.width * pixels.height
    variances = (square * size - value * value for value, square in zip(total, squares, strict=True))
    return round(math.sqrt(max(variances)) / size, 4)
