"""A variant that begins with a checkpoint made elsewhere: adopted once, then part of the pipeline like any other."""

import json
import shutil

import pytest
import yaml

from tests.e2e.project import Project, copy_project, executed

NAME = "continued"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project set to build `continued`, and beside it a checkpoint that says it is micro's after stage 1.5."""
    folder = tmp_path_factory.mktemp("adopted")
    made = copy_project(folder / "project", "micro")
    made.run("fusion", "base", "micro")
    elsewhere = folder / "elsewhere"
    shutil.move(made.root / "checkpoints/micro/base", elsewhere)
    config = json.loads((elsewhere / "config.json").read_text(encoding="utf-8"))
    (elsewhere / "config.json").write_text(json.dumps(config | {"fusion_stage": "stage1_5"}), encoding="utf-8")
    document = yaml.safe_load((made.root / "params.yaml").read_text(encoding="utf-8"))
    made.set(f"variants.{NAME}", document["variants"]["micro"] | {"publish_as": "FUSION-Continued"})
    made.set("run.variants", [NAME])
    made.run("fusion", "settings", "--write")
    return made


def elsewhere(project: Project) -> str:
    return str(project.root.parent / "elsewhere")


def test_from_an_adopted_checkpoint_to_the_package(project: Project) -> None:
    # Its place belongs to a stage as long as the variant trains that stage.
    refused = project.run("fusion", "adopt", elsewhere(project), "--as", f"{NAME}/stage1_5", check=False)
    assert "set variants.VARIANT.adopted to that stage" in refused.stderr and refused.returncode == 1
    project.set(f"variants.{NAME}.adopted", "stage1_5")
    project.run("fusion", "settings", "--write")
    missing = project.repro(check=False)
    assert f"run `fusion adopt CHECKPOINT --as {NAME}/stage1_5`" in missing.stdout + missing.stderr
    project.run("fusion", "adopt", elsewhere(project), "--as", f"{NAME}/stage1_5")

    ran = executed(project.repro())
    assert [name for name in ran if name.startswith(("base", "train"))] == [f"train_stage2@{NAME}"]
    assert not [name for name in ran if "micro-stage1" in name], "the data of stages that are not trained is left alone"
    root = project.root
    scores = json.loads((root / f"results/{NAME}/evaluation/scores.json").read_text(encoding="utf-8"))
    assert set(scores["checkpoints"]) == {"stage1_5", "stage2"}
    curves = {path.name for path in (root / f"results/curves/{NAME}").iterdir()}
    assert curves == {"stage2.png", "all.png"}
    card = (root / f"packages/{NAME}/README.md").read_text(encoding="utf-8")
    assert "| after stage 1.5 |" in card and "starting from a checkpoint of stage 1.5 that was made elsewhere" in card
    lineage = json.loads((root / f"packages/{NAME}/lineage.json").read_text(encoding="utf-8"))
    assert f"adopt@{NAME}-stage1_5" in json.dumps(lineage), "the record of where it came from goes along"
    assert executed(project.repro()) == []
    verified = project.run("fusion", "lineage", NAME, "--verify")
    assert f"adopt@{NAME}-stage1_5" in verified.stdout and "0 CHANGED, 0 not here" in verified.stderr
    told = project.run("fusion", "licence", NAME, check=False)
    assert "adopted from the folder elsewhere, whose card declares no licence" in told.stdout
    assert f"adopted:{NAME}/stage1_5:" in told.stdout, "and the hash of what was decided about"
    width = f"variants.{NAME}.base.llm.config.hidden_size"
    project.set(width, 64)
    other = project.run("fusion", "settings", check=False)
    project.set(width, 32)
    assert f"variants.{NAME}.base: checkpoints/{NAME}/stage1_5 does not fit" in other.stderr
    project.set(f"variants.{NAME}.adopted", None)
    owners = project.run("fusion", "settings", "--write", check=False)
    project.set(f"variants.{NAME}.adopted", "stage1_5")
    assert f"set variants.{NAME}.adopted to stage1_5" in owners.stderr
    before = project.run("fusion", "train", NAME, "stage1", check=False)
    assert "stage1 is not trained here, the first stage is stage2" in before.stderr


def test_train_from_a_checkpoint_adopts_it_first(project: Project) -> None:
    project.set("variants.another", yaml.safe_load((project.root / "params.yaml").read_text())["variants"]["micro"])
    train = ("fusion", "train", "another")
    assert "continues base models" in project.run(*train, "stage1", "--from", elsewhere(project), check=False).stderr
    printed = (*train, "stage2", "--from", elsewhere(project), "--launcher", "print")
    assert "print starts nothing" in project.run(*printed, check=False).stderr
    assert "there is none" in project.run(*train, "stage2", "--revision", "main", check=False).stderr
    wrong = project.run(*train, "stage1_5", "--from", elsewhere(project), check=False)
    assert "is a stage1_5 checkpoint" in wrong.stderr and not any((project.root / "checkpoints/another").iterdir())
    project.repro("validate@micro-stage2")
    project.run(*train, "stage2", "--from", elsewhere(project))
    assert (project.root / "checkpoints/another/stage1_5.dvc").is_file()
    again = project.run(*train, "stage2", "--from", elsewhere(project), check=False)
    assert again.returncode == 0, "the same parent again is no error"


def test_a_stage_that_does_not_exist_cannot_be_adopted(project: Project) -> None:
    path = project.root / "params.yaml"
    before = path.read_text(encoding="utf-8")
    project.set("variants.micro.adopted", "stage1_5")
    project.set("variants.micro.stages.stage1_5", None)
    project.set("variants.micro.data.stage1_5", None)
    refused = project.run("fusion", "settings", check=False)
    path.write_text(before, encoding="utf-8")
    assert "variants.micro.adopted: there is no stage1_5" in refused.stderr
