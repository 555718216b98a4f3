"""Image decoding and the `static_hd` preparation: one picture in, five square uint8 pictures out.

Source: design heading "Image input (static_hd)".
"""

from __future__ import annotations

import base64
import binascii
import io
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fusion.model.template import SampleError
from fusion.rgb import MAX_PIXELS, ModeError, upright_rgb

NUM_VIEWS = 5
# Everything that opens a picture goes through these decoders alone: others of Pillow's are old and seldom looked at.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Most bytes that are read from an address, and how long it may be silent, in seconds.
MAX_DOWNLOAD = 64 * 1024 * 1024
DOWNLOAD_TIMEOUT = 20


def _open(source: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(source), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise SampleError("image_too_large", str(error)) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise SampleError("image_unreadable", f"{type(error).__name__}: {error}") from error
    return image


def load_image(source: Any, *, allow_urls: bool = False) -> Image.Image:
    """An RGB picture from whatever a chat message may hold.

    Args:
        source: a PIL image; bytes of an encoded file; a path; "data:image/...;base64,..."; an http(s) address; or a
            NumPy array, uint8 or bool [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (RGB, RGBA).
        allow_urls: whether addresses are fetched (at most MAX_DOWNLOAD bytes).

    Returns:
        see `decode_image`.

    Raises:
        SampleError: as `decode_image`; also "image_unreadable" for a path or address that cannot be read or may not be.
    """
    if isinstance(source, Image.Image | bytes):
        return decode_image(source)
    if isinstance(source, np.ndarray):
        return decode_image(_from_array(source))
    if not isinstance(source, str | Path):
        raise SampleError("image_unreadable", f"{type(source).__name__} is no picture, path, address or array")
    text = str(source)
    if text.startswith("data:"):
        try:
            return decode_image(base64.b64decode(text.partition(",")[2], validate=True))
        except binascii.Error as error:
            raise SampleError("image_unreadable", f"data address: {error}") from error
    if text.startswith(("http://", "https://")):
        if not allow_urls:
            raise SampleError("image_unreadable", f"{text}: addresses are not fetched unless allow_urls=True")
        return decode_image(_download(text))
    try:
        return decode_image(Path(text).read_bytes())
    except (OSError, ValueError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError("image_unreadable", f"{text[:200]}: {type(error).__name__}") from error


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        raise SampleError(
            "image_mode_unsupported", f"an array of {array.dtype} has no defined range of values; give uint8, 0 to 255"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise SampleError("image_mode_unsupported", f"an array of shape {array.shape} is not [H, W] or [H, W, 3 or 4]")
    if not array.size:
        raise SampleError("image_empty", f"the array has shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))


def _download(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=DOWNLOAD_TIMEOUT) as answer:
            data: bytes = answer.read(MAX_DOWNLOAD + 1)
    except OSError as error:
        raise SampleError("image_unreadable", f"{address}: {error}") from error
    if len(data) > MAX_DOWNLOAD:
        raise SampleError("image_too_large", f"{address}: is larger than {MAX_DOWNLOAD} bytes")
    return data


def decode_image(source: Image.Image | bytes) -> Image.Image:
    """An RGB picture from an encoded file (of IMAGE_FORMATS) or a PIL image.

    What becomes of transparency, 16 bits, EXIF and animations: see `upright_rgb`. The model sees what a person is
    shown; the reference implementation ignores EXIF orientation.
    A picture of one pixel is valid.

    Raises:
        SampleError: "image_unreadable" (not an image, truncated), "image_empty" (no pixels), "image_too_large"
            (more than MAX_PIXELS pixels), "image_mode_unsupported" (floating point and other modes without a range).
    """
    image = _open(source) if isinstance(source, bytes) else source
    width, height = image.size
    if width < 1 or height < 1:
        raise SampleError("image_empty", f"the image has size {width} x {height}")
    if width * height > MAX_PIXELS:
        raise SampleError("image_too_large", f"{width} x {height} pixels are more than {MAX_PIXELS}")
    try:
        return upright_rgb(image)
    except ModeError as error:
        raise SampleError("image_mode_unsupported", str(error)) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise SampleError("image_unreadable", f"{type(error).__name__}: {error}") from error


def static_hd(image: Image.Image, size: int, room: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
    """Four tiles and the thumbnail of an RGB picture.

    The picture is squashed (not letter-boxed) to 2S x 2S and cut into tiles in the order top-left, top-right,
    bottom-left, bottom-right; the thumbnail is the same picture squashed to S x S. Resampling is bicubic.

    Args:
        image: RGB picture of any size.
        size: S, pixels.
        room: uint8 [5, 3, S, S] that is filled and returned; None = a new array.

    Returns:
        uint8 [5, 3, S, S], the thumbnail last.
    """
    views = np.empty((NUM_VIEWS, 3, size, size), dtype=np.uint8) if room is None else room
    tiles = views[:4].reshape(2, 2, 3, size, size)
    # Band by band: an array of interleaved bands takes as long to put in order as a quarter of the resizing.
    for number, band in enumerate(image.resize((2 * size, 2 * size), Image.Resampling.BICUBIC).split()):
        tiles[:, :, number] = np.asarray(band).reshape(2, size, 2, size).swapaxes(1, 2)
    for number, band in enumerate(image.resize((size, size), Image.Resampling.BICUBIC).split()):
        views[4, number] = np.asarray(band)
    return views


def normalize_pixels(pixels: Tensor) -> Tensor:
    """uint8 pixels to float32 with mean 0.5 and deviation 0.5, on the device the pixels are on.

    Bit-equal to scaling by 1/255 in double precision, rounding to single and normalising, for all 256 values.
    """
    return pixels.to(torch.float32).div_(255).sub_(0.5).div_(0.5)
