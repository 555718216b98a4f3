"""The card of a data set: README.md of the repository that describes it on the Hub."""

from typing import Any

import yaml

from fusion.data.catalog import Catalog
from fusion.publish.facts import DatasetFacts
from fusion.publish.text import templates


def dataset_card(dataset: DatasetFacts, catalog: Catalog, model: str) -> str:
    """The card's text, equal for equal facts. `model`: the repository of the model that was trained on it."""
    matter = yaml.safe_dump(_front_matter(dataset, catalog), sort_keys=True, allow_unicode=True, width=120)
    return templates().get_template("dataset.md").render(front_matter=matter, dataset=dataset, model=model)


def _front_matter(dataset: DatasetFacts, catalog: Catalog) -> dict[str, Any]:
    repos = {getattr(source.origin, "repo", None) for source in catalog.dataset(dataset.name).sources.values()}
    document: dict[str, Any] = {
        "pretty_name": dataset.title,
        # Each source has its own: the Hub's word for that.
        "license": "other",
        "license_name": "see-the-table-of-sources",
        "task_categories": ["image-text-to-text", "visual-question-answering"],
        "tags": ["croissant", "fusion", "vision-language"],
    }
    upstream = sorted(repo for repo in repos if repo)
    return document | ({"source_datasets": upstream} if upstream else {})
