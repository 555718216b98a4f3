"""The facts of a finished run, read from its files once: for the model card, the report and the terminal."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.data.catalog import Catalog, Licence
from fusion.evaluate.benchmark import GREY, PRIOR
from fusion.lineage.outside import Adopted, adopted_of, adoption_of
from fusion.publish.errors import PublishError
from fusion.settings import Settings

STAGE_TITLES = {"stage1": "Stage 1", "stage1_5": "Stage 1.5", "stage2": "Stage 2"}
GROUP_TITLES = {"all": "All questions", "open": "Open questions", "yes_no": "Yes or no", "choice": "Multiple choice"}


@dataclass(frozen=True)
class SourceFacts:
    """One source of a data set. Counts are samples; `reasons` maps "block/reason" to a count."""

    name: str
    category: str
    ingested: int
    kept: int
    rejected: int
    reasons: dict[str, int]
    licence: Licence


@dataclass(frozen=True)
class DatasetFacts:
    """One data set after curation; `blocks` are its curation blocks in order: block, in, dropped, reasons."""

    name: str
    title: str
    stages: tuple[str, ...]
    ingested: int
    kept: int
    rejected: int
    blocks: tuple[dict[str, Any], ...]
    sources: tuple[SourceFacts, ...]


@dataclass(frozen=True)
class Score:
    """An accuracy with its interval, shares of 1."""

    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """A group of questions of a benchmark: the model, its first checkpoint, and the two blind baselines."""

    name: str
    n: int
    model: Score
    first: Score
    grey: Score
    prior: Score
    margin: Score
    """Model minus the better blind baseline, paired by question."""

    @property
    def title(self) -> str:
        """The group's name for people."""
        return GROUP_TITLES.get(self.name, self.name.replace("_", " ").replace("-", " ").capitalize())

    @property
    def blind(self) -> Score:
        """The better blind baseline."""
        return max(self.grey, self.prior, key=lambda score: score.accuracy)


@dataclass(frozen=True)
class BenchmarkFacts:
    """One benchmark; `groups` begins with all questions."""

    name: str
    title: str
    questions: int
    pictures: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class SourceRow:
    """Cross-entropy of a source over the steps up to `step` since the row before: a mean over `tokens`."""

    step: float
    category: str
    source: str
    loss: float
    tokens: int


@dataclass(frozen=True)
class StageFacts:
    """One training stage: what its summary.json says, and the columns of its loss.csv as numbers."""

    name: str
    summary: dict[str, Any]
    curve: dict[str, list[float]]

    @property
    def title(self) -> str:
        """The stage's name for people."""
        return STAGE_TITLES[self.name]


@dataclass(frozen=True)
class Facts:
    """All of it. `weights` maps the evaluated weight files of the last stage to their sha256.

    `first_stage`: the stage of the checkpoint that the model is compared with; trained here, or `adopted`,
    which says where that came from.
    """

    variant: str
    name: str
    parameters: int
    confidence: float
    datasets: tuple[DatasetFacts, ...]
    stages: tuple[StageFacts, ...]
    benchmarks: tuple[BenchmarkFacts, ...]
    weights: dict[str, str]
    first_stage: str
    adopted: Adopted | None

    @property
    def first_title(self) -> str:
        """What the columns about the first checkpoint are called."""
        return f"after {STAGE_TITLES[self.first_stage].lower()}"

    @property
    def samples(self) -> int:
        """Samples kept for training, over all data sets."""
        return sum(dataset.kept for dataset in self.datasets)


def collect_facts(settings: Settings, catalog: Catalog, variant: str, root: Path = Path(".")) -> Facts:
    """Reads what the stages of `variant` wrote; raises `PublishError` naming the file and the stage that is missing."""
    chosen = settings.variant(variant)
    used: dict[str, list[str]] = {}
    for stage in chosen.stage_names:
        used.setdefault(getattr(chosen.data, stage), []).append(stage)
    stages = tuple(_stage(variant, stage, root) for stage in chosen.stage_names)
    scores = _read(root / f"results/{variant}/evaluation/scores.json", f"evaluate@{variant}")
    return Facts(
        variant=variant,
        name=settings.published_name(variant),
        parameters=int(stages[-1].summary["parameters"]),
        confidence=float(scores["confidence"]),
        datasets=tuple(_dataset(catalog, name, tuple(of), root) for name, of in used.items()),
        stages=stages,
        benchmarks=tuple(
            _benchmark(catalog, variant, chosen.first_stage, name, value)
            for name, value in scores["benchmarks"].items()
        ),
        weights=dict(scores["checkpoints"]["stage2"]),
        first_stage=chosen.first_stage,
        adopted=None if chosen.adopted is None else _adopted(variant, chosen.adopted, root),
    )


def _adopted(variant: str, stage: str, root: Path) -> Adopted:
    path = f"checkpoints/{variant}/{stage}"
    record = adoption_of(path, root)
    adopted = None if record is None else adopted_of(record)
    if adopted is None:
        raise PublishError(
            f"records/ does not say where {path} came from: get its record back with `git checkout -- records`, or run "
            f"`fusion adopt CHECKPOINT --as {variant}/{stage}`"
        )
    return adopted


def _read(path: Path, stage: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PublishError(f"{path} is missing: run `dvc repro {stage}`") from None
    except ValueError as error:
        raise PublishError(f"{path} is not valid JSON ({error}): run `dvc repro --force {stage}`") from error
    if not isinstance(document, dict):
        raise PublishError(f"{path} is not a JSON object: run `dvc repro --force {stage}`")
    return document


def _dataset(catalog: Catalog, name: str, stages: tuple[str, ...], root: Path) -> DatasetFacts:
    summary = _read(root / f"data/manifests/{name}/summary.json", f"curate@{name}")
    entry = catalog.dataset(name)
    sources = tuple(
        SourceFacts(
            source, entry.sources[source].category, counts["ingested"], counts["kept"], counts["rejected"],
            dict(counts["reasons"]), entry.sources[source].licence,
        )
        for source, counts in summary["sources"].items()
    )  # fmt: skip
    counts = (summary["ingested"], summary["kept"], summary["rejected"])
    return DatasetFacts(name, entry.title, stages, *counts, tuple(summary["blocks"]), sources)


def _stage(variant: str, stage: str, root: Path) -> StageFacts:
    folder = root / f"results/{variant}/{stage}"
    summary = _read(folder / "summary.json", f"train_{stage}@{variant}")
    return StageFacts(stage, summary, read_curve(folder / "loss.csv", f"train_{stage}@{variant}"))


def read_curve(path: Path, made_by: str) -> dict[str, list[float]]:
    """The columns of a loss.csv as numbers; raises `PublishError` naming the stage that makes it."""
    rows = _rows(path, made_by)
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def read_sources(path: Path, made_by: str) -> list[SourceRow]:
    """The rows of a loss_by_source.csv; raises `PublishError` naming the stage that makes it."""
    return [
        SourceRow(float(row["step"]), row["category"], row["source"], float(row["loss"] or "nan"), int(row["tokens"]))
        for row in _rows(path, made_by)
    ]


def _rows(path: Path, made_by: str) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise PublishError(f"{path} is missing: run `dvc repro {made_by}`") from None


def _benchmark(catalog: Catalog, variant: str, first: str, name: str, value: dict[str, Any]) -> BenchmarkFacts:
    scores: dict[str, dict[str, Any]] = {}
    for row in value["rows"]:
        scores.setdefault(row["group"], {})[row["system"]] = row
    margins = {row["group"]: Score(row["margin"], row["low"], row["high"]) for row in value["margins"]}
    systems = (f"{variant} stage2", f"{variant} {first}", GREY, PRIOR)
    groups = tuple(
        _group(group, [rows[system] for system in systems], margins[group])
        for group, rows in sorted(scores.items(), key=lambda item: _rank(item[0]))
    )
    return BenchmarkFacts(name, catalog.benchmark(name).title, value["questions"], value["pictures"], groups)


def _group(name: str, rows: list[dict[str, Any]], margin: Score) -> Group:
    model, first, grey, prior = map(_score, rows)
    return Group(name, rows[0]["n"], model, first, grey, prior, margin)


def _rank(group: str) -> tuple[int, str]:
    order = list(GROUP_TITLES)
    return (order.index(group) if group in order else len(order), group)


def _score(row: dict[str, Any]) -> Score:
    return Score(row["accuracy"], row["low"], row["high"])
