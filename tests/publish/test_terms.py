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
    assert {"unknown", "GPL-3.0", "flux-dev", "name"} <= kinds and not found.commercial
    assert found.default_name == "Llama-FUSION-Phi3.5-3B", "texts written by Llama ask for the name, too"
    assert 'show "Built with Llama"' in found.duties["Llama 3 Community License Agreement"]
    assert any("base model microsoft/Phi-3.5-mini-instruct" in part for part in found.licences["MIT License"])
    assert any("PixelProse" in part for part in found.licences["CC-BY-4.0"])
    with pytest.raises(PublishError, match=r"GPL-3\.0:.*copyleft \(section 5\)"):
        check_licences(*project, "fusion-phi35-3b", tmp_path)


def test_the_names_of_the_llama_models_comply_and_the_historical_ones_do_not(project, tmp_path: Path):
    settings, catalog = project
    found = review(settings, catalog, "fusion-llama31-8b", tmp_path)
    assert not any(conflict.id.startswith("name:") for conflict in found.conflicts)
    old = settings.variants["fusion-llama31-8b"].model_copy(update={"publish_as": "FUSION-LLaMA3.1-8B"})
    other = settings.model_copy(update={"variants": {**settings.variants, "fusion-llama31-8b": old}})
    found = review(other, catalog, "fusion-llama31-8b", tmp_path)
    (name,) = [conflict for conflict in found.conflicts if conflict.id == "name:Llama"]
    assert "begins with `Llama`" in name.what and found.default_name == "Llama-FUSION-LLaMA3.1-8B"


def test_an_override_has_a_reason_and_covers_one_conflict(project, tmp_path: Path):
    before = review(*project, "fusion-phi35-3b", tmp_path)
    path = tmp_path / "data/licence-overrides.yaml"
    path.parent.mkdir()
    path.write_text("'name:Llama': 'legal department, 2026-01-07: only pictures, no text of Llama is used'\n")
    after = review(*project, "fusion-phi35-3b", tmp_path)
    assert len(after.open) == len(before.open) - 1 and len(after.conflicts) == len(before.conflicts)
    path.write_text("'name:Llama': 'ok'\n")
    with pytest.raises(PublishError, match="needs a reason"):
        review(*project, "fusion-phi35-3b", tmp_path)


@pytest.mark.parametrize(
    ("variant", "code", "word"), [("tiny", 0, "it may be published"), ("fusion-llama31-8b", 1, "refused")]
)
def test_the_command(variant: str, code: int, word: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["licence", variant])
    assert done.exit_code == code and word in done.output
