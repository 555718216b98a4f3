"""The ledger of rejects: one row a sample that is not used, with the block that said so, a reason code and evidence."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from fusion.data.store.folders import write_parquet

SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "source": pl.String(),
    "block": pl.String(),
    "reason": pl.String(),
    "evidence": pl.String(),
}
EVIDENCE_CHARS = 300


def ledger_frame(rejects: Iterable[tuple[str, str, str, str]], source: str) -> pl.DataFrame:
    """Rows of (sample id, block, reason, evidence) of one source as a ledger table."""
    rows = [(sample, source, block, reason, _clean(evidence)) for sample, block, reason, evidence in rejects]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def write_ledger(rejects: Iterable[tuple[str, str, str, str]], source: str, path: Path) -> None:
    """Writes the ledger table of one source."""
    write_parquet(ledger_frame(rejects, source), path)


def _clean(evidence: str) -> str:
    """Evidence that any table can hold and any page can show: valid UTF-8, bounded."""
    return evidence[:EVIDENCE_CHARS].encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
