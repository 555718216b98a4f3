"""Curation of a data set: blocks, one after the other, decide what is kept; nothing is copied.

`data/manifests/<dataset>/`: manifest.parquet (what is kept), ledger.parquet (what is not, and why), summary.json.
kept + rejected = ingested, always. Source: design "From source to batch", item 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fusion.data.curate.base import AT, Samples, load_blocks
from fusion.data.errors import DataError
from fusion.data.leftovers import check_leftovers
from fusion.data.store.folders import output_folder, read_parquet, write_parquet
from fusion.data.store.ledger import EVIDENCE_CHARS
from fusion.data.store.ledger import SCHEMA as LEDGER
from fusion.files import write_json

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog, Dataset
    from fusion.settings import CurationProfile, Settings

MANIFEST = "manifest.parquet"
_NOT_IN_MANIFEST = (AT, "structure")


def curate_dataset(settings: Settings, catalog: Catalog, dataset: str, root: Path = Path(".")) -> Path:
    """Curates one data set; returns the folder of its manifest.

    Raises:
        DataError: a source was not sharded, a benchmark was not built, a block or profile does not exist, or the
            numbers do not add up; or folders are left of sources or benchmarks that the catalog does not name.
    """
    entry = catalog.dataset(dataset)
    check_leftovers(catalog, [dataset], root)
    profiles = {name: _profile(settings, dataset, name, source.profile) for name, source in entry.sources.items()}
    indexes, before = [], []
    for source in entry.sources:
        indexes.append(
            read_parquet(root / "data/index" / dataset / source / "index.parquet", f"fusion shard {dataset} {source}")
        )
        before.append(
            read_parquet(root / "data/raw" / dataset / source / "rejects.parquet", f"fusion ingest {dataset} {source}")
        )
        before.append(
            read_parquet(root / "data/index" / dataset / source / "rejects.parquet", f"fusion shard {dataset} {source}")
        )
    ingested = {source: len(index) for source, index in zip(entry.sources, indexes, strict=True)}
    for table in before:
        for source, count in table.group_by("source").len().iter_rows():
            ingested[source] += count
    samples = Samples(
        root=root,
        dataset=dataset,
        profiles=profiles,
        weights={name: source.weight for name, source in entry.sources.items()},
        benchmarks=list(entry.contamination),
        frame=pl.concat(indexes).with_row_index(AT),
    )
    blocks, dropped = _run_blocks(samples, settings.curation.blocks)
    if "draws" not in samples.frame.columns:
        samples.frame = samples.frame.with_columns(draws=pl.lit(1, pl.Int32))
    ledger = pl.concat([*before, *dropped]).sort("sample_id")
    manifest = samples.frame.drop(_NOT_IN_MANIFEST)
    _check(dataset, manifest, ledger, ingested)
    target = root / "data/manifests" / dataset
    with output_folder(target) as folder:
        write_parquet(manifest, folder / MANIFEST)
        write_parquet(ledger, folder / "ledger.parquet")
        write_json(_summary(entry, manifest, ledger, ingested, blocks), folder / "summary.json")
    return target


def _profile(settings: Settings, dataset: str, source: str, name: str) -> CurationProfile:
    if name not in settings.curation.profiles:
        known = ", ".join(settings.curation.profiles)
        raise DataError(
            f"data/catalog/: datasets.{dataset}.sources.{source}.profile: params.yaml has no profile `{name}`; "
            f"known: {known}"
        )
    return settings.curation.profiles[name]


def _run_blocks(samples: Samples, names: list[str]) -> tuple[list[dict[str, Any]], list[pl.DataFrame]]:
    facts, dropped = [], []
    for block in load_blocks(names):
        before = len(samples.frame)
        rejects = block.rejects(samples)
        if rejects[AT].n_unique() != len(rejects):
            raise DataError(f"curation block {block.name} rejected a sample twice: this is a fault of the block")
        told = samples.frame.select(AT, "sample_id", "source").join(rejects, on=AT, maintain_order="left")
        clean = pl.col("evidence").str.slice(0, EVIDENCE_CHARS).str.replace_all("\x00", "\\0", literal=True)
        dropped.append(told.with_columns(clean, block=pl.lit(block.name)).select(list(LEDGER)))
        samples.frame = samples.frame.join(rejects.select(AT), on=AT, how="anti", maintain_order="left")
        reasons = dict(rejects.group_by("reason").len().sort("reason").iter_rows())
        facts.append({"block": block.name, "in": before, "dropped": len(rejects), "reasons": reasons})
    return facts, dropped


def _check(dataset: str, manifest: pl.DataFrame, ledger: pl.DataFrame, ingested: dict[str, int]) -> None:
    kept = dict(manifest.group_by("source").len().iter_rows())
    rejected = dict(ledger.group_by("source").len().iter_rows())
    for source, count in ingested.items():
        if kept.get(source, 0) + rejected.get(source, 0) != count:
            raise DataError(
                f"{dataset}/{source}: {kept.get(source, 0)} kept + {rejected.get(source, 0)} rejected are not the "
                f"{count} ingested: this is a fault of curation"
            )


def _summary(
    entry: Dataset, manifest: pl.DataFrame, ledger: pl.DataFrame, ingested: dict[str, int], blocks: list[dict[str, Any]]
) -> dict[str, Any]:
    kept = dict(manifest.group_by("source").len().iter_rows())
    reasons: dict[str, dict[str, int]] = {source: {} for source in ingested}
    counted = ledger.group_by("source", "block", "reason").len().sort("source", "block", "reason")
    for source, block, reason, count in counted.iter_rows():
        reasons[source][f"{block}/{reason}"] = count
    earlier = [
        {
            "block": stage,
            "in": sum(ingested.values()) - (len(ledger.filter(pl.col("block") == "ingest")) if stage == "shard" else 0),
            "dropped": len(ledger.filter(pl.col("block") == stage)),
            "reasons": dict(
                ledger.filter(pl.col("block") == stage).group_by("reason").len().sort("reason").iter_rows()
            ),
        }
        for stage in ("ingest", "shard")
    ]
    drawn = manifest.group_by("category").agg(kept=pl.len(), draws=pl.col("draws").sum()).sort("category")
    total = int(manifest["draws"].sum())
    return {
        "blocks": [*earlier, *blocks],
        "categories": {
            category: {"draws": draws, "kept": count, "share": round(draws / total, 6)}
            for category, count, draws in drawn.iter_rows()
        },
        "draws": total,
        "ingested": sum(ingested.values()),
        "kept": len(manifest),
        "rejected": len(ledger),
        "sources": {
            source: {
                "ingested": count,
                "kept": kept.get(source, 0),
                "reasons": reasons[source],
                "rejected": count - kept.get(source, 0),
            }
            for source, count in ingested.items()
        },
        "tokens": {
            name: {
                "instruct": int(manifest[f"instruct_tokens_{name}"].sum()),
                "longest_text": int(manifest[f"text_tokens_{name}"].max() or 0),  # type: ignore[arg-type]
                "text": int(manifest[f"text_tokens_{name}"].sum()),
            }
            for name in sorted(entry.tokenizers)
        },
    }
