"""From manifest rows to encoded samples, read from the shards by offset.

Every sample keeps its origin to the batch, so that a loss spike or a removal request can be traced to its source row.
Source: design "From source to batch", item 5.
"""

import json
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fusion.data.store.folders import read_parquet, readable
from fusion.data.store.sample import Message
from fusion.data.stream.order import Rows
from fusion.errors import FusionError
from fusion.hashing import file_sha256


class LoaderError(FusionError):
    """A manifest or shard cannot be read, or does not hold what the manifest says."""


@dataclass(frozen=True)
class Record:
    """One sample as it lies in its shard."""

    sample_id: str
    conversations: list[Message]
    image: bytes | None


class Manifest:
    """The kept samples of a data set: `data/manifests/<dataset>/manifest.parquet`, columns as numpy arrays."""

    def __init__(self, path: Path, tokenizer: str) -> None:
        """Reads the columns that training needs.

        Raises:
            LoaderError: the manifest is missing or empty, or the tokenizer was not counted.
            DataError: it is damaged.
        """
        if not path.is_file():
            raise LoaderError(f"{path} is missing: run `dvc repro` (or `fusion curate`) for its data set first")
        tokens = f"text_tokens_{tokenizer}"
        with readable(path, "dvc repro"):
            found = pl.scan_parquet(path).collect_schema().names()
        if tokens not in found:
            raise LoaderError(
                f"{path} has no column {tokens}: add the tokenizer `{tokenizer}` to the data set's catalog entry"
            )
        columns = [
            "sample_id",
            "source",
            "shard",
            "record_offset",
            "record_size",
            "image_offset",
            "image_size",
            "turns",
            "draws",
        ]
        self.sha256 = file_sha256(path)
        self._frame = read_parquet(path, "dvc repro", [*columns, tokens])
        self.draws: Rows = self._frame["draws"].to_numpy().astype(np.int64)
        self.turns: Rows = self._frame["turns"].to_numpy().astype(np.int64)
        self.text_tokens: Rows = self._frame[tokens].to_numpy().astype(np.int64)
        self.has_image = self._frame["image_offset"].is_not_null().to_numpy()
        if not len(self._frame):
            raise LoaderError(f"{path} keeps no sample: see the ledger beside it for the reasons")

    def __len__(self) -> int:
        return len(self._frame)

    def lengths(self, image_tokens: int, num_latents: int) -> Rows:
        """[rows] int64: sequence length of every sample once its markers are replaced."""
        return self.text_tokens + self.has_image * image_tokens + self.turns * num_latents

    def row(self, index: int) -> dict[str, Any]:
        """The manifest row `index` as a mapping."""
        return self._frame.row(index, named=True)


class ShardReader:
    """Reads samples from tar shards by byte range, keeping a few shards open."""

    def __init__(self, root: Path, open_shards: int = 64) -> None:
        self._root = root
        self._open: OrderedDict[str, int] = OrderedDict()
        self._limit = open_shards

    def read(self, row: dict[str, Any]) -> Record:
        """The sample of a manifest row; raises `LoaderError` naming sample and shard when the bytes do not fit."""
        document = self._bytes(row, row["record_offset"], row["record_size"])
        try:
            conversations: list[Message] = json.loads(document)["conversations"]
        except (KeyError, TypeError, ValueError) as error:
            raise LoaderError(
                f"{row['sample_id']}: no JSON record at byte {row['record_offset']} of {row['shard']}"
            ) from error
        image = None
        if row["image_offset"] is not None:
            image = self._bytes(row, row["image_offset"], row["image_size"])
        return Record(row["sample_id"], conversations, image)

    def _bytes(self, row: dict[str, Any], offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor(row["shard"]), size, offset)
        if len(data) != size:
            raise LoaderError(
                f"{row['sample_id']}: {row['shard']} ends before byte {offset + size}: restore it with `dvc checkout`"
            )
        return data

    def _descriptor(self, shard: str) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= self._limit:
            os.close(self._open.popitem(last=False)[1])
        try:
            descriptor = os.open(self._root / shard, os.O_RDONLY)
        except FileNotFoundError:
            raise LoaderError(f"shard {shard} is missing: restore it with `dvc checkout` or `dvc repro`") from None
        self._open[shard] = descriptor
        return descriptor

    def close(self) -> None:
        """Closes all open shards."""
        while self._open:
            os.close(self._open.popitem()[1])
