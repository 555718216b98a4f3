"""The description of a curated set: true to the files, equal for equal inputs, valid, and readable by others."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fusion.data.croissant import describe_dataset, show_description
from fusion.data.errors import DataError
from fusion.hashing import file_sha256
from tests.data.workshop import DATASET, Workshop, picture, sample, talk


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A set of two sources: pictures with a reject among them, and a text of unknown licence."""
    workshop = Workshop(tmp_path_factory.mktemp("croissant"))
    images = {f"{number}.png": picture(number) for number in range(3)}
    workshop.add("a", [*(sample(number) for number in range(3)), sample(1)], images)
    workshop.add("b", [{"conversations": talk("two and two?", "four")}], licence={"declared": None})
    workshop.curate()
    return workshop


def test_files_fields_licences_and_counts_are_those_of_the_set(shop: Workshop):
    document = describe_dataset(shop.catalog, DATASET, shop.folder)
    files = {item["@id"]: item for item in document["distribution"] if item["@type"] == "cr:FileObject"}
    manifest = pl.read_parquet(shop.folder / files["manifest"]["contentUrl"])
    assert set(files) == {"manifest", *manifest["shard"]}
    for item in files.values():
        path = shop.folder / item["contentUrl"]
        assert item["sha256"] == file_sha256(path) and item["contentSize"] == f"{path.stat().st_size} B"
    sets = {item["@id"]: item for item in document["recordSet"]}
    columns = [field["source"]["extract"]["column"] for field in sets["samples"]["field"]]
    assert set(columns) <= set(manifest.columns) and {"text_tokens_tiny", "draws", "licence_declared"} <= set(columns)
    rows = {row["sources/source"]: row for row in sets["sources"]["data"]}
    counted = [(row["sources/ingested"], row["sources/kept"], row["sources/rejected"]) for row in rows.values()]
    assert counted == [(4, 3, 1), (1, 1, 0)]
    assert rows["b"]["sources/licence_declared"] is None and document["license"] == ["MIT", "unknown"]
    assert re.search("4 samples kept of 5, 4 drawn.*licences of 1 are not verified", document["description"])


def test_equal_inputs_give_equal_bytes_with_paths_from_the_file(shop: Workshop, tmp_path: Path):
    texts = []
    for name in ("x/one.json", "x/two.json"):
        show_description(shop.catalog, DATASET, shop.folder / name, shop.folder)
        texts.append((shop.folder / name).read_text(encoding="utf-8"))
    assert texts[0] == texts[1] and str(shop.folder) not in texts[0]
    for item in json.loads(texts[0])["distribution"][:-1]:
        assert (shop.folder / "x" / item["contentUrl"]).is_file()


def test_what_is_missing_is_named(shop: Workshop, tmp_path: Path):
    with pytest.raises(DataError, match=f"run `fusion curate {DATASET}` first"):
        describe_dataset(shop.catalog, DATASET, tmp_path)
    shard = shop.folder / "data/shards" / DATASET / "b/000000.tar"
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(DataError, match=f"run `dvc checkout` or `fusion shard {DATASET} b`"):
        describe_dataset(shop.catalog, DATASET, shop.folder)
    shard.write_bytes(data)


def test_the_vocabularys_own_library_validates_and_reads_it(shop: Workshop):
    mlcroissant: Any = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed: form not checked")
    show_description(shop.catalog, DATASET, shop.folder / "croissant.json", shop.folder)
    described = mlcroissant.Dataset(str(shop.folder / "croissant.json"))
    assert not described.metadata.issues.errors
    manifest = pl.read_parquet(shop.folder / "data/manifests" / DATASET / "manifest.parquet")
    kept = [row["samples/sample_id"].decode() for row in described.records("samples")]
    assert kept == manifest["sample_id"].to_list()
    records = [json.loads(row["conversations/record"])["id"] for row in described.records("conversations")]
    assert len(records) == 5 and set(kept) < set(records)
    assert [row["sources/kept"] for row in described.records("sources")] == [3, 1]


def test_the_page_about_hugging_face_datasets_runs(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets: Any = pytest.importorskip("datasets", reason="datasets is not installed: its reading is not checked")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    page = Path("docs/hugging-face-datasets.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(shop.folder)
    space: dict[str, Any] = {}
    exec(code.replace("tiny-stage2", DATASET), space)
    every, kept = list(space["every"]), list(space["kept"])
    manifest = pl.read_parquet(f"data/manifests/{DATASET}/manifest.parquet")
    index = pl.read_parquet(f"data/index/{DATASET}/*/index.parquet")
    assert sorted(row["json"]["id"] for row in every) == sorted(index["sample_id"])
    assert [row["id"] for row in kept] == manifest["sample_id"].to_list()
    assert kept[0]["picture"].size == every[0]["png"].size == (48, 40)
    assert kept[-1]["picture"] is None and kept[-1]["conversations"] == talk("two and two?", "four")
