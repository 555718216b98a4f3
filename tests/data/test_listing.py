"""`fusion data`: the catalog's facts, counted and compared with what is published."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from fusion.cli import app
from fusion.data.catalog import load_catalog
from fusion.data.errors import CatalogError
from fusion.data.listing import compare, list_datasets, totals
from fusion.data.listing_text import print_datasets

DISAGREEMENTS = {
    "fusion-pretrain-10m": [
        "short captions: 21.3% is published, the counts give 21.39%; it fits when cut off instead of rounded",
        "long captions: 69.8% is published, the counts give 69.72%",
    ],
    "fusion-5m-stage1_5": [
        "language: 4.3% is published, the counts give 4.40%; it fits when cut off instead of rounded",
        "OCR: 14.1% is published, the counts give 14.30%",
        "science: 10.0% is published, the counts give 10.12%",
        "long captions: 29.7% is published, the counts give 29.47%",
    ],
    "fusion-7m-stage2": [
        "OCR: 28.9% is published, the counts give 26.43%",
        "code: 0.87% is published, the counts give 1.09%",
        "science: 19.2% is published, the counts give 20.37%",
        "the published shares add up to 100.97%: more than rounding explains, whatever a source belongs to",
    ],
}


def test_the_disagreements_of_the_published_lists_are_these():
    found = {facts.name: facts.disagreements for facts in list_datasets(load_catalog()) if facts.published_source}
    assert found == DISAGREEMENTS


def test_numbers_of_the_published_sets():
    sets = [facts for facts in list_datasets(load_catalog()) if facts.published_source]
    assert {facts.name: (len(facts.sources), facts.total) for facts in sets} == {
        "fusion-pretrain-10m": (9, 9676),
        "fusion-5m-stage1_5": (22, 4547),
        "fusion-7m-stage2": (48, 6864),
    }
    summed = totals(sets)
    assert (summed["sources"], summed["count"], summed["on_hub"]) == (79, 21087, 79)
    assert summed["declared_licences"] == 6
    assert summed["verified_licences"] == summed["pinned"] == 0
    for facts in sets:
        assert sum(share.count for share in facts.shares) == facts.total


def test_changed_counts_and_files_are_told():
    catalog = load_catalog()
    entry = catalog.dataset("fusion-pretrain-10m")
    assert entry.published is not None
    changed = entry.model_copy(update={"published": entry.published.model_copy(update={"files": 10, "total": 9000})})
    wrong = catalog.model_copy(update={"datasets": {"x": changed}})
    lines = list_datasets(wrong)[0].disagreements
    assert lines[:2] == [
        "10 files are published, the catalog has 9 sources",
        "a total of 9,000k is published, the counts add up to 9,676k",
    ]


def test_every_source_is_in_the_tables_and_they_fit_100_columns():
    catalog = load_catalog()
    text = io.StringIO()
    print_datasets(list_datasets(catalog), Console(file=text, width=100))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    for name, dataset in catalog.datasets.items():
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{name}: "))
        named = {line.split(" ")[0] for line in lines[start : start + len(dataset.sources) + 2]}
        assert set(dataset.sources) <= named
    assert "on the Hub: 79 sources, 0 of them at a pinned revision" in lines


def test_the_command_gives_one_set_as_json():
    result = CliRunner().invoke(app, ["data", "--json", "fusion-5m-stage1_5"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    (facts,) = document["datasets"]
    assert facts["total"] == document["count"] == 4547
    assert document["disagreements"] == len(DISAGREEMENTS["fusion-5m-stage1_5"])
    source = next(source for source in facts["sources"] if source["name"] == "MMathCoT")
    assert (source["count"], source["declared"], source["verified"], source["pinned"]) == (200, "GPL-3.0", None, False)
    assert isinstance(CliRunner().invoke(app, ["data", "fusion-5m"]).exception, CatalogError)


@given(st.lists(st.integers(500, 9_000_000), min_size=2, max_size=12), st.integers(1, 11), st.sampled_from([1, 2]))
def test_shares_of_the_true_counts_never_disagree(samples: list[int], taken: int, digits: int):
    """Counts are rounded to thousands, shares to decimals: rounding alone must not be called a disagreement."""
    taken = min(taken, len(samples) - 1)
    counts = [(sample + 500) // 1000 for sample in samples]
    share = round(100 * sum(samples[:taken]) / sum(samples), digits)
    assert compare(share, counts[:taken], sum(counts), len(counts)) in ("agrees", "within rounding")


@pytest.mark.parametrize(
    ("published", "verdict"),
    [(30.0, "agrees"), (30.1, "disagrees"), (29.9, "disagrees"), (30.02, "disagrees"), (30.01, "within rounding")],
)
def test_a_share_that_rounding_cannot_give_disagrees(published: float, verdict: str):
    assert compare(published, [3000], 10_000, 2) == verdict
