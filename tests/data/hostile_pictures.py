"""Hostile picture files: bombs, cuts, lies about what they are; and odd ones that are sound."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

from tests.data.hostile import MAX_PIXELS, Place, case, image

SIDE = 1 + int(MAX_PIXELS**0.5)


def _as(mode: str, form: str, **options: Any) -> Any:
    def make(place: Place) -> bytes:
        file = io.BytesIO()
        Image.open(io.BytesIO(place.picture(1))).convert(mode).save(file, form, **options)
        return file.getvalue()

    return make


def _sixteen_bits(place: Place) -> bytes:
    """The picture in greys that reach from black to white; `convert` leaves them among the lowest 256 of 65,536."""
    file = io.BytesIO()
    grey = Image.open(io.BytesIO(place.picture(1))).convert("L").convert("I")
    grey.point(lambda value: value * 257).convert("I;16").save(file, "PNG")
    return file.getvalue()


def _frames(form: str) -> Any:
    def make(place: Place) -> bytes:
        frames = [Image.open(io.BytesIO(place.picture(number))) for number in (1, 2, 3)]
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:])
        return file.getvalue()

    return make


def png(width: int, height: int, *more: tuple[bytes, bytes], depth: int = 8, data: bytes | None = None) -> bytes:
    """A PNG that claims this size, with chunks `more` before its data (None: rows of zeros, as many as it claims)."""
    rows = zlib.compress(bytes(min((width * depth // 8 + 1) * height, 4 << 20))) if data is None else data
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    chunks = [header, *more, (b"IDAT", rows), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _exif(place: Place, orientation: int, broken: bool = False) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data: bytes = _as("RGB", "WEBP" if broken else "JPEG", exif=exif)(place)
    return data.replace(b"MM\0*", b"MM\0!") if broken else data


def _scans(place: Place) -> bytes:
    """A progressive JPEG whose last scan stands in it again and again: each costs a pass over all pixels."""
    data = _as("RGB", "JPEG", progressive=True)(place)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 5000 + b"\xff\xd9"


# Cuts and damage.
image("a-picture-of-no-bytes", "shard/empty-image", lambda place: b"")
image("a-jpeg-cut-in-half", "shard/truncated-image", lambda place: _half(place.picture(1, (200, 200), "JPEG")), "1.jpg")
image("a-png-cut-in-half", "shard/truncated-image", lambda place: _half(place.picture(1, (200, 200))))
image("a-webp-cut-in-half", "shard/corrupt-image", lambda place: _half(place.picture(1, (200, 200), "WEBP")), "1.webp")
image("a-png-with-a-wrong-checksum", "shard/corrupt-image", lambda place: place.picture(1).replace(b"IDAT", b"IDAx", 1))
image("a-png-whose-data-are-noise", "shard/corrupt-image", lambda place: png(20, 20, data=b"\x99" * 500))
image("a-png-of-no-width", "shard/corrupt-image", lambda place: png(0, 20))
image("a-jpeg-of-a-header-alone", "shard/corrupt-image", lambda place: b"\xff\xd8\xff\xe0", "1.jpg")
image(
    "a-tiff-that-points-behind-its-end",
    "shard/corrupt-image",
    lambda place: b"II*\0" + struct.pack("<I", 2**31),
    "1.tiff",
)
image("exif-that-cannot-be-read", "shard/corrupt-metadata", lambda place: _exif(place, 6, broken=True), "1.webp")

# Bombs.
image("a-png-bomb", "shard/too-many-pixels", lambda place: png(60_000, 60_000))
image("a-gif-bomb", "shard/too-many-pixels", lambda place: _gif(place.picture(1, form="GIF"), 65_535), "1.gif")
image("a-bmp-bomb", "shard/too-many-pixels", lambda place: _bmp(2**31 - 1, 2**31 - 1), "1.bmp")
image("a-bmp-of-negative-height", "shard/too-many-pixels", lambda place: _bmp(9000, -9000), "1.bmp")
image("a-strip-of-pixels", "shard/too-many-pixels", lambda place: png(1, MAX_PIXELS + 1))
image("just-too-many-pixels", "shard/too-many-pixels", lambda place: png(SIDE, SIDE))
image("a-text-bomb-in-a-png", "shard/corrupt-image", lambda place: png(20, 20, (b"zTXt", b"a\0\0" + _zeros(9 << 20))))
image("a-colour-profile-bomb", "shard/corrupt-image", lambda place: png(20, 20, (b"iCCP", b"a\0\0" + _zeros(9 << 20))))
image("a-jpeg-of-5000-scans", "shard/too-many-scans", _scans, "1.jpg")

# Something else.
image("noise", "shard/unsupported-format", lambda place: bytes(range(7, 256)) * 20)
image(
    "an-error-page", "shard/unsupported-format", lambda place: b"<!DOCTYPE html><title>404 Not Found</title>", "1.jpg"
)
image("a-drawing-that-reads-files", "shard/unsupported-format", lambda place: SVG, "1.svg")
image("a-program-in-postscript", "shard/unsupported-format", lambda place: EPS, "1.eps")
image("an-icon", "shard/unsupported-format", _as("RGBA", "ICO"), "1.ico")
image("a-pointer-of-git-lfs", "shard/unsupported-format", lambda place: b"version https://git-lfs.github.com/spec/v1\n")
image("pixels-without-a-range", "shard/unsupported-mode", _as("F", "TIFF"), "1.tiff")

# Odd, but sound.
image("a-png-called-jpg", None, lambda place: place.picture(1), "1.jpg")
image("a-jpeg-without-an-ending", None, lambda place: place.picture(1, form="JPEG"), "picture")
image("inks-for-colours", None, _as("CMYK", "JPEG"), "1.jpg")
image("sixteen-bits", None, _sixteen_bits)
image("sixteen-bits-nearly-black", "image/blank", _as("I;16", "PNG"))
image("a-palette-with-holes", None, _as("P", "PNG", transparency=1))
image("a-gif-that-moves", None, _frames("GIF"), "1.gif")
image("a-webp-that-moves", None, _frames("WEBP"), "1.webp")
image("a-png-that-moves", None, _frames("PNG"))
image("a-camera-held-upright", None, lambda place: _exif(place, 6), "1.jpg")
image("an-orientation-that-is-none", None, lambda place: _exif(place, 99), "1.jpg")
image("an-archive-behind-a-picture", None, lambda place: place.picture(1) + b"PK\3\4" + b"\0" * 500)

# Sound, but of no use.
image("one-pixel", "image/too-small", lambda place: place.picture(1, (1, 1)))
image("a-ribbon", "image/too-long", lambda place: place.picture(1, (16, 4000)))
image("nothing-but-white", "image/blank", lambda place: png(64, 64))

SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY s SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><text>&s;</text></svg>"""
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/was-here) (w) file closefile\nshowpage\n%%EOF\n"


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def _gif(data: bytes, side: int) -> bytes:
    return data[:6] + struct.pack("<HH", side, side) + data[10:]


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 600, 0, 0, 54) + header + bytes(600)


@case({1: "shard/file-too-large"})
def a_file_of_many_gigabytes(place: Place) -> None:
    """Full of holes, so it takes no room; who reads it whole takes 64 GB of memory."""
    place.records(place.sample(1), pictures={"1.png": place.picture(1)})
    with (place.images / "1.png").open("r+b") as file:
        file.truncate(64 << 30)
