"""The ingest benchmark at a small size: it measures what it says."""

from pathlib import Path

from benchmarks.ingest import MEMORY_BYTES, measure


def test_it_measures_rows_and_members(tmp_path: Path):
    result = measure(tmp_path, rows=3000, members=500, forms=("indented",), kinds=("zip",))
    assert result["indented"]["rows"] == 3000 and result["indented"]["bytes"] > 3_000_000
    assert 0 < result["indented"]["rows_per_second"] <= 1.1 * result["indented"]["rows_per_processor_second"]
    assert 0 < result["indented"]["peak_memory_mb"] * 1e6 < MEMORY_BYTES
    assert result["zip"]["members"] == 500
