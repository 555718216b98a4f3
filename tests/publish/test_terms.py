"""The licence gate: what stands behind a model propagates to it, and what stands against publishing is refused."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion.cli import app
from fusion.data.catalog import Catalog, load_catalog
from fusion.publish.errors import PublishError
from fusion.publish.terms import check_licences, review
from fusion.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
LLAMA = "Llama Community License Agreement, of a version that is not known"


@pytest.fixture(scope="module")
def project() -> tuple[Settings, Catalog]:
    return load_settings(ROOT / "params.yaml"), load_catalog(ROOT / "data/catalog")


def test_the_default_model_may_be_published(project, tmp_path: Path):
    found = check_licences(*project, "tiny", tmp_path)
    assert not found.conflicts and found.commercial and found.default_name == "FUSION-Tiny"
    assert {"CC0-1.0", "MIT", "Apache-2.0"} == set(found.licences)


def test_the_published_models_show_every_kind_of_conflict(project, tmp_path: Path):
    found = review(*project, "fusion-phi35-3b", tmp_path)
    kinds = {conflict.id.partition(":")[0] for conflict in found.conflicts}
    assert kinds == {"unknown", "GPL-3.0", "flux-dev", "llama-unknown"} and not found.commercial
    assert (
        'show "Built with Llama"' in found.duties["Llama Community License Agreement, of a version that is not known"]
    )
    assert any("base model microsoft/Phi-3.5-mini-instruct" in part for part in found.licences["MIT License"])
    assert any("PixelProse" in part for part in found.licences["CC-BY-4.0"])
    with pytest.raises(PublishError, match=r"GPL-3\.0:.*copyleft \(section 5\)"):
        check_licences(*project, "fusion-phi35-3b", tmp_path)


def test_the_default_name_of_every_variant_complies(project, tmp_path: Path):
    settings, catalog = project
    for variant in settings.variants:
        found = review(settings, catalog, variant, tmp_path)
        assert not any(conflict.id.startswith("name:") for conflict in found.conflicts), variant
        assert found.default_name == found.publish_as


@pytest.mark.parametrize(
    ("variant", "old", "because"),
    [
        ("fusion-llama31-8b", "FUSION-LLaMA3.1-8B", "Llama 3.1 Community License Agreement"),
        # Its language model is Phi-3.5, under MIT: the texts that Llama wrote ask for the name.
        ("fusion-phi35-3b", "FUSION-Phi3.5-3B", LLAMA),
    ],
)
def test_the_historical_names_do_not(project, tmp_path: Path, variant: str, old: str, because: str):
    settings, catalog = project
    named = settings.variants[variant].model_copy(update={"publish_as": old})
    other = settings.model_copy(update={"variants": {**settings.variants, variant: named}})
    found = review(other, catalog, variant, tmp_path)
    (name,) = [conflict for conflict in found.conflicts if conflict.id == "name:Llama"]
    assert name.what.startswith(because) and "begins with `Llama`" in name.what
    assert found.default_name == f"Llama-{old}"


FORBIDDEN, UNKNOWN, FREE = "section 1.b.v", "A person has to find out", None


@pytest.mark.parametrize(
    ("evidence", "prefix", "agreement", "against"),
    [
        ("texts with Llama-3.x (Llama licence)", "Llama", "llama.md", UNKNOWN),
        ("texts by Llama", "Llama", "llama.md", UNKNOWN),
        ("Llama-2-70B", "Llama", "llama.md", UNKNOWN),
        ("Meta-Llama-3-70B-Instruct wrote it.", "Llama-3", "llama3.md", FORBIDDEN),
        ("by Llama 3.", "Llama-3", "llama3.md", FORBIDDEN),
        ("Llama-3.0", "Llama-3", "llama3.md", FORBIDDEN),
        ("texts with Llama-3.1 (Llama licence)", "Llama", "llama3.1.md", FREE),
        ("Llama-3.1-405B-Instruct", "Llama", "llama3.1.md", FREE),
        ("Llama-3.2.", "Llama", "llama3.2.md", FREE),
        ("Llama 3.3", "Llama", "llama3.3.md", FREE),
    ],
)
def test_the_version_of_llama_that_wrote_the_data_decides(
    project, tmp_path: Path, evidence: str, prefix: str, agreement: str, against: str | None
):
    """Until 3.0 nothing else may be trained on what it wrote, from 3.1 on under a name; else a person must check."""
    settings, catalog = project
    name, dataset = "easy-vqa", catalog.datasets["tiny-stage2"]
    licence = dataset.sources[name].licence.model_copy(update={"evidence": evidence})
    sources = {**dataset.sources, name: dataset.sources[name].model_copy(update={"licence": licence})}
    written = {**catalog.datasets, "tiny-stage2": dataset.model_copy(update={"sources": sources})}
    found = review(settings, catalog.model_copy(update={"datasets": written}), "tiny", tmp_path)
    told = {conflict.id: conflict.what for conflict in found.conflicts}
    assert told.pop(f"name:{prefix}").endswith("begins with `" + prefix + "`; it is FUSION-Tiny")
    assert found.default_name == f"{prefix}-FUSION-Tiny" and agreement in found.carry and len(found.carry) == 2
    (what,) = told.values() or [None]
    assert what is None if against is None else against in what and what.startswith("tiny-stage2/easy-vqa: ")


def test_an_override_has_a_reason_and_covers_one_conflict(project, tmp_path: Path):
    before = review(*project, "fusion-phi35-3b", tmp_path)
    path = tmp_path / "data/licence-overrides.yaml"
    path.parent.mkdir()
    conflict = before.open[0].id
    path.write_text(f"'{conflict}': 'legal department, 2026-01-07: its authors agreed in writing'\n")
    after = review(*project, "fusion-phi35-3b", tmp_path)
    assert len(after.open) == len(before.open) - 1 and len(after.conflicts) == len(before.conflicts)
    path.write_text(f"'{conflict}': 'ok'\n")
    with pytest.raises(PublishError, match="needs a reason"):
        review(*project, "fusion-phi35-3b", tmp_path)


@pytest.mark.parametrize(
    ("variant", "code", "word"),
    [
        ("tiny", 0, "it may be published"),
        ("fusion-llama31-8b", 1, "refused"),
        ("fusion-phi35-3b", 1, "which version of Llama wrote its texts is not known"),
    ],
)
def test_the_command(variant: str, code: int, word: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["licence", variant])
    assert done.exit_code == code and word in done.output
