"""Data sets that combine others, and variants that leave stage 1.5 out for them: catalog, selection, settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from fusion.agreement import check_agreement
from fusion.data.catalog import Catalog, load_catalog
from fusion.data.curate import curate_dataset
from fusion.data.errors import CatalogError
from fusion.data.ingest import ingest_source
from fusion.data.listing import list_datasets
from fusion.data.sharding.shards import shard_source
from fusion.data.validate import validate_dataset
from fusion.selection import select
from fusion.settings import Settings, SettingsError, load_settings
from fusion.train.recipe import make_recipe

ROOT = Path(__file__).parents[2]
TEXT: dict[str, Any] = {
    "origin": {"kind": "text", "topic": "language", "conversations": 30, "turns": 2, "seed": 13},
    "sampling": "random:20", "category": "language", "profile": "text", "licence": {"declared": "Apache-2.0"},
}  # fmt: skip
TOKENIZERS = {"tiny": {"name": "data/tokenizers/tiny", "template": "phi_3"}}


def dataset(**changes: Any) -> dict[str, Any]:
    return {
        "title": "x", "for_stage": "stage2", "tokenizers": TOKENIZERS, "contamination": [], "sources": {"talk": TEXT},
    } | changes  # fmt: skip


BOTH: dict[str, Any] = {"title": "both", "for_stage": "stage2", "combines": ["first", "second"]}


def catalog_of(folder: Path, **datasets: Any) -> Catalog:
    """The project's catalog with these data sets in a file of their own."""
    shutil.copytree(ROOT / "data/catalog", folder / "data/catalog", dirs_exist_ok=True)
    text = yaml.safe_dump({"datasets": datasets}, sort_keys=False)
    (folder / "data/catalog/more.yaml").write_text(text, encoding="utf-8")
    return load_catalog(folder / "data/catalog")


def settings_of(folder: Path, **changes: Any) -> Settings:
    """params.yaml with a variant `merged`: micro, with stage 2 right behind stage 1."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    merged = yaml.safe_load(yaml.safe_dump(document["variants"]["micro"]))
    merged["stages"]["stage1_5"] = merged["data"]["stage1_5"] = None
    merged["data"]["stage2"] = "both"
    merged["data"] |= changes
    document["variants"]["merged"] = merged
    document["run"]["variants"] = ["merged"]
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_settings(folder / "params.yaml")


def test_it_has_the_sources_tokenizers_and_held_out_sets_of_all(tmp_path: Path) -> None:
    other = {**TEXT, "sampling": "all"}
    catalog = catalog_of(
        tmp_path,
        first=dataset(contamination=["micro-test"]),
        second=dataset(sources={"talk": other, "more": TEXT}, contamination=["scenes-test", "micro-test"]),
        both=BOTH | {"contamination": ["easy-vqa-test"]},
    )
    both = catalog.dataset("both")
    assert list(both.sources) == ["first-talk", "second-talk", "second-more"]
    assert both.sources["first-talk"] == catalog.source("first", "talk")
    assert both.sources["second-talk"].sampling == "all"
    assert both.contamination == ["micro-test", "scenes-test", "easy-vqa-test"]
    assert both.tokenizers == catalog.dataset("first").tokenizers
    assert both.folder({"second": "/data"}, "both", "second-talk") == "/data"
    assert both.folder({"second": "/data", "both": "/all"}, "both", "second-talk") == "/all"
    assert both.folder({"second": "/data"}, "both", "first-talk") is None
    listed = [facts.name for facts in list_datasets(catalog)]
    assert "first" in listed and "both" not in listed, "its samples are counted already"


@pytest.mark.parametrize(
    ("both", "said"),
    [
        (BOTH | {"combines": ["first"]}, "more.yaml: datasets.both.combines: must be a list of two or more"),
        (BOTH | {"combines": ["first", "first"]}, "two or more different data sets"),
        (BOTH | {"combines": ["first", "secnd"]}, "there is no data set `secnd`; did you mean `second`?"),
        (BOTH | {"combines": ["first", "nested"]}, "`nested` combines others itself"),
        (BOTH | {"sources": {}}, "datasets.both.sources: has no place here"),
        (BOTH | {"members": {}}, "datasets.both.members: unknown key"),
        (BOTH | {"combines": ["first", "clash"]}, "would both be called first-a-b"),
        (BOTH | {"combines": ["first", "others"]}, "first and others have no tokenizer in common"),
        (BOTH | {"combines": ["first", "renamed"]}, "the tokenizer `tiny` is not the same in first and renamed"),
    ],
)
def test_what_cannot_be_combined_is_refused(tmp_path: Path, both: dict[str, Any], said: str) -> None:
    more: dict[str, Any] = {"first": dataset(sources={"talk": TEXT, "a-b": TEXT}), "second": dataset()}
    for name in both["combines"]:
        more |= {
            "nested": {"nested": BOTH},
            "clash": {"first-a": dataset(sources={"b": TEXT})},
            "others": {"others": dataset(tokenizers={"other": TOKENIZERS["tiny"]})},
            "renamed": {"renamed": dataset(tokenizers={"tiny": TOKENIZERS["tiny"] | {"template": "llama_3"}})},
        }.get(name, {})
    if both["combines"][-1] == "clash":
        both = both | {"combines": ["first", "first-a"]}
    with pytest.raises(CatalogError) as error:
        catalog_of(tmp_path, **more, both=both)
    assert said in str(error.value)


def test_a_fault_of_a_source_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as error:
        catalog_of(tmp_path, first=dataset(), second=dataset(sources={"talk": TEXT | {"sampling": "some"}}), both=BOTH)
    assert "has 1 wrong entry" in str(error.value) and "datasets.second.sources.talk.sampling" in str(error.value)


def test_a_variant_without_stage_1_5_trains_stage_2_behind_stage_1(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, first=dataset(), second=dataset(), both=BOTH)
    settings = settings_of(tmp_path)
    shutil.copytree(ROOT / "data/tokenizers", tmp_path / "data/tokenizers")
    check_agreement(settings, catalog, tmp_path)
    assert settings.variant("merged").stage_names == ("stage1", "stage2")
    last = make_recipe(settings, "merged", "stage2")
    assert last.parent == make_recipe(settings, "merged", "stage1").output and last.dataset == "both"
    with pytest.raises(SettingsError, match=r"variants\.merged\.stages\.stage1_5 is null"):
        make_recipe(settings, "merged", "stage1_5")
    chosen = select(settings, catalog)
    assert chosen["builds"]["merged"] == {
        "before_stage2": "stage1", "stage1": "micro-stage1", "stage1_5": "both", "stage2": "both",
        "first_stage": "stage1", "first_curves": "stage1", "middle_curves": "stage1",
    }  # fmt: skip
    assert chosen["with_stage1_5"] == {}
    assert set(chosen["datasets"]) == {"micro-stage1", "both"}, "the others are not built by themselves"
    assert chosen["datasets"]["both"] == {"catalog": "data/pipeline.yaml", "entry": "combined.both"}
    assert chosen["sources"]["both-second-talk"]["entry"] == "combined.both"
    assert chosen["combined"]["both"]["sources"]["second-talk"] == TEXT, "what DVC watches is all of it"
    with pytest.raises(SettingsError, match=r"stages\.stage1_5, data\.stage1_5: both have a value, or both are null"):
        settings_of(tmp_path, stage1_5="first")


def test_duplicates_across_the_combined_sets_are_found(tmp_path: Path) -> None:
    """From sources to a validated manifest; a sample's id names the data set that it was taken from."""
    second = {"again": TEXT, "new": TEXT | {"origin": TEXT["origin"] | {"seed": 99}}}
    catalog = catalog_of(tmp_path, first=dataset(), second=dataset(sources=second), both=BOTH)
    settings = settings_of(tmp_path)
    shutil.copytree(ROOT / "data/tokenizers", tmp_path / "data/tokenizers")
    for name, sources in (("first", ["talk"]), ("both", ["first-talk", "second-again", "second-new"])):
        for source in sources:
            ingest_source(settings, catalog, name, source, tmp_path)
            shard_source(settings, catalog, name, source, tmp_path)
        curate_dataset(settings, catalog, name, tmp_path)
    ledger = pl.read_parquet(tmp_path / "data/manifests/both/ledger.parquet")
    twice = ledger.filter(pl.col("block").is_in(["exact-duplicates", "near-duplicates"]))
    assert {"second-again"} <= set(twice["source"]) and not (twice["source"] == "first-talk").any()
    assert twice["evidence"].str.contains("both/first-talk/").any()
    kept = pl.read_parquet(tmp_path / "data/manifests/both/manifest.parquet")
    alone = pl.read_parquet(tmp_path / "data/manifests/first/manifest.parquet")
    mine = kept.filter(pl.col("source") == "first-talk")
    assert mine["row"].to_list() == alone["row"].to_list(), "the same 20 of 30 are drawn as in the set by itself"
    validate_dataset(settings, catalog, "both", tmp_path)
