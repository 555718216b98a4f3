"""`fusion shard --compact`: what curation has rejected leaves the shards, and nothing else changes."""

import json
import shutil
import tarfile
from pathlib import Path

import polars as pl
import pytest

from benchmarks.kills import Job, Kill, run_killed
from fusion.data.errors import DataError
from fusion.data.explain.page import write_examples
from fusion.data.explain.story import explain_sample
from fusion.data.explain.tell import tell
from fusion.data.sharding.compact import compact_dataset
from fusion.data.stream.order import TrainingOrder
from fusion.hashing import file_sha256
from tests.data.workshop import DATASET, Workshop, picture, sample, talk

MOVED = ["shard", "record_offset", "image_offset"]


@pytest.fixture
def curated(workshop: Workshop) -> Workshop:
    """Three sources in small shards: one that loses samples, one that loses none, one that loses all."""
    data = workshop.settings.data.model_copy(update={"shard_size_mb": 0.02})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    images = {f"{number}.png": picture(number) for number in range(30)}
    records = [sample(number, f"thing number {number}") for number in range(30)]
    records += [sample(3, "a thing"), {"conversations": talk("", "")}, sample(40)]
    records[7] = sample(7, "")
    workshop.add("loses", records, images, container="tar")
    workshop.add("keeps", [{"conversations": talk(f"what is {n}?", f"a number, {n}")} for n in range(5)])
    workshop.add("empty", [{"conversations": talk("q", " ")}] * 3)
    workshop.curate()
    return workshop


def _tree(workshop: Workshop, *parts: str) -> dict[str, str]:
    files = [path for part in parts for path in (workshop.folder / "data" / part).rglob("*") if path.is_file()]
    return {path.relative_to(workshop.folder).as_posix(): file_sha256(path) for path in sorted(files)}


def _contents(workshop: Workshop, manifest: pl.DataFrame) -> list[tuple[bytes, bytes | None]]:
    found = []
    for row in manifest.iter_rows(named=True):
        data = (workshop.folder / row["shard"]).read_bytes()
        record = data[row["record_offset"] : row["record_offset"] + row["record_size"]]
        image = None
        if row["image_offset"] is not None:
            image = data[row["image_offset"] : row["image_offset"] + row["image_size"]]
        found.append((record, image))
    return found


def _manifest(workshop: Workshop) -> pl.DataFrame:
    return pl.read_parquet(workshop.folder / "data/manifests" / DATASET / "manifest.parquet")


def _compact(workshop: Workshop) -> list[str]:
    return compact_dataset(workshop.settings, workshop.catalog, DATASET, workshop.folder)


def test_the_shards_hold_what_the_manifest_keeps(curated: Workshop):
    before, contents = _manifest(curated), _contents(curated, _manifest(curated))
    kept_shard = _tree(curated, f"shards/{DATASET}/keeps")
    digest = file_sha256(curated.folder / "data/manifests" / DATASET / "manifest.parquet")
    assert _compact(curated) == ["empty", "loses"]
    after = _manifest(curated)
    assert after.drop(MOVED).equals(before.drop(MOVED)) and after.schema == before.schema
    assert _contents(curated, after) == contents
    assert _tree(curated, f"shards/{DATASET}/keeps") == kept_shard
    names = set()
    for path in sorted((curated.folder / "data/shards" / DATASET / "loses").iterdir()):
        with tarfile.open(path) as tar:
            names |= {int(name.partition(".")[0]) for name in tar.getnames()}
    assert names == set(after.filter(pl.col("source") == "loses")["row"])
    assert not list((curated.folder / "data/shards" / DATASET / "empty").iterdir())
    assert not (curated.folder / "scratch/compact" / DATASET).exists()
    # The order follows the manifest.
    assert file_sha256(curated.folder / "data/manifests" / DATASET / "manifest.parquet") != digest
    order = TrainingOrder(digest, 1, 1, 4, after["draws"].to_numpy().astype("int64"))
    assert order.steps == -(-len(after) // 4)


def test_nothing_is_lost_for_a_later_curation(curated: Workshop):
    _, ledger, summary = curated.curate_only()
    _compact(curated)
    manifest = _manifest(curated)
    again, ledger_again, summary_again = curated.curate_only()
    assert again.equals(manifest) and ledger_again.equals(ledger)
    for key in ("ingested", "kept", "rejected", "sources", "categories", "tokens"):
        assert summary_again[key] == summary[key], key
    tree = _tree(curated, "shards", "index")
    assert _compact(curated) == []
    assert _tree(curated, "shards", "index") == tree


def test_another_compaction_numbers_on(curated: Workshop):
    _compact(curated)
    first = set(_tree(curated, f"shards/{DATASET}/loses"))
    profiles = curated.settings.curation.profiles
    strict = {name: profile.model_copy(update={"min_answer_chars": 15}) for name, profile in profiles.items()}
    curation = curated.settings.curation.model_copy(update={"profiles": strict})
    curated.settings = curated.settings.model_copy(update={"curation": curation})
    curated.curate_only()
    assert "loses" in _compact(curated)
    second = set(_tree(curated, f"shards/{DATASET}/loses"))
    assert second and not first & second
    assert _contents(curated, _manifest(curated))


def test_damage_and_other_shards_are_noticed_before_anything_changes(curated: Workshop):
    shard = sorted((curated.folder / "data/shards" / DATASET / "loses").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    sound = shard.read_bytes()
    shard.write_bytes(bytes(data))
    before = _tree(curated, "shards", "index", "manifests")
    with pytest.raises(DataError, match="is not what the index says"):
        _compact(curated)
    assert _tree(curated, "shards", "index", "manifests") == before
    shard.write_bytes(sound)
    records = json.loads((curated.published / "loses.json").read_text())
    (curated.published / "loses.json").write_text(json.dumps(records[:20]))
    curated.shard("loses")
    with pytest.raises(DataError, match="fusion curate"):
        _compact(curated)


def test_killed_at_any_moment_it_ends_the_same_and_loses_nothing(curated: Workshop, tmp_path: Path):
    contents = _contents(curated, _manifest(curated))
    kept = tmp_path / "kept"
    shutil.copytree(curated.folder / "data", kept, symlinks=True)
    _compact(curated)
    expected = _tree(curated, "shards", "index", "manifests")
    shutil.rmtree(curated.folder / "data")
    shutil.copytree(kept, curated.folder / "data", symlinks=True)
    data = {**curated.settings.data.model_dump(), "save_seconds": 0.05}
    job = Job("fusion.data.sharding.compact:compact_dataset", str(curated.folder), {"dataset": DATASET}, data)
    for event in (40, 30):
        assert run_killed(job, [Kill(event=event)], to_the_end=False)
        assert _contents(curated, _manifest(curated)) == contents
    run_killed(job, [])
    assert _tree(curated, "shards", "index", "manifests") == expected


def test_what_was_taken_out_can_still_be_explained(curated: Workshop, tmp_path: Path):
    ledger = pl.read_parquet(curated.folder / "data/manifests" / DATASET / "ledger.parquet")
    rejected = ledger.filter(~pl.col("block").is_in(["ingest", "shard"]))["sample_id"].to_list()
    _compact(curated)
    for sample_id in rejected:
        story = explain_sample(curated.settings, curated.catalog, DATASET, sample_id, root=curated.folder)
        assert story["decision"] == "dropped" and tell(story)
    write_examples(curated.settings, curated.catalog, DATASET, tmp_path / "page.html", 3, root=curated.folder)
    assert (tmp_path / "page.html").is_file()
