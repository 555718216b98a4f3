"""What `run.variants` needs: the variants, their data sets, the sources of those, and the benchmarks.

DVC's loops take lists, not rules, so the answer is written to data/pipeline.yaml, over which dvc.yaml loops. The file
is in git; every stage checks that it still fits params.yaml and the catalog, and says how to bring it up to date.
"""

from pathlib import Path
from typing import Any

import yaml

from fusion.data.catalog import Catalog
from fusion.data.ingest.origin import EmbeddedOrigin, Origin, PublishedOrigin
from fusion.errors import FusionError
from fusion.settings import STAGES, Settings

PIPELINE_FILE = Path("data/pipeline.yaml")
_HEADER = "# Written by `fusion settings --write`: what run.variants needs of data/catalog/. dvc.yaml loops over it.\n"


class _Plain(yaml.SafeDumper):
    """Writes equal parts out instead of referring to the first of them, which people would have to look up."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class SelectionError(FusionError):
    """data/pipeline.yaml does not fit params.yaml and the catalog."""


def select(settings: Settings, catalog: Catalog) -> dict[str, Any]:
    """The content of data/pipeline.yaml; raises `CatalogError` for a data set or benchmark that the catalog lacks."""
    variants: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    benchmarks: dict[str, Any] = {}
    with_base: dict[str, Any] = {}
    with_stage1_5: dict[str, Any] = {}
    combined: dict[str, Any] = {}
    for name in settings.run.variants:
        variant = settings.variant(name)
        trained = variant.stage_names
        # Where a stage is not trained, another stands for it: DVC's loops have no empty dependency.
        data = {stage: getattr(variant.data, stage if stage in trained else "stage2") for stage in STAGES}
        curves = {"first_curves": trained[0], "middle_curves": trained[max(0, len(trained) - 2)]}
        variants[name] = data | curves | {"first_stage": variant.first_stage, "before_stage2": variant.chain[-2]}
        if "stage1" in trained:
            with_base[name] = {"stage1": variant.data.stage1}
        if "stage1_5" in trained:
            with_stage1_5[name] = {"stage1_5": variant.data.stage1_5}
        for dataset in dict.fromkeys(getattr(variant.data, stage) for stage in trained):
            entry = catalog.dataset(dataset)
            place = {"catalog": entry.file, "entry": f"datasets.{dataset}"}
            if entry.combines:
                # Its sources stand in no catalog file: what DVC has to watch is written out here.
                combined[dataset] = entry.whole
                place = {"catalog": PIPELINE_FILE.as_posix(), "entry": f"combined.{dataset}"}
            datasets[dataset] = place
            for source, facts in entry.sources.items():
                sources[f"{dataset}-{source}"] = {
                    **place,
                    "code": facts.origin.code(),
                    "dataset": dataset,
                    "input": facts.origin.input,
                    "layout": _layout(facts.origin),
                    "source": source,
                }
            for benchmark in [*entry.contamination, *variant.evaluation.benchmarks]:
                benchmarks[benchmark] = _benchmark(catalog, benchmark)
    # `builds`, not `variants`: DVC merges params.yaml into its variables, where that name is taken.
    chosen = {"benchmarks": benchmarks, "builds": variants, "datasets": datasets, "sources": sources}
    chosen |= {"with_base": with_base, "with_stage1_5": with_stage1_5}
    return chosen | ({"combined": combined} if combined else {})


def _layout(origin: Origin) -> str:
    """The code that finds the pictures again when a source is sharded; those of embedded origins lie in data/raw/."""
    return origin.code() if isinstance(origin, PublishedOrigin) else EmbeddedOrigin.input


def _benchmark(catalog: Catalog, name: str) -> dict[str, str]:
    entry = catalog.benchmark(name)
    return {"catalog": entry.file, "code": entry.origin.code()}


def pipeline_text(settings: Settings, catalog: Catalog) -> str:
    """The text of data/pipeline.yaml, sorted."""
    return _HEADER + yaml.dump(select(settings, catalog), Dumper=_Plain, sort_keys=True, width=120)


def write_pipeline(settings: Settings, catalog: Catalog, root: Path = Path()) -> bool:
    """Brings data/pipeline.yaml up to date; returns whether it changed."""
    path = root / PIPELINE_FILE
    text = pipeline_text(settings, catalog)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def check_pipeline(settings: Settings, catalog: Catalog, root: Path = Path()) -> None:
    """Raises `SelectionError` if data/pipeline.yaml is out of date."""
    path = root / PIPELINE_FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != pipeline_text(settings, catalog):
        raise SelectionError(
            f"{PIPELINE_FILE} does not fit params.yaml (run.variants: {', '.join(settings.run.variants)}) "
            "and data/catalog/: run `fusion settings --write`, then the same command again (`make run` does both)"
        )
