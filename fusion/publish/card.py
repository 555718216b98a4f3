"""The model card: README.md of the package, with the front matter that the Hub reads.

The package's own card knows nothing of repositories. `fusion publish` renders it again with a `Published`, which says
where the model, its stages and its data sets are, and what lies beside the card.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from fusion.data.catalog import Catalog
from fusion.evaluate.columns.entries import load_columns
from fusion.evaluate.verdict import Status, Verdict
from fusion.publish.facts import Facts
from fusion.publish.licence import WeightsLicence
from fusion.publish.text import templates
from fusion.settings import Settings
from fusion.zoo.entries import stage_note

EXAMPLE_QUESTION = "What shape is in the image?"


@dataclass(frozen=True)
class ColumnRow:
    """A column of the model zoo on the card. `published`: the zoo's number, empty without a reference."""

    name: str
    title: str
    status: Status
    score: str
    published: str
    meaning: str
    """Whether the two numbers mean the same: same, differs or unknown."""


@dataclass(frozen=True)
class Judged:
    """What the gate said. `benchmarks`: name -> verdict; `columns`: those of the zoo; `reference`: its model."""

    benchmarks: Mapping[str, Verdict] = field(default_factory=dict)
    columns: tuple[ColumnRow, ...] = ()
    reference: str | None = None

    @property
    def shown(self) -> tuple[ColumnRow, ...]:
        """All columns where there is a published number to stand beside; else those that were run."""
        return tuple(row for row in self.columns if self.reference or row.status is not Status.NOT_RUN)


@dataclass(frozen=True)
class Published:
    """Where a card is published.

    Attributes:
        repo: OWNER/NAME of its repository.
        stages: title of a stage -> its repository, for all of the variant's.
        datasets: name of a data set -> the repository of its card.
        files: what lies beside the card: name -> what it is.
        banner: what a licence asks to be shown on the page, empty without.
        duties: licence -> what it asks of whoever passes the weights on.
        overrides: conflict of licences -> the reason for which somebody has put it aside.
    """

    repo: str
    stages: Mapping[str, str]
    datasets: Mapping[str, str]
    files: Mapping[str, str]
    banner: str
    duties: Mapping[str, list[str]]
    overrides: Mapping[str, str]


def judged(settings: Settings, variant: str, verdicts: Sequence[Verdict]) -> Judged:
    """The gate's verdicts as the card shows them, with the zoo's numbers of the variant's reference beside."""
    reference = settings.variant(variant).evaluation.gate.reference
    known = load_columns()
    rows = tuple(
        ColumnRow(
            verdict.column,
            known[verdict.column].zoo.title,
            verdict.status,
            verdict.score or "\N{EN DASH}",
            f"{known[verdict.column].published(reference):.1f}" if reference else "",
            known[verdict.column].comparability.status,
        )
        for verdict in verdicts
        if verdict.column in known
    )
    return Judged({v.column: v for v in verdicts if v.column not in known}, rows, reference)


def model_card(
    facts: Facts,
    catalog: Catalog,
    licence: WeightsLicence,
    digest: str,
    gate: Judged | None = None,
    published: Published | None = None,
) -> str:
    """The card's text; it holds no time, host or run id, so equal results give an equal card."""
    matter = yaml.safe_dump(
        front_matter(facts, catalog, licence, published), sort_keys=True, allow_unicode=True, width=120
    )
    text = templates().get_template("card.md").render(
        front_matter=matter,
        facts=facts,
        licence=licence,
        digest=digest,
        gate=gate or Judged(),
        published=published,
        banner=licence.notice or (published.banner if published else ""),
        stage_note=stage_note(facts.stages[-1].name),
        question=EXAMPLE_QUESTION,
        last=facts.stages[-1].summary["settings"],
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text)


def front_matter(
    facts: Facts, catalog: Catalog, licence: WeightsLicence, published: Published | None = None
) -> dict[str, Any]:
    """What the Hub reads; data sets that are not on the Hub go by their names in the catalog."""
    datasets = []
    for dataset in facts.datasets:
        repos = {getattr(source.origin, "repo", None) for source in catalog.dataset(dataset.name).sources.values()}
        own = published.datasets.get(dataset.name) if published else None
        datasets += ([own] if own else []) + sorted(repo for repo in repos if repo)
        datasets += [dataset.name] if not own and not any(repos) else []
    document: dict[str, Any] = {
        "license": licence.id,
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "language": ["en"],
        "tags": ["fusion", "vision-language", "multimodal", "visual-question-answering"],
        "datasets": datasets,
        "metrics": ["accuracy"],
        "model-index": [{"name": facts.name, "results": [result for b in facts.benchmarks for result in _results(b)]}],
    }
    if not facts.benchmarks:
        del document["model-index"], document["metrics"]
    if licence.bases:
        document["base_model"] = list(licence.bases)
    return document


def _results(benchmark: Any) -> list[dict[str, Any]]:
    return [
        {
            "task": {"type": "visual-question-answering"},
            "dataset": {"name": benchmark.title, "type": benchmark.name},
            "metrics": [
                {"type": "accuracy", "name": group.title, "value": round(group.model.accuracy * 100, 2)}
                for group in benchmark.groups
            ],
        }
    ]
