"""The benchmarks of curation at small sizes: what was made up to be found is found, and reports are whole."""

from pathlib import Path

from benchmarks import curate_10m, curate_juicer
from benchmarks.made_up import Plan

CATALOG = Path("data/catalog").resolve()


def test_every_defect_that_was_made_is_found(tmp_path: Path):
    plan = Plan(CATALOG, rows=4000, largest=5, benchmarks=())
    report = curate_10m.measure(plan, 2, tmp_path / "run")
    assert report["sources"] == 5 and report["validation"]["status"] == "passed"
    assert report["kept"] == 4000 - sum(counts["dropped"] for counts in report["found"].values())
    assert {name for name, counts in report["found"].items() if counts["made"]} >= {
        "ingest/several-images",
        "image/too-small",
        "exact-duplicates/same-sample",
        "near-duplicates/similar-picture",
        "near-duplicates/similar-text",
    }
    for name, counts in report["found"].items():
        assert counts["dropped"] == counts["made"], name
    for step in report["steps"].values():
        assert step["seconds"] > 0 and step["peak_gb"] > 0.05
    assert not (tmp_path / "run").exists()


def test_fusion_keeps_the_captions_without_defects(tmp_path: Path):
    made, clean = curate_juicer.captions(3000)
    _, kept = curate_juicer.fusion_side(made, tmp_path)
    assert len(clean) < 2950 and kept == clean
