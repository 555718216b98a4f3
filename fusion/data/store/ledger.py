"""The ledger of rejects: one row a sample that is not used, with the block that said so, a reason code and evidence."""

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa

from fusion.data.store.folders import write_parquet
from fusion.data.store.growing import GrowingTable, write_frame

SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "source": pl.String(),
    "block": pl.String(),
    "reason": pl.String(),
    "evidence": pl.String(),
}
EVIDENCE_CHARS = 300
_GROWING = pa.schema([(name, pa.large_string()) for name in SCHEMA])
_BATCH = 20_000


def ledger_frame(rejects: Iterable[tuple[str, str, str, str]], source: str) -> pl.DataFrame:
    """Rows of (sample id, block, reason, evidence) of one source as a ledger table."""
    rows = [(sample, source, block, reason, _clean(evidence)) for sample, block, reason, evidence in rejects]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def write_ledger(rejects: Iterable[tuple[str, str, str, str]], source: str, path: Path) -> None:
    """Writes the ledger table of one source."""
    write_parquet(ledger_frame(rejects, source), path)


class LedgerRows:
    """The ledger of one source while it grows: row by row into a growing table, a batch of them in memory."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        """`file` is the growing table's, positioned at its end."""
        self._table = GrowingTable(file, _GROWING)
        self._source = source
        self._rows: list[tuple[str, str, str, str, str]] = []

    def add(self, sample: str, block: str, reason: str, evidence: str) -> None:
        """Appends one row."""
        self._rows.append((sample, self._source, block, reason, _clean(evidence)))
        if len(self._rows) == _BATCH:
            self.flush()

    def flush(self) -> None:
        """Hands on what is in memory; to be called before a save and at the end."""
        if self._rows:
            columns = [pa.array(column, pa.large_string()) for column in zip(*self._rows, strict=True)]
            self._table.add(pa.RecordBatch.from_arrays(columns, schema=_GROWING))
            self._rows = []


def write_grown_ledger(grown: Path, path: Path) -> None:
    """Writes the ledger table that `LedgerRows` has made, with the same bytes as `write_ledger`."""
    write_frame(grown, path, SCHEMA)


def _clean(evidence: str) -> str:
    """Evidence that any table can hold and any page can show: valid UTF-8, bounded."""
    return evidence[:EVIDENCE_CHARS].encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
