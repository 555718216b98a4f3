"""Hostile annotation files, and what may stand where a file was expected."""

import bz2
import gzip
import json
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.data.hostile import Case, Place, case, file, link, row


def _lines(place: Place, end: str = "\n", count: int = 3) -> str:
    return end.join(
        json.dumps(place.text(f"{number}?", f"{place.seed + number} and no more")) for number in range(count)
    )


def _damaged(name: str, expected: str, change: Callable[[bytes], bytes]) -> None:
    file(name, expected, lambda place: change(_lines(place).encode()))


# Encodings.
file("a-byte-order-mark", {}, lambda place: b"\xef\xbb\xbf" + _lines(place).encode())
file("lines-as-windows-ends-them", {}, lambda place: _lines(place, "\r\n").encode() + b"\r\n")
file(
    "lines-ended-in-two-ways",
    {3: "ingest/no-conversations"},
    lambda place: b"\r\n\n \r\n".join([_lines(place).encode(), b"{}"]),
)
_damaged("latin-1", r"not UTF-8 at byte .*save it as UTF-8", lambda data: data.replace(b"no more", b"no m\xf6re"))
_damaged("two-encodings", r"not UTF-8 at byte", lambda data: data + b"\n" + '{"a": "ü"}'.encode("latin-1"))
_damaged("utf-16", r"is UTF-16, not UTF-8", lambda data: data.decode().encode("utf-16"))
_damaged("utf-32", r"is UTF-32, not UTF-8", lambda data: data.decode().encode("utf-32"))
_damaged("a-mark-in-the-middle", r"not valid JSON: .* line 4", lambda data: data + b"\n\xef\xbb\xbf" + data)
_damaged("half-a-character-at-the-end", r"not UTF-8 at byte", lambda data: data[:-1] + b"\xe2\x82")

# Form.
file("a-file-of-no-bytes", "holds no sample", lambda place: b"")
file("a-file-of-spaces", "holds no sample", lambda place: b" \r\n\t" * 1000)
file("an-empty-array", "holds no sample", lambda place: b"[]")
file(
    "an-object-around-all",
    {0: "ingest/no-conversations"},
    lambda place: b'{"data": [%s]}' % _lines(place, ",").encode(),
)
file("an-array-cut-off", "the array is not closed", lambda place: b"[" + _lines(place, ",").encode())
file("a-record-cut-off", "not valid JSON", lambda place: _lines(place).encode()[:-9])
file("a-comma-too-many", "not valid JSON", lambda place: b"[%s,]" % _lines(place, ",").encode())
file("text-behind-the-array", "text after the end", lambda place: b"[%s] ]" % _lines(place, ",").encode())
file("a-program", "not valid JSON", lambda place: b"#!/bin/sh\ntouch /tmp/was-here\n")
file("python-for-json", "not valid JSON", lambda place: repr([{"image": None, "id": "a"}]).encode())
file("a-file-of-nuls", "not valid JSON", lambda place: bytes(5000))
file("a-text-without-an-end", "not valid JSON: Unterminated string", lambda place: b'[{"a": "' + b"x" * 3_000_000)
file("brackets-without-an-end", "nested too deeply", lambda place: b"[" * 200_000)
file("a-picture-for-annotations", "not (UTF-8|valid JSON)", lambda place: place.picture())

# Packed.
_damaged("annotations-packed-by-gzip", r"is a gzip file.*unpack", gzip.compress)
_damaged("a-cut-gzip-file", r"is a gzip file.*unpack", lambda data: gzip.compress(data)[:40])
_damaged("annotations-packed-by-bzip2", r"is a bzip2 file.*unpack", bz2.compress)


@case(r"is a zip file.*unpack")
def annotations_packed_by_zip(place: Place) -> None:
    place.annotations(b"")
    with zipfile.ZipFile(place.folder / f"{place.name}.json", "w") as archive:
        archive.writestr("a.json", _lines(place))


# No file where one was expected.
def _instead(name: str, expected: str, make: Callable[[Path], None]) -> None:
    def build(place: Place) -> None:
        place.annotations(b"[]")
        path = place.folder / f"{place.name}.json"
        path.unlink()
        make(path)

    from tests.data.hostile import CASES

    CASES[name] = Case(name, build, expected)


def _listen(path: Path) -> None:
    # The name of a socket may not be longer than 107 bytes, that of a folder below /tmp can be.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


_instead("no-annotations", r"annotation file .* is missing", lambda path: None)
_instead("a-folder-for-annotations", r"annotation file .* is no ordinary file", Path.mkdir)
_instead("a-pipe-for-annotations", r"annotation file .* is no ordinary file", os.mkfifo)
_instead("a-device-for-annotations", r"annotation file .* is no ordinary file", lambda path: link(path, "/dev/zero"))
_instead(
    "annotations-that-point-to-themselves", r"annotation file .* is no ordinary file", lambda path: link(path, path)
)


def _place_of_a_picture(name: str, expected: str | None, make: Callable[[Place, Path], None]) -> None:
    def build(place: Place) -> None:
        place.records(place.sample(1, "1.png"))
        make(place, place.images / "1.png")

    from tests.data.hostile import CASES

    CASES[name] = Case(name, build, {} if expected is None else {1: expected})


_place_of_a_picture("no-picture", "shard/missing-image", lambda place, path: None)
_place_of_a_picture("a-pipe-for-a-picture", "shard/not-a-file", lambda place, path: os.mkfifo(path))
_place_of_a_picture("a-folder-for-a-picture", "shard/not-a-file", lambda place, path: path.mkdir())
_place_of_a_picture("a-socket-for-a-picture", "shard/not-a-file", lambda place, path: _listen(path))
_place_of_a_picture("a-device-for-a-picture", "shard/not-a-file", lambda place, path: link(path, "/dev/zero"))
_place_of_a_picture("a-link-to-itself", "shard/not-a-file", lambda place, path: link(path, "1.png"))
_place_of_a_picture("a-link-to-nothing", "shard/missing-image", lambda place, path: link(path, "gone.png"))
_place_of_a_picture("a-link-out", "shard/link-outside", lambda place, path: link(path, place.outside / "secret.png"))
_place_of_a_picture("a-link-to-passwords", "shard/link-outside", lambda place, path: link(path, "/etc/passwd"))
_place_of_a_picture(
    "a-link-that-climbs", "shard/link-outside", lambda place, path: link(path, "../../../outside/secret.png")
)
row("a-name-too-long", "shard/image-name-too-long", lambda place: place.sample(1, "x" * 300 + ".png"))
row("a-path-through-a-file", "shard/missing-image", lambda place: place.sample(1, "0.png/1.png"))


@case({1: "shard/not-a-file"})
def two_links_to_each_other(place: Place) -> None:
    place.records(place.sample(1, "a/1.png"))
    link(place.images / "a", "b")
    link(place.images / "b", "a")


@case({1: "shard/link-outside"})
def a_folder_that_leads_out(place: Place) -> None:
    place.records(place.sample(1, "a/secret.png"))
    link(place.images / "a", place.outside)


@case({})
def a_link_that_stays_inside(place: Place) -> None:
    place.records(place.sample(1, "a/b.png"), pictures={"c/1.png": place.picture(1)})
    link(place.images / "a/b.png", "../c/1.png")


@case({})
def one_name_in_two_unicode_forms(place: Place) -> None:
    names = ["caf\u00e9.png", "cafe\u0301.png"]
    pictures = {name: place.picture(number) for number, name in enumerate(names, 1)}
    place.records(*(place.sample(number, name) for number, name in enumerate(names, 1)), pictures=pictures)


@case({1: "shard/missing-image"})
def a_name_in_the_other_unicode_form(place: Place) -> None:
    place.records(place.sample(1, "caf\u00e9.png"), pictures={"cafe\u0301.png": place.picture(1)})


@case(r"-nowhere is missing: the pictures of this source")
def no_image_folder(place: Place) -> None:
    place.annotations(json.dumps([place.sample(0)]).encode())
    place.workshop.sources[place.name]["origin"]["images"] = [f"{place.name}-nowhere"]


# Between the stages.
def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


@case(
    r"samples\.parquet cannot be read .*run `fusion ingest", shard=lambda place: _cut(_raw(place) / "samples.parquet")
)
def samples_cut_after_ingest(place: Place) -> None:
    place.records()


@case(r"images\.lock\.json is not valid JSON", shard=lambda place: _cut(_raw(place) / "images.lock.json"))
def a_lock_cut_after_ingest(place: Place) -> None:
    place.records()


@case({0: "shard/missing-image"}, shard=lambda place: (place.images / "0.png").unlink())
def a_picture_gone_after_ingest(place: Place) -> None:
    place.records()


def _raw(place: Place) -> Path:
    return place.workshop.folder / "data/raw/shapes" / place.name
