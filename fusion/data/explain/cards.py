"""Samples as they stand on the page of examples: picture, text, and what was measured beside the threshold."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import polars as pl

from fusion.data.errors import DataError
from fusion.data.explain.outputs import Outputs
from fusion.data.pictures import data_address, read_range
from fusion.data.store.folders import read_parquet

MOST_PICTURE_BYTES = 24_000_000
"""Of all pictures on a page, as data addresses; those after it are left out, and the page says so."""
_TEXT = 260
_PLACE = ("sample_id", "shard", "record_offset", "record_size", "image_offset", "image_size")
_BENCHMARK = re.compile(r"(?:.* from |the picture |)(\S.*) of benchmark (\S+)$")


@dataclass(frozen=True)
class Card:
    """One sample. `picture`: a data address; None for a text, or where `missing` says why there is none.

    `told` is the evidence or the measured value, `limit` the threshold that it is held to, `twin` the sample that it
    repeats or comes near to.
    """

    name: str
    picture: str | None
    missing: str
    question: str
    answer: str
    told: str = ""
    limit: str = ""
    twin: Card | None = None


class Cards:
    """Reads samples for the page, from the shards where they lie there and else from what ingest left."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._bytes = 0

    def read(self, ids: set[str]) -> dict[str, Card]:
        """The samples by id; one that ingest rejected has neither picture nor text."""
        found: dict[str, Card] = {}
        for source in self._outputs.sources:
            mine = sorted(name for name in ids if name.split("/")[1] == source)
            rows = self._outputs.index(source).select(_PLACE).filter(pl.col("sample_id").is_in(mine)).collect()
            found |= {row["sample_id"]: self._readable(source, row) for row in rows.iter_rows(named=True)}
            numbers = {int(name[-8:]): name for name in mine if name not in found}
            raw = self._outputs.raw(source).filter(pl.col("row").is_in(sorted(numbers))).collect()
            for row in raw.iter_rows(named=True):
                missing = "its picture could not be read" if row["image"] else ""
                found[numbers[row["row"]]] = Card(numbers[row["row"]], None, missing, *_said(row["conversations"]))
        return found | {name: Card(name, None, "could not be ingested", "", "") for name in ids - found.keys()}

    def benchmark(self, told: str) -> Card | None:
        """The benchmark's picture that an evidence or a measure names."""
        match = _BENCHMARK.match(told)
        if match is None or match.group(2) not in self._outputs.entry.contamination:
            return None
        image, name = match.groups()
        folder = self._outputs.root / "data/benchmarks" / name
        table = read_parquet(folder / "questions.parquet", f"fusion benchmark {name}")
        rows = table.filter(pl.col("image_id") == image).head(1).to_dicts()
        if not rows:
            return None
        encoded = read_range(folder / "images.tar", rows[0]["image_offset"], rows[0]["image_size"])
        return Card(f"{name}/{image}", *self._show(encoded), rows[0]["question"], rows[0]["answer"])

    def _readable(self, source: str, row: dict[str, Any]) -> Card:
        shard = self._outputs.root / row["shard"]
        try:
            record = json.loads(read_range(shard, row["record_offset"], row["record_size"]))
            encoded = None
            if row["image_offset"] is not None:
                encoded = read_range(shard, row["image_offset"], row["image_size"])
        except FileNotFoundError:
            made_by = f"fusion shard {self._outputs.dataset} {source}"
            raise DataError(f"shard {row['shard']} is missing: run `dvc checkout` or `{made_by}`") from None
        except ValueError as error:
            raise DataError(f"shard {row['shard']} is damaged at byte {row['record_offset']} ({error})") from error
        shown = (None, "") if encoded is None else self._show(encoded)
        return Card(row["sample_id"], *shown, *_said(record["conversations"]))

    def _show(self, encoded: bytes) -> tuple[str | None, str]:
        if self._bytes > MOST_PICTURE_BYTES:
            return None, f"left out: the page has its {MOST_PICTURE_BYTES // 1_000_000} MB of pictures"
        address = data_address(encoded)
        self._bytes += len(address or "")
        return address, "" if address else "cannot be shown"


def _said(conversations: list[dict[str, str]]) -> tuple[str, str]:
    texts = [shorten(message["value"].replace("<image>", "")) for message in conversations[:2]]
    return (*texts, "", "")[0], (*texts, "", "")[1]


def shorten(text: str, limit: int = _TEXT) -> str:
    """At most `limit` characters on one line, what no page can show as escapes."""
    short = " ".join(text[: limit * 4].split())
    short = short if len(short) <= limit else short[:limit] + "\N{HORIZONTAL ELLIPSIS}"
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in short)
