"""Hostile tables: quotes, cells and encodings of CSV and TSV files, and what other writers of tables leave in them."""

import json
from collections.abc import Callable

from tests.data.hostile import CASES, Case, Expected, Place


def table(name: str, expected: Expected, ending: str, make: Callable[[Place], str | bytes], **origin: str) -> None:
    """A case that is a table with the columns `image` and `caption`."""

    def build(place: Place) -> None:
        place.records()
        content = make(place)
        data = content if isinstance(content, bytes) else content.encode()
        (place.folder / f"{place.name}.{ending}").write_bytes(data)
        images = place.workshop.sources[place.name]["origin"]["images"]
        entry = {"kind": "table", "file": f"{place.name}.{ending}", "images": images, "text": "caption", **origin}
        place.workshop.sources[place.name]["origin"] = entry

    CASES[name] = Case(name, build, expected)


def _rows(*rows: str, head: str = "image,caption", end: str = "\n") -> Callable[[Place], str]:
    """A sound row, then `rows`; SEED in them is a number that no other case has."""
    return lambda place: end.join([head, _sound(place), *rows, ""]).replace("SEED", str(place.seed))


def _sound(place: Place) -> str:
    return f"0.png,a sound caption of {place.seed}"


BROKEN = "ingest/unreadable-row"
GONE = "shard/missing-image"
table("a-quote-that-is-never-closed", {1: BROKEN, 2: GONE}, "csv", _rows('1.png,"Big Joe', "2.png,a dog SEED"))
table("a-quote-closed-in-another-row", {1: BROKEN, 2: GONE}, "csv", _rows('1.png,"Big Joe', '2.png,a "small" dog SEED'))
table("a-quote-inside-a-cell", {1: GONE}, "csv", _rows('1.png,a 5" nail and SEED more'))
table("text-behind-a-quoted-cell", {1: BROKEN}, "csv", _rows('1.png,"one" and more'))
table("a-comma-too-many-in-a-row", {1: BROKEN, 2: GONE}, "csv", _rows("1.png,red, green", "2.png,a blue SEED"))
table("a-row-that-is-too-short", {1: BROKEN}, "csv", _rows("1.png"))
table("a-row-of-commas", {1: BROKEN}, "csv", _rows("," * 100_000))
table("a-line-end-inside-quotes", {1: GONE}, "csv", _rows('1.png,"red,\nand green SEED"'))
table("a-line-end-without-quotes", {1: GONE, 2: BROKEN}, "csv", _rows("1.png,red SEED", "and green"))
table("rows-of-nothing", {}, "csv", _rows("", "", "\r"))
table("nuls-in-a-cell", {1: "ingest/bad-image-path"}, "csv", _rows("1\0.png,a\0b"))
table("a-table-with-a-mark", {}, "csv", lambda place: b"\xef\xbb\xbf" + _rows()(place).encode())
table("a-table-as-windows-ends-it", {1: GONE}, "csv", _rows("1.png,a dog SEED", end="\r\n"))
table(
    "a-table-in-latin-1", "is not UTF-8 .*iconv", "csv", lambda place: _rows("1.png,caf\xe9")(place).encode("latin-1")
)
table("a-table-in-utf-16", "is not UTF-8 .*iconv", "csv", lambda place: _rows()(place).encode("utf-16"))
table("a-table-without-rows", "holds no sample", "csv", lambda place: "image,caption\n")
table("a-table-of-no-bytes", "is empty", "csv", lambda place: b"")
table("a-header-of-other-names", "has no column `caption`", "csv", _rows(head="image,words"))
table("a-header-with-a-broken-quote", "cannot be read: line 1", "csv", _rows(head='image,"caption" x'))
table(
    "a-quote-in-a-tsv",
    {1: GONE, 2: GONE},
    "tsv",
    lambda place: _rows('1.png,"Big Joe SEED', "2.png,a dog SEED")(place).replace(",", "\t"),
)
table(
    "numbers-that-are-none",
    {1: "ingest/bad-message", 2: "ingest/bad-message"},
    "json",
    lambda place: json.dumps(
        [
            {"image": "0.png", "caption": f"a sound caption of {place.seed}"},
            {"image": "0.png", "caption": float("nan")},
            {"image": "0.png", "caption": None},
        ]
    ),
)
