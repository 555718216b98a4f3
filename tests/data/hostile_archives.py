"""Hostile archives: members that lead out, bombs, lies about sizes, and what may stand in the place of an archive."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from tests.data.hostile import CASES, Case, Expected, Place, case, link

DEFLATED, BZIP2, LZMA = 8, 12, 14
BOMB = 3 << 30
"""Bytes that a bomb of a kilobyte or a few unpacks to."""


def _tar(members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _member(name: str, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(info, key, value)
    return info


def _in_tar(name: str, expected: Expected, *members: Callable[[Place], tuple[tarfile.TarInfo, bytes]]) -> None:
    """A case whose row 1 asks for the first member of a tar."""

    def build(place: Place) -> None:
        made = [make(place) for make in members]
        place.archive(_tar(made), "tar", place.sample(1, made[0][0].name))

    CASES[name] = Case(name, build, expected)


def _of_kind(kind: bytes, **more: Any) -> Callable[[Place], tuple[tarfile.TarInfo, bytes]]:
    return lambda place: (_member("1.png", type=kind, **more), b"")


_in_tar("a-member-that-climbs", {1: "ingest/path-outside"}, lambda place: (_member("../../1.png"), place.picture(1)))
_in_tar("a-member-from-the-root", {1: "ingest/path-outside"}, lambda place: (_member("/tmp/1.png"), place.picture(1)))
_in_tar("a-symbolic-link-in-a-tar", {1: "shard/not-a-file"}, _of_kind(tarfile.SYMTYPE, linkname="/etc/passwd"))
_in_tar("a-hard-link-in-a-tar", {1: "shard/not-a-file"}, _of_kind(tarfile.LNKTYPE, linkname="../../outside/secret.png"))
_in_tar("a-device-in-a-tar", {1: "shard/not-a-file"}, _of_kind(tarfile.CHRTYPE, devmajor=1, devminor=5))
_in_tar("a-pipe-in-a-tar", {1: "shard/not-a-file"}, _of_kind(tarfile.FIFOTYPE))
_in_tar("a-folder-in-a-tar", {1: "shard/not-a-file"}, _of_kind(tarfile.DIRTYPE))
_in_tar(
    "holes-in-a-tar", {1: "shard/not-a-file"}, lambda place: (_member("1.png", type=tarfile.GNUTYPE_SPARSE), bytes(512))
)
_in_tar(
    "a-member-twice", {}, lambda place: (_member("1.png"), b"old"), lambda place: (_member("1.png"), place.picture(1))
)
_in_tar("a-name-of-300-letters-in-a-tar", {}, lambda place: (_member("x" * 300 + ".png"), place.picture(1)))
_in_tar(
    "a-tar-in-a-tar",
    {1: "shard/unsupported-format"},
    lambda place: (_member("1.png"), _tar([(_member("1.png"), place.picture(1))])),
)


def _changed_tar(name: str, expected: Expected, change: Callable[[bytearray], bytes | bytearray]) -> None:
    """A case whose row 1 asks for the second member of a tar that was changed."""

    def build(place: Place) -> None:
        members = [(_member(f"{number}.png"), place.picture(number)) for number in (7, 1, 8)]
        place.archive(bytes(change(bytearray(_tar(members)))), "tar", place.sample(1))

    CASES[name] = Case(name, build, expected)


def _second(data: bytearray) -> int:
    return data.index(b"1.png\0")


def _with_size(data: bytearray, size: bytes) -> bytearray:
    """The second header with another size, and a checksum that fits."""
    at = _second(data)
    data[at + 124 : at + 136] = size
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return data


def _with_nul(data: bytearray) -> bytearray:
    """The second name with more behind a NUL, which ends a name in a tar."""
    at = _second(data)
    data[at : at + 12] = b"1.png\0/../x" + b"\0"
    return _with_size(data, bytes(data[at + 124 : at + 136]))


_changed_tar("a-tar-cut-in-a-picture", r"cannot be read as a tar archive", lambda data: data[: _second(data) + 700])
_changed_tar("a-tar-cut-in-a-header", r"cannot be read as a tar archive", lambda data: data[: _second(data) + 99])
_changed_tar(
    "a-tar-damaged-in-the-middle", r"cannot be read as a tar archive", lambda data: data.replace(b"1.png", b"2.png")
)
_changed_tar("a-tar-of-no-bytes", r"cannot be read as a tar archive", lambda data: b"")
_changed_tar("a-tar-of-noise", r"cannot be read as a tar archive", lambda data: b"\x07noise" * 999)
_changed_tar("a-tar-packed-by-gzip", r"cannot be read as a tar archive", lambda data: gzip.compress(data))
_changed_tar(
    "a-size-below-nothing", r"cannot be read as a tar archive", lambda data: _with_size(data, b"\xff" * 10 + b"\xfc\0")
)
_changed_tar(
    "a-size-beyond-all",
    r"cannot be read as a tar archive",
    lambda data: _with_size(data, b"\x80\0\0\0\x7f" + b"\xff" * 7),
)
_changed_tar(
    "a-size-that-is-no-number", r"cannot be read as a tar archive", lambda data: _with_size(data, b"nan\0" * 3)
)
_changed_tar("a-nul-in-a-name-in-a-tar", {}, _with_nul)


def _zip(members: dict[str, tuple[bytes, int]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, (data, method) in members.items():
            archive.writestr(name, data, compress_type=method)
    return file.getvalue()


def _lying_zip(packed: bytes, method: int, size: int, crc: int = 0) -> bytes:
    """A zip of one member 1.png: `packed` by `method`, which it says unpacks to `size` bytes."""
    name = b"1.png"
    facts = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0x21, crc, len(packed), size, len(name), 0)
    local = b"PK\3\4" + facts + name + packed
    central = b"PK\1\2" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + central + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


def _in_zip(name: str, expected: Expected, make: Callable[[Place], bytes], asked: str = "1.png") -> None:
    CASES[name] = Case(name, lambda place: place.archive(make(place), "zip", place.sample(1, asked)), expected)


def _deflate_bomb() -> bytes:
    """A deflate stream of `BOMB` zeros; after its start it repeats itself, so it need not be computed whole."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)


def _repeated(place: Place) -> bytes:
    # Each piece ends at a byte with nothing to look back to, so pieces may follow one another.
    return _lying_zip(_deflate_bomb() * (BOMB // (16 << 20)) + b"\3\0", DEFLATED, 900)


def _bzip2_bomb(place: Place) -> bytes:
    return _lying_zip(bz2.compress(bytes(8 << 20)), BZIP2, 900)


def _lzma_bomb(place: Place) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16}]
    packed = lzma.compress(bytes(8 << 20), lzma.FORMAT_RAW, filters=filters)
    return _lying_zip(struct.pack("<BBH", 9, 4, 5) + struct.pack("<BI", 93, 1 << 16) + packed, LZMA, 900)


_in_zip(
    "zip-slip", {1: "ingest/path-outside"}, lambda place: _zip({"../../1.png": (place.picture(1), 0)}), "../../1.png"
)
_in_zip(
    "zip-slip-by-backslashes", {1: "ingest/path-outside"}, lambda place: _zip({"..\\1.png": (b"x", 0)}), "..\\1.png"
)
_in_zip("a-zip-bomb", {1: "shard/file-too-large"}, lambda place: _zip({"1.png": (bytes(16 << 20), DEFLATED)}))
_in_zip("a-zip-bomb-that-lies", {1: "shard/damaged-archive-member"}, _repeated)
_in_zip("a-bzip2-bomb-that-lies", {1: "shard/damaged-archive-member"}, _bzip2_bomb)
_in_zip("an-lzma-bomb-that-lies", {1: "shard/damaged-archive-member"}, _lzma_bomb)
_in_zip("a-size-too-large", {1: "shard/damaged-archive-member"}, lambda place: _lying_zip(b"\3\0", DEFLATED, 5000))
_in_zip("a-checksum-that-is-wrong", {1: "shard/damaged-archive-member"}, lambda place: _lying_zip(b"abc", 0, 3, crc=1))
_in_zip(
    "noise-for-packed-data", {1: "shard/damaged-archive-member"}, lambda place: _lying_zip(b"\xff" * 99, DEFLATED, 900)
)
_in_zip("a-method-that-nobody-knows", {1: "shard/unsupported-compression"}, lambda place: _lying_zip(b"abc", 97, 3))
_in_zip(
    "a-zip-in-a-zip", {1: "shard/unsupported-format"}, lambda place: _zip({"1.png": (_zip({"1.png": (b"", 0)}), 0)})
)
_in_zip(
    "a-nul-in-a-name-in-a-zip",
    {},
    lambda place: _zip({"1.pngX.exe": (place.picture(1), 0)}).replace(b"1.pngX", b"1.png\0"),
)
_in_zip("a-zip-cut-off", r"cannot be read as a zip archive", lambda place: _zip({"1.png": (place.picture(1), 0)})[:-30])
_in_zip("a-zip-of-no-bytes", r"cannot be read as a zip archive", lambda place: b"")
_in_zip(
    "a-tar-called-zip", r"cannot be read as a zip archive", lambda place: _tar([(_member("1.png"), place.picture(1))])
)


@case({1: "shard/encrypted-archive-member"})
def a_zip_with_a_password(place: Place) -> None:
    data = bytearray(_zip({"1.png": (place.picture(1), 0)}))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    place.archive(bytes(data), "zip", place.sample(1))


@case({1: "shard/not-a-file"})
def a_symbolic_link_in_a_zip(place: Place) -> None:
    info = zipfile.ZipInfo("1.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    place.archive(file.getvalue(), "zip", place.sample(1))


# In the place of an archive.
def _archive_instead(name: str, expected: str, make: Callable[[Place], None]) -> None:
    """A case with something called pictures.tar in its image folder."""

    def build(place: Place) -> None:
        place.records()
        make(place)

    CASES[name] = Case(name, build, expected)


_archive_instead("a-pipe-for-an-archive", "is no ordinary file", lambda place: os.mkfifo(place.images / "pictures.tar"))
_archive_instead(
    "a-link-to-no-archive", "is no ordinary file", lambda place: link(place.images / "pictures.tar", "gone.tar")
)
_archive_instead(
    "a-link-to-a-foreign-archive",
    "is a link that leaves",
    lambda place: link(place.images / "pictures.tar", place.outside / "secret.tar"),
)
_archive_instead(
    "a-cut-tar-gz",
    "is a compressed tar",
    lambda place: (place.images / "a.tar.gz").write_bytes(b"\x1f\x8b\x08") and None,
)


@case({})
def a_folder_of_archives_on_another_disk(place: Place) -> None:
    """The entry of the catalog names the folder, so it may be a link; what lies in it may not."""
    place.records(place.sample(1))
    disk = place.workshop.folder / "disk"
    disk.mkdir()
    (place.images / "pictures.tar").write_bytes(_tar([(_member("1.png"), place.picture(1))]))
    images = place.images
    images.rename(disk / images.name)
    link(images, disk / images.name)


@case(r"gone\.tar is missing: the pictures of this source")
def an_archive_that_is_missing(place: Place) -> None:
    place.records()
    place.workshop.sources[place.name]["origin"]["images"].append(f"{place.name}-gone.tar")


@case(r"was there at ingest and is missing now", shard=lambda place: (place.folder / f"{place.name}.tar").unlink())
def an_archive_gone_after_ingest(place: Place) -> None:
    place.archive(_tar([(_member("1.png"), place.picture(1))]), "tar", place.sample(1))


@case(
    r"has changed since ingest", shard=lambda place: (place.folder / f"{place.name}.tar").write_bytes(b"other") and None
)
def an_archive_changed_after_ingest(place: Place) -> None:
    place.archive(_tar([(_member("1.png"), place.picture(1))]), "tar", place.sample(1))
