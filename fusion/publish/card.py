"""The model card: README.md of the package, with the front matter that the Hub reads."""

from typing import Any

import yaml

from fusion.data.catalog import Catalog
from fusion.publish.facts import Facts
from fusion.publish.licence import WeightsLicence
from fusion.publish.text import templates
from fusion.zoo.entries import stage_note

EXAMPLE_QUESTION = "What shape is in the image?"


def model_card(facts: Facts, catalog: Catalog, licence: WeightsLicence, digest: str) -> str:
    """The card's text; it holds no time, host or run id, so equal results give an equal card."""
    matter = yaml.safe_dump(front_matter(facts, catalog, licence), sort_keys=True, allow_unicode=True, width=120)
    return templates().get_template("card.md").render(
        front_matter=matter,
        facts=facts,
        licence=licence,
        digest=digest,
        stage_note=stage_note(facts.stages[-1].name),
        question=EXAMPLE_QUESTION,
        last=facts.stages[-1].summary["settings"],
    )  # fmt: skip


def front_matter(facts: Facts, catalog: Catalog, licence: WeightsLicence) -> dict[str, Any]:
    """What the Hub reads; data sets that are not on the Hub go by their names in the catalog."""
    datasets = []
    for dataset in facts.datasets:
        repos = {getattr(source.origin, "repo", None) for source in catalog.dataset(dataset.name).sources.values()}
        datasets += sorted(repo for repo in repos if repo) or [dataset.name]
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
