"""Curation of a data set: blocks, one after the other, decide what is kept; nothing is copied.

`data/manifests/<dataset>/`: manifest.parquet (what is kept), ledger.parquet (what is not, and why), summary.json.
kept + rejected = ingested, always. Source: design "From source to batch", item 3.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion.data.curate.base import load_blocks
from fusion.data.curate.output import MANIFEST, Ledger, check, summarise, write_manifest
from fusion.data.curate.samples import AT, Samples
from fusion.data.errors import DataError
from fusion.data.leftovers import check_leftovers
from fusion.data.store.folders import output_folder
from fusion.data.store.resume import sole_process
from fusion.data.store.workers import Workers
from fusion.files import write_json

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog
    from fusion.settings import CurationProfile, Settings


def curate_dataset(settings: Settings, catalog: Catalog, dataset: str, root: Path = Path(".")) -> Path:
    """Curates one data set; returns the folder of its manifest.

    Raises:
        DataError: a source was not sharded, a benchmark was not built, a block or profile does not exist, or the
            numbers do not add up; or folders are left of sources or benchmarks that the catalog does not name; or a
            process died, or another one curates the data set.
    """
    entry = catalog.dataset(dataset)
    check_leftovers(catalog, [dataset], root)
    profiles = {name: _profile(settings, dataset, name, source.profile) for name, source in entry.sources.items()}
    target = root / "data/manifests" / dataset
    data = settings.data
    workers = Workers(dataset, data.workers, data.runner, data.scheduler)
    with sole_process(root / "scratch/curate" / dataset), output_folder(target) as folder, workers:
        scratch = folder / "scratch"
        scratch.mkdir()
        samples = Samples(
            root=root,
            dataset=dataset,
            profiles=profiles,
            weights={name: source.weight for name, source in entry.sources.items()},
            benchmarks=list(entry.contamination),
            workers=workers,
            scratch=scratch,
        )
        ledger = Ledger(samples)
        blocks = _run_blocks(samples, ledger, settings.curation.blocks)
        write_manifest(samples, folder / MANIFEST)
        ledger.write(folder / "ledger.parquet")
        check(samples, ledger, folder)
        write_json(summarise(entry, ledger, folder, blocks), folder / "summary.json")
        shutil.rmtree(scratch)
    return target


def _profile(settings: Settings, dataset: str, source: str, name: str) -> CurationProfile:
    if name not in settings.curation.profiles:
        known = ", ".join(settings.curation.profiles)
        raise DataError(
            f"data/catalog/: datasets.{dataset}.sources.{source}.profile: params.yaml has no profile `{name}`; "
            f"known: {known}"
        )
    return settings.curation.profiles[name]


def _run_blocks(samples: Samples, ledger: Ledger, names: list[str]) -> list[dict[str, Any]]:
    facts = []
    for block in load_blocks(names):
        before = int(np.count_nonzero(samples.kept))
        rejects = block.rejects(samples)
        at = rejects[AT].to_numpy().astype(np.int64)
        if len(np.unique(at)) != len(at):
            raise DataError(f"curation block {block.name} rejected a sample twice: this is a fault of the block")
        ledger.add(block.name, rejects)
        samples.drop(at)
        reasons = dict(rejects.group_by("reason").len().sort("reason").iter_rows())
        facts.append({"block": block.name, "in": before, "dropped": len(rejects), "reasons": reasons})
    return facts
