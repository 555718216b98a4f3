"""Pictures for a page: read from a shard or a benchmark by byte range, made small, as data addresses."""

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SIDE = 176
"""The longest side in pixels of a picture on the page; shown at about half of that."""

PLAIN_BYTES = 6_000
MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def read_range(path: Path, offset: int, size: int) -> bytes:
    """The bytes at a place in a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def data_address(encoded: bytes) -> str | None:
    """A `data:` address that shows the picture, or None when it cannot be decoded.

    Small files in a web format go in untouched, others as WebP of at most `SIDE` pixels.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            kind = MIME.get(image.format or "")
            if kind is None or len(encoded) > PLAIN_BYTES or max(image.size) > 2 * SIDE:
                picture = image.convert("RGBA" if image.mode in ("RGBA", "LA", "P", "PA") else "RGB")
                picture.thumbnail((SIDE, SIDE))
                buffer = io.BytesIO()
                picture.save(buffer, "WEBP", quality=82, method=4)
                kind, encoded = "image/webp", buffer.getvalue()
            else:
                image.load()
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    return f"data:{kind};base64,{base64.b64encode(encoded).decode()}"
