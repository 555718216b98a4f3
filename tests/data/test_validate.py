"""The gate: sound data passes, each kind of damage stops it, and what was found stays readable."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fusion.data.errors import DataError
from fusion.data.validate import ValidationError, validate_dataset
from fusion.hashing import file_sha256
from tests.data.workshop import DATASET, Workshop, picture, sample


@pytest.fixture
def curated(workshop: Workshop) -> Workshop:
    """A curated data set of a source with pictures, two of them bad, and one of texts."""
    images = {f"{number}.png": picture(number) if number > 1 else b"x" for number in range(8)}
    workshop.add("pictures", [sample(number) for number in range(8)], images)
    workshop.embed("texts", {"kind": "text", "topic": "code", "conversations": 8}, profile="text", category="code")
    workshop.expect = {"min_kept_share": 0.8, "category_shares": {"captions": [0.3, 0.6]}}
    workshop.curate()
    return workshop


def _validate(workshop: Workshop) -> dict[str, Any]:
    folder = validate_dataset(workshop.settings, workshop.catalog, dataset=DATASET, root=workshop.folder)
    return json.loads((folder / "validation.json").read_text(encoding="utf-8"))


def test_sound_data_passes_and_the_page_needs_no_network(curated: Workshop):
    document = _validate(curated)
    assert (document["status"], document["failed"], document["warnings"]) == ("passed", 0, 0)
    folder = curated.folder / "data/validation" / DATASET
    page = (folder / "validation.html").read_text(encoding="utf-8")
    assert "pictures" in page and "http" not in page and "<script" not in page
    first = {path.name: file_sha256(path) for path in folder.iterdir()}
    _validate(curated)
    assert {path.name: file_sha256(path) for path in folder.iterdir()} == first


def _on_manifest(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        change(pl.read_parquet(folder / "manifest.parquet")).write_parquet(folder / "manifest.parquet")

    return damage


def _on_ledger(folder: Path) -> None:
    pl.read_parquet(folder / "ledger.parquet").head(1).write_parquet(folder / "ledger.parquet")


def _on_summary(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["sources"]["texts"]["ingested"] += 1
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            _on_manifest(lambda table: table.with_columns(sample_id=pl.col("sample_id").first())),
            "the key of everything",
        ),
        (_on_manifest(lambda table: table.head(len(table) - 1)), "kept + rejected = ingested"),
        (_on_manifest(lambda table: table.drop("turns").with_columns(turns=pl.lit("two"))), "read by name"),
        (_on_manifest(lambda table: table.with_columns(width=pl.lit(None, pl.Int32))), "measured whole"),
        (_on_manifest(lambda table: table.with_columns(category=pl.lit("novel"))), "as the catalog says"),
        (_on_manifest(lambda table: table.with_columns(text_tokens_tiny=pl.lit(0, pl.Int32))), "tokens were counted"),
        (_on_ledger, "kept + rejected = ingested"),
        (_on_summary, "kept + rejected = ingested"),
    ],
    ids=["equal keys", "rows lost", "wrong type", "half a picture", "category", "no tokens", "ledger", "summary"],
)
def test_damage_stops_the_pipeline(curated: Workshop, damage: Callable[[Path], None], told: str):
    damage(curated.folder / "data/manifests" / DATASET)
    with pytest.raises(ValidationError) as caught:
        _validate(curated)
    assert told in str(caught.value)
    assert not (curated.folder / "data/validation").exists()
    document = json.loads((curated.folder / "runs/validation" / DATASET / "validation.json").read_text())
    assert document["status"] == "failed" and document["failed"] >= 1


def test_parts_of_a_source_add_up(curated: Workshop, monkeypatch: pytest.MonkeyPatch):
    path = curated.folder / "data/manifests" / DATASET / "manifest.parquet"
    table = pl.read_parquet(path)
    of_texts = table.filter(pl.col("source") == "texts")["sample_id"].to_list()
    table = table.with_columns(
        sample_id=pl.col("sample_id").replace(of_texts[-1], of_texts[0]),
        width=pl.when(pl.col("row") > 3).then("width"),
        turns=pl.when(pl.col("row") != 5).then("turns").otherwise(0),
    )
    found = []
    # In the second the rows of a source do not even stand together.
    for rows, frame in ((200_000, table), (3, table.sort("row", "source"))):
        monkeypatch.setattr("fusion.data.validation.sources.PART_ROWS", rows)
        frame.write_parquet(path)
        with pytest.raises(ValidationError):
            _validate(curated)
        findings = json.loads((curated.folder / "runs/validation" / DATASET / "validation.json").read_text())
        found.append(findings["results"])
    assert found[1] == found[0]
    (unique,) = (
        result
        for result in found[0]
        if result["suite"] == "source texts" and result["expectation"] == "ExpectColumnValuesToBeUnique"
    )
    assert (unique["rows"], unique["unexpected"]) == (8, 2) and unique["examples"] == [of_texts[0]] * 2


def test_no_old_pass_outlives_a_later_failure(curated: Workshop):
    folder, findings = (curated.folder / part / "validation" / DATASET for part in ("data", "runs"))
    manifest = curated.folder / "data/manifests" / DATASET / "manifest.parquet"
    sound = manifest.read_bytes()
    folder.mkdir(parents=True)
    (folder / "validation.json").write_text('{"status": "passed"}')
    _on_manifest(lambda table: table.head(1))(manifest.parent)
    with pytest.raises(ValidationError):
        _validate(curated)
    assert findings.is_dir() and not folder.exists()
    manifest.write_bytes(sound)
    assert _validate(curated)["manifest_sha256"] == file_sha256(manifest)
    assert folder.is_dir() and not findings.exists()
    manifest.write_bytes(sound[:-10])
    with pytest.raises(DataError, match=r"manifest\.parquet cannot be read .*: run `fusion curate"):
        _validate(curated)
    assert not folder.exists()


def test_bounds_of_the_catalog_hold(curated: Workshop):
    curated.expect = {"min_kept_share": 0.95, "category_shares": {"captions": [0.9, 1.0], "poems": [0.1, 1.0]}}
    with pytest.raises(ValidationError) as caught:
        _validate(curated)
    for words in ("min_kept_share", "share of captions", "share of poems"):
        assert words in str(caught.value)


def test_unverified_licences_are_only_warned_about(curated: Workshop):
    curated.sources["texts"]["licence"] = {"declared": None}
    curated.curate()
    document = _validate(curated)
    assert document["status"] == "passed"
    assert {result["arguments"]["column"] for result in document["results"] if not result["success"]} == {
        "licence_declared",
        "licence_verified",
        "licences_not_verified",
    }
