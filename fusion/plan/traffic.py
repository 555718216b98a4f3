"""What a stage's data set brings: how many samples of what lengths, from its manifest or, before there is one, assumed.

The catalog's published counts give the number of samples then, and lengths.yaml how long one of a category is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from fusion.data.store.folders import readable
from fusion.documents import read_yaml
from fusion.plan.errors import PlanError
from fusion.plan.load import Sample

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog, Dataset

_FILE = Path(__file__).with_name("lengths.yaml")
_BUCKET = 32
"""Lengths are put together to so many tokens: what FLOPs depend on is hardly moved by it."""
_QUANTILES = 9
"""An assumed distribution is stood for by so many lengths of equal weight."""

Positive = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Category(_Section):
    """Samples of a category: a turn's tokens are log-normal; `question` is the share of them that asks."""

    median: Positive
    sigma: Positive
    turns: Annotated[float, Field(ge=1)]
    question: Annotated[float, Field(gt=0, lt=1)]
    picture: bool = True


class Template(_Section):
    """Tokens of the template: once a sample, and for each turn."""

    sample: float
    turn: float


class Lengths(_Section):
    """lengths.yaml."""

    source: str
    picture_kb: Positive
    images_a_second_a_core: Positive
    template: Template
    categories: dict[str, Category]


@dataclass(frozen=True)
class Traffic:
    """The samples of one epoch.

    Attributes:
        dataset: its name.
        kinds: kinds of samples; their counts add up to 1.
        samples: draws in an epoch; None where neither a manifest nor the catalog says how many.
        bytes: of pictures and texts as they lie in the shards, an epoch; None where `samples` is.
        source: where lengths come from, for people.
        too_long: share of the samples that training leaves out, because they do not fit into max_length.
    """

    dataset: str
    kinds: tuple[Sample, ...]
    samples: int | None
    bytes: float | None
    source: str
    too_long: float

    @property
    def with_picture(self) -> float:
        """Share of the samples that have a picture."""
        return sum(kind.count for kind in self.kinds if kind.picture)


def traffic(
    catalog: Catalog,
    dataset: str,
    tokenizer: str,
    root: Path,
    num_patches: int,
    most_latents: int,
    max_length: int,
    pilot: float | None = None,
) -> Traffic:
    """What one epoch of a data set brings.

    Args:
        catalog: with the data set.
        dataset, tokenizer: names in the catalog.
        root: the project's folder; the manifest is looked for there.
        num_patches, most_latents, max_length: V, the largest q, and what samples must fit into with these.
        pilot: share of each source that is used; a manifest has that share already.
    """
    manifest = root / "data" / "manifests" / dataset / "manifest.parquet"
    entry = catalog.dataset(dataset)
    counted = manifest.is_file()
    kinds, samples, size = _measured(manifest, tokenizer) if counted else _assumed(entry, dataset, pilot or 1.0)
    source = "samples as published, lengths assumed" if samples else "lengths assumed, samples not known"
    fitting = [kind for kind in kinds if kind.length(num_patches, most_latents) <= max_length]
    share = sum(kind.count for kind in fitting) / sum(kind.count for kind in kinds)
    if not fitting:
        raise PlanError(f"{dataset}: no sample fits into max_length {max_length}")
    total = sum(kind.count for kind in fitting)
    return Traffic(
        dataset,
        tuple(replace(kind, count=kind.count / total) for kind in fitting),
        # What a manifest says is exact; published steps count every sample, and assumed lengths must not change that.
        round(samples * share) if counted and samples else samples,
        size,
        "counted in its manifest" if counted else source,
        1 - share,
    )


_Brought = tuple[list[Sample], int | None, float | None]


def _measured(manifest: Path, tokenizer: str) -> _Brought:
    text, instruct = f"text_tokens_{tokenizer}", f"instruct_tokens_{tokenizer}"
    with readable(manifest, "dvc repro"):
        frame = pl.scan_parquet(manifest)
        names = frame.collect_schema().names()
        if text not in names or instruct not in names:
            raise PlanError(f"{manifest} has no tokens of `{tokenizer}`: run `dvc repro`")
        grouped = (
            frame.filter(pl.col("draws") > 0)
            .group_by(
                pl.col("image_offset").is_not_null().alias("picture"),
                "turns",
                (pl.col(text) // _BUCKET).alias("bucket"),
            )
            .agg(
                ((pl.col(text) * pl.col("draws")).sum() / pl.col("draws").sum()).alias("text"),
                ((pl.col(instruct) * pl.col("draws")).sum() / pl.col("draws").sum()).alias("instruct"),
                pl.col("draws").sum().alias("draws"),
                (pl.col("draws") * (pl.col("record_size") + pl.col("image_size").fill_null(0))).sum().alias("bytes"),
            )
            .sort("picture", "turns", "bucket")
            .collect()
        )
    around = assumed_lengths().template
    kinds = []
    for row in grouped.iter_rows(named=True):
        wrapping = around.sample + around.turn * row["turns"]
        asked = row["instruct"] if row["picture"] else 0.35 * row["text"]
        kinds.append(
            Sample(
                row["text"],
                row["instruct"] if row["picture"] else 0.0,
                row["turns"],
                max(2.0 * row["turns"], row["text"] - asked - wrapping),
                row["picture"],
                row["draws"],
            )
        )
    if not kinds:
        raise PlanError(f"{manifest} keeps no sample")
    return kinds, int(grouped["draws"].sum()), float(grouped["bytes"].sum())


def _assumed(entry: Dataset, dataset: str, part: float) -> _Brought:
    known = assumed_lengths()
    counts = [
        None if source.count is None else 1000 * source.count * source.weight for source in entry.sources.values()
    ]
    total = sum(count for count in counts if count) if all(counts) else None
    kinds: list[Sample] = []
    size = 0.0
    for source, count in zip(entry.sources.values(), counts, strict=True):
        category = known.categories.get(source.category)
        if category is None:
            raise PlanError(
                f"{dataset}: fusion/plan/lengths.yaml says nothing of samples of the category `{source.category}`: "
                f"add a line, or run `dvc repro` for the data set's manifest"
            )
        weight = float(count or 1)
        kinds += [replace(kind, count=kind.count * weight) for kind in _kinds(category, known.template)]
        size += weight * ((1000 * known.picture_kb if category.picture else 0) + 4 * category.median * category.turns)
    if total is None:
        return kinds, None, None
    return kinds, round(part * total), part * size


def _kinds(category: Category, around: Template) -> list[Sample]:
    normal = NormalDist(math.log(category.median), category.sigma)
    kinds = []
    for number in range(_QUANTILES):
        tokens = math.exp(normal.inv_cdf((number + 0.5) / _QUANTILES)) * category.turns
        asked = tokens * category.question
        kinds.append(
            Sample(
                text=around.sample + around.turn * category.turns + tokens,
                instruct=1 + asked if category.picture else 0.0,
                turns=category.turns,
                supervised=tokens - asked + category.turns,
                picture=category.picture,
                count=1 / _QUANTILES,
            )
        )
    return kinds


def images_a_second_a_core() -> float:
    """Pictures that one processor core reads, decodes and cuts to tiles in a second."""
    return assumed_lengths().images_a_second_a_core


@cache
def assumed_lengths() -> Lengths:
    """What samples are assumed to be like where there is no manifest."""
    return Lengths.model_validate(read_yaml(_FILE, PlanError))
