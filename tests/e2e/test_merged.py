"""Stages 1.5 and 2 in one: the example of docs/training.md, as it stands there, from sources to the package."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.disturbed import train_again_with_a_kill
from tests.e2e.project import ROOT, Project, copy_project, executed
from tests.e2e.test_your_data import apply

PAGE = (ROOT / "docs/training.md").read_text(encoding="utf-8")
BLOCKS = [text for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if text[0] == "#"]
NAME = "micro-merged"


def set_up(folder: Path) -> Project:
    project = copy_project(folder, "micro")
    for text in BLOCKS:
        apply(project, text)
    project.run("fusion", "settings", "--write")
    return project


def test_dvc_sees_two_stages_and_all_that_decides_them(tmp_path: Path) -> None:
    from fusion.lineage.stages import ancestors_of, resolve_stages

    project = set_up(tmp_path / "project")
    stages = resolve_stages(project.root)
    above = [stage.name for stage in ancestors_of(f"package@{NAME}", stages)]
    assert f"train_stage2@{NAME}" in above and not [name for name in stages if name.startswith("train_stage1_5")]
    last = stages[f"train_stage2@{NAME}"]
    assert {f"checkpoints/{NAME}/stage1", "data/manifests/micro-both"} <= set(last.deps)
    sources = {name for name in above if name.startswith("shard@micro-both-")}
    assert sources == {f"shard@micro-both-micro-stage1-{name}" for name in ("clipart",)} | {
        f"shard@micro-both-micro-stage2-{name}" for name in ("easy-vqa", "language", "scenes")
    }
    watched = stages["curate@micro-both"].params["data/pipeline.yaml"]["combined.micro-both"]
    assert set(watched["sources"]) == {name.removeprefix("shard@micro-both-") for name in sources}


@pytest.mark.long
def test_the_example_of_the_page(tmp_path: Path) -> None:
    project = set_up(tmp_path / "project")
    project.repro()
    made = {path.name for path in (project.root / "checkpoints" / NAME).iterdir()} - {".gitignore"}
    assert made == {"base", "stage1", "stage2"}
    manifest = pl.read_parquet(project.root / "data/manifests/micro-both/manifest.parquet")
    assert {source[: len("micro-stage1")] for source in manifest["source"].unique()} == {"micro-stage1", "micro-stage2"}
    lineage = (project.root / "packages" / NAME / "lineage.json").read_text(encoding="utf-8")
    assert json.loads(lineage)
    for source in ("micro-stage1-clipart", "micro-stage2-scenes"):
        assert f"micro-both/{source}" in lineage, "it names both data sets"
    card = (project.root / "packages" / NAME / "README.md").read_text(encoding="utf-8")
    assert "micro-both" in card and "trained in 2\nstages" in card and "Stage 1.5" not in card
    assert executed(project.repro()) == []
    # Killed in the middle, the stage on both sets continues to the same files.
    outputs = project.lock()[f"train_stage2@{NAME}"]
    first, second = train_again_with_a_kill(project, NAME, "stage2")
    assert first == 0 and second > 0 and project.lock()[f"train_stage2@{NAME}"] == outputs
    assert executed(project.repro()) == []
    # A change of a member's source reaches the combined set through data/pipeline.yaml, which has to be renewed.
    place = "datasets.micro-stage2.sources.language.sampling"
    project.set(place, "first:20", "data/catalog/micro.yaml")
    refused = project.repro(check=False)
    assert "fusion settings --write" in refused.stdout + refused.stderr
    project.run("fusion", "settings", "--write")
    ran = executed(project.repro("curate@micro-both"))
    assert [name for name in ran if name.startswith("ingest")] == ["ingest@micro-both-micro-stage2-language"]
