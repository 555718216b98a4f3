"""The ingest benchmark at a small size: it measures what it says, and memory does not follow the file."""

from pathlib import Path

from benchmarks.ingest import FORMS, MEMORY_BYTES, measure


def test_it_measures_every_form(tmp_path: Path):
    result = measure(tmp_path, rows=3000, members=500)
    for form in FORMS:
        assert result[form]["rows"] == 3000
        assert result[form]["peak_memory_mb"] * 1e6 < MEMORY_BYTES
    assert result["indented"]["bytes"] > result["array"]["bytes"]
    assert result["tar"]["members"] == result["zip"]["members"] == 500
