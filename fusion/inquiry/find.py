"""Finds samples in the manifests, and in the indexes and ledgers what did not reach them: by id, hash, picture, source.

The tables are scanned, never loaded: ten million rows take seconds and some hundred megabytes. Of a sample id the
column's minima and maxima leave one group of rows to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from fusion.data.errors import DataError
from fusion.data.ingest.record import Reject
from fusion.data.store.pixels import measure
from fusion.hashing import file_sha256

_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*/\d+$")
_SHA = re.compile(r"^[0-9a-f]{64}$")
_COLUMNS = (
    "sample_id",
    "source",
    "shard",
    "file",
    "row",
    "image_path",
    "image_sha256",
    "sha256",
    "licence_declared",
    "licence_verified",
)
_HASHES = ("image_sha256", "sha256", "text_sha256")
_BATCH = 1 << 18


@dataclass(frozen=True)
class Query:
    """What is looked for: `kind` is sample, hash, picture, source or licence."""

    kind: str
    text: str
    sha256: str | None = None
    pdq: bytes | None = None
    distance: int = 0


@dataclass
class Found:
    """What one data set has of it. `rows` are rows of the manifest; `samples` some of them with their facts."""

    dataset: str
    rows: npt.NDArray[np.int64]
    samples: list[dict[str, Any]]
    shards: dict[str, int]
    dropped: list[dict[str, str]] = field(default_factory=list)
    """Samples that were read and did not reach the manifest: id, block, reason, evidence."""


def parse_query(text: str, distance: int, max_pixels: int, root: Path = Path(".")) -> Query:
    """What `text` means: a sample id, a sha256, a file, DATASET/SOURCE or a source's name, or a licence.

    Raises:
        DataError: a file that is no picture, while near ones are asked for.
    """
    path = Path(text)
    if _SHA.match(text):
        return Query("hash", text, sha256=text)
    if _ID.match(text) and not path.is_file():
        dataset, source, number = text.split("/")
        return Query("sample", f"{dataset}/{source}/{int(number):08d}")
    if path.is_file():
        measured = measure(path.read_bytes(), max_pixels) if distance >= 0 else None
        if isinstance(measured, Reject):
            raise DataError(f"{text} is no picture that can be measured ({measured.reason}: {measured.evidence})")
        return Query("picture", text, file_sha256(path), measured.pdq if measured else None, distance)
    names = {f"{p.parent.name}/{p.name}" for p in root.glob("data/shards/*/*")}
    if text in names or text in {name.split("/")[1] for name in names}:
        return Query("source", text)
    return Query("licence", text)


def find_samples(query: Query, limit: int, root: Path = Path(".")) -> list[Found]:
    """One entry for each data set that has something of it; at most `limit` samples are told of each."""
    found = []
    for manifest in sorted(root.glob("data/manifests/*/manifest.parquet")):
        dataset = manifest.parent.name
        if query.kind == "sample" and not query.text.startswith(f"{dataset}/"):
            continue
        rows, near = _rows(query, manifest)
        samples = _samples(manifest, rows[:limit], near)
        shards = _shards(manifest, rows)
        dropped = [] if query.kind in ("source", "licence") else _dropped(query, dataset, root, limit, samples)
        if len(rows) or dropped:
            found.append(Found(dataset, rows, samples, shards, dropped))
    return found


def _rows(query: Query, table: Path) -> tuple[npt.NDArray[np.int64], dict[int, int]]:
    """Rows of the table that fit, and the distance of the near ones."""
    exact = _condition(query)
    lazy = pl.scan_parquet(table, row_index_name="number")
    rows = np.empty(0, dtype=np.int64)
    if exact is not None:
        rows = lazy.filter(exact).select("number").collect(engine="streaming")["number"].to_numpy().astype(np.int64)
    near: dict[int, int] = {}
    if query.pdq is not None:
        near = dict(_near(table, query.pdq, query.distance))
        rows = np.array(sorted({*rows.tolist(), *near}), dtype=np.int64)
    return rows, near


def _condition(query: Query) -> pl.Expr | None:
    if query.kind == "sample":
        return pl.col("sample_id") == query.text
    if query.kind == "hash":
        return pl.any_horizontal([pl.col(name) == query.sha256 for name in _HASHES])
    if query.kind == "picture":
        return pl.col("image_sha256") == query.sha256
    if query.kind == "source":
        dataset, _, source = query.text.rpartition("/")
        chosen = pl.col("source") == source
        return chosen & (pl.col("dataset") == dataset) if dataset else chosen
    return (pl.col("licence_declared") == query.text) | (pl.col("licence_verified") == query.text)


def nearest(query: Query, root: Path = Path(".")) -> tuple[str, int] | None:
    """The kept sample whose picture looks most like the query's, and the number of differing bits of 256."""
    best: tuple[str, int] | None = None
    for table in sorted(root.glob("data/manifests/*/manifest.parquet")) if query.pdq is not None else ():
        row, bits = min(_distances(table, query.pdq or b""), key=lambda pair: pair[1], default=(0, 257))
        if bits < (best[1] if best else 257):
            best = (str(_samples(table, np.array([row]), {})[0]["sample_id"]), bits)
    return best


def _near(table: Path, pdq: bytes, distance: int) -> Iterator[tuple[int, int]]:
    """Rows whose picture's PDQ hash differs in at most `distance` of 256 bits, with the number of bits."""
    wanted = np.frombuffer(pdq, dtype=np.uint64)
    for first, places, bits in _batches(table, wanted):
        for place in np.flatnonzero(bits <= distance):
            yield first + int(places[place]), int(bits[place])


def _distances(table: Path, pdq: bytes) -> Iterator[tuple[int, int]]:
    """Of each batch of rows the nearest one, with the number of differing bits."""
    for first, places, bits in _batches(table, np.frombuffer(pdq, dtype=np.uint64)):
        if len(bits):
            place = int(bits.argmin())
            yield first + int(places[place]), int(bits[place])


def _batches(
    table: Path, wanted: npt.NDArray[np.uint64]
) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """First row of a batch, places in it that have a picture, and the differing bits of each of these."""
    first = 0
    for batch in pq.ParquetFile(table).iter_batches(_BATCH, columns=["pdq"]):
        column = batch.column(0)
        places = np.flatnonzero(np.asarray(column.is_valid()))
        data = b"".join(column.drop_null().to_pylist())
        hashes = np.frombuffer(data, dtype=np.uint64).reshape(-1, 4)
        yield first, places, np.bitwise_count(hashes ^ wanted).sum(axis=1, dtype=np.int64)
        first += len(column)


def _samples(table: Path, rows: npt.NDArray[np.int64], near: dict[int, int]) -> list[dict[str, Any]]:
    if not len(rows):
        return []
    lazy = pl.scan_parquet(table, row_index_name="number")
    known = [name for name in _COLUMNS if name in lazy.collect_schema()]
    # The slice lets whole groups of rows be passed over.
    first, last = int(rows.min()), int(rows.max())
    part = lazy.slice(first, last - first + 1).select("number", *known)
    taken = part.filter(pl.col("number").is_in(rows.tolist())).collect(engine="streaming")
    return [{**row, "distance": near.get(row["number"])} for row in taken.iter_rows(named=True)]


def _shards(table: Path, rows: npt.NDArray[np.int64]) -> dict[str, int]:
    """Shard -> number of the rows in it."""
    if not len(rows):
        return {}
    first, last = int(rows.min()), int(rows.max())
    names = pl.scan_parquet(table).slice(first, last - first + 1).select("shard").collect(engine="streaming")["shard"]
    counted = names.gather(rows - first).value_counts().sort("shard")
    return dict(counted.iter_rows())


def _dropped(query: Query, dataset: str, root: Path, limit: int, kept: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What of it was read, but did not reach the manifest, and why."""
    pattern = query.text.split("/")[1] if query.kind == "sample" else "*"
    have = {sample["sample_id"] for sample in kept}
    ids = [query.text] if query.kind == "sample" and query.text not in have else []
    for index in sorted(root.glob(f"data/index/{dataset}/{pattern}/index.parquet")) if query.kind != "sample" else []:
        rows, _ = _rows(query, index)
        ids += [one["sample_id"] for one in _samples(index, rows[:limit], {}) if one["sample_id"] not in have]
    ledger = root / "data/manifests" / dataset / "ledger.parquet"
    if not ids or not ledger.is_file():
        return []
    # Rows that are kept beyond the limit stand in no ledger.
    lines = pl.scan_parquet(ledger).filter(pl.col("sample_id").is_in(ids)).collect(engine="streaming")
    return [dict(row) for row in lines.select("sample_id", "block", "reason", "evidence").iter_rows(named=True)]
