"""The RGB pixels that a picture stands for: what training sees of it, and so what curation has to look at.

Pillow and NumPy are imported where a picture is at hand: reading params.yaml asks for the limit alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs, made an error in training whatever the process has set."""

_ORIENTATION = 0x0112
"""The tag of EXIF that says how to turn a picture upright."""
_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_PLAIN_MODES = ("1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX")


class ModeError(ValueError):
    """Pixels of this mode, such as floating-point numbers, have no defined range of values."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, turned upright as its EXIF says; of an animation the first frame.

    Transparency (RGBA, LA, palettes and tRNS chunks) is composited on white. CMYK, YCbCr, LAB, HSV, greyscale, palette
    and 1-bit pictures are converted by Pillow. 16-bit greyscale is scaled from 0..65535 to 0..255 with rounding (32-bit
    integers are clipped to 16 bits first). A picture that is RGB and upright comes back itself.

    Raises:
        ModeError: see there.
        Exception: whatever Pillow's decoders raise for damage.
    """
    from PIL import ImageOps

    if getattr(image, "is_animated", False):
        image.seek(0)
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image as Pillow

    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Pillow.new("RGBA", layer.size, (255, 255, 255, 255))
        return Pillow.alpha_composite(canvas, layer).convert("RGB")
    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BIT_MODES:
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Pillow.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in _PLAIN_MODES:
        return image.convert("RGB")
    raise ModeError(f"pictures of mode {image.mode!r} have no defined range of values")
