"""Examples for the report: samples that curation kept and dropped, and held-out questions with the model's answers.

All are drawn by a seed, never chosen by eye; the page says so.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fusion.data.pictures import data_address, read_range
from fusion.publish.errors import PublishError

SAMPLE_ID = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w-]*/\d{8}")
PLACE = ("sample_id", "shard", "record_offset", "record_size", "image_offset", "image_size")
MAX_TEXT = 150


@dataclass(frozen=True)
class Sample:
    """One training sample: its picture as a data address (None: text only, or never readable) and its first answer."""

    sample_id: str
    picture: str | None
    question: str
    text: str


@dataclass(frozen=True)
class Dropped:
    """A rejected sample, and the kept one that it repeats where the evidence names one."""

    sample: Sample
    evidence: str
    twin: Sample | None


@dataclass(frozen=True)
class Reason:
    """One reason of one block: how many samples it took, and some of them."""

    block: str
    reason: str
    count: int
    examples: tuple[Dropped, ...]

    @property
    def paired(self) -> bool:
        """Whether the examples stand beside what they repeat."""
        return any(example.twin is not None and example.twin.picture for example in self.examples)

    @property
    def shown(self) -> tuple[Dropped, ...]:
        """The examples that fit into one row."""
        return self.examples[:2] if self.paired else self.examples


@dataclass(frozen=True)
class Answer:
    """One held-out question with what was expected and what the model said."""

    benchmark: str
    picture: str | None
    question: str
    expected: str
    answered: str
    correct: bool


class Samples:
    """The samples of one data set, read from the shards by their places in the indexes."""

    def __init__(self, dataset: str, root: Path) -> None:
        self._root = root
        self._index = f"{root}/data/index/{dataset}/*/index.parquet"

    def read(self, ids: list[str]) -> dict[str, Sample]:
        """The samples by id; ids that no shard holds (they could not be read at all) are left out."""
        wanted = sorted(set(ids))
        rows = pl.scan_parquet(self._index).select(PLACE).filter(pl.col("sample_id").is_in(wanted)).collect()
        return {row["sample_id"]: self._sample(row) for row in rows.iter_rows(named=True)}

    def _sample(self, row: dict[str, Any]) -> Sample:
        shard = self._root / row["shard"]
        record = json.loads(read_range(shard, row["record_offset"], row["record_size"]))
        picture = None
        if row["image_offset"] is not None:
            picture = data_address(read_range(shard, row["image_offset"], row["image_size"]))
        said = [turn["value"].replace("<image>", "").strip() for turn in record["conversations"]]
        return Sample(row["sample_id"], picture, shorten(said[0]) if said else "", shorten(said[1]) if said[1:] else "")


def kept_samples(dataset: str, root: Path, seed: int, count: int) -> list[Sample]:
    """A seeded choice of kept samples of a data set."""
    ids = _read(root / f"data/manifests/{dataset}/manifest.parquet", ["sample_id"])["sample_id"]
    chosen = ids.sample(min(count, len(ids)), seed=seed, shuffle=True).to_list()
    found = Samples(dataset, root).read(chosen)
    return [found[name] for name in chosen if name in found]


def reasons(dataset: str, root: Path, seed: int, examples: int) -> list[Reason]:
    """Every reason for which samples of a data set were dropped, the most frequent first, with seeded examples."""
    ledger = _read(root / f"data/manifests/{dataset}/ledger.parquet", ["sample_id", "block", "reason", "evidence"])
    groups = ledger.group_by("block", "reason").len().sort(["len", "block", "reason"], descending=[True, False, False])
    chosen = {
        (row["block"], row["reason"]): ledger.filter(
            (pl.col("block") == row["block"]) & (pl.col("reason") == row["reason"])
        ).sample(min(examples, row["len"]), seed=seed, shuffle=True)
        for row in groups.iter_rows(named=True)
    }
    ids = [name for rows in chosen.values() for name in rows["sample_id"]]
    twins = {name: _twin(name, evidence) for rows in chosen.values() for name, evidence in _evidence(rows)}
    found = Samples(dataset, root).read([*ids, *(twin for twin in twins.values() if twin)])
    listed = []
    for row in groups.iter_rows(named=True):
        dropped = tuple(
            Dropped(
                found.get(name) or Sample(name, None, "", ""), _plain(said, twins[name]), found.get(twins[name] or "")
            )
            for name, said in _evidence(chosen[row["block"], row["reason"]])
        )
        listed.append(Reason(row["block"], row["reason"], row["len"], dropped))
    return listed


def held_out_answers(variant: str, root: Path, seed: int, count: int) -> tuple[list[Answer], list[Answer]]:
    """`count` of the last checkpoint's answers, drawn from all benchmarks alike, and half as many of its wrong ones.

    No picture stands there twice.
    """
    answers = _read(root / f"results/{variant}/evaluation/answers.parquet", None)
    mine = answers.filter(pl.col("system") == f"{variant} stage2").sample(fraction=1.0, seed=seed, shuffle=True)
    mine = mine.unique(["benchmark", "image_id"], keep="first", maintain_order=True)
    names = mine["benchmark"].unique().sort().to_list()
    shares = [count // len(names) + (index < count % len(names)) for index in range(len(names))]
    parts = [mine.filter(pl.col("benchmark") == name).head(share) for name, share in zip(names, shares, strict=True)]
    drawn = pl.concat([mine.head(0), *parts])
    others = mine.join(drawn.select("benchmark", "question_id"), on=["benchmark", "question_id"], how="anti")
    wrong = others.filter(~pl.col("correct")).head(count // 2)
    return _answers(drawn, root), _answers(wrong, root)


def _answers(rows: pl.DataFrame, root: Path) -> list[Answer]:
    found = []
    for name in rows["benchmark"].unique().sort().to_list():
        folder = root / "data/benchmarks" / name
        places = _read(folder / "questions.parquet", ["question_id", "image_offset", "image_size"])
        chosen = rows.filter(pl.col("benchmark") == name).join(
            places, on="question_id", how="left", maintain_order="left"
        )
        for row in chosen.iter_rows(named=True):
            picture = data_address(read_range(folder / "images.tar", row["image_offset"], row["image_size"]))
            found.append(Answer(name, picture, row["question"], row["answer"], row["prediction"], row["correct"]))
    return found


def _evidence(rows: pl.DataFrame) -> list[tuple[str, str]]:
    return [(name, evidence or "") for name, evidence in rows.select("sample_id", "evidence").iter_rows()]


def _plain(evidence: str, twin: str | None) -> str:
    return shorten(evidence.replace(twin, "the one beside it") if twin else evidence)


def _twin(sample_id: str, evidence: str) -> str | None:
    return next((match for match in SAMPLE_ID.findall(evidence) if match != sample_id), None)


def _read(path: Path, columns: list[str] | None) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=columns)
    except FileNotFoundError:
        raise PublishError(f"{path} is missing: run `dvc repro`") from None


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """At most `limit` characters, cut at a word, with an ellipsis."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    return text[:limit].rsplit(" ", 1)[0] + "\N{HORIZONTAL ELLIPSIS}"
