"""`fusion diff`: data, parameters, code and scores of two runs, and which difference is the cause."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion.cli import app
from fusion.inquiry.diff import diff_document, tell
from tests.adopted import FOLDER
from tests.inquiry.finished import Project


@pytest.fixture
def project(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    copy = finished.copy(tmp_path / "copy")
    monkeypatch.chdir(copy.root)
    return copy


def after(project: Project, name: str, text: str) -> str:
    """The commit before, with a file changed and everything run again after it."""
    commit = project.git("rev-parse", "HEAD")
    project.write(name, text)
    project.commit()
    project.run()
    project.commit()
    return commit


def test_equal_runs_are_told_to_be_equal(project: Project):
    commit = project.git("rev-parse", "HEAD")
    document = diff_document("evaluate@tiny", f"evaluate@tiny@{commit}")
    assert document["causes"] == [] and document["same_weights"]
    assert "from the same data" in tell(document)


def test_dropped_rows_are_the_cause_and_counted_by_source(project: Project):
    commit = after(project, "data/catalog/drop.json", '{"drop": [5, 6, 7]}\n')
    document = diff_document(f"evaluate@tiny@{commit}", "evaluate@tiny")
    assert not document["same_weights"]
    assert document["causes"][0]["run"].startswith("curate@")
    assert "drop" in document["causes"][0]["params"]
    by_set = {one["set"]: one["sources"] for one in document["data"]}
    assert [(s["source"], s["added"], s["dropped"]) for s in by_set["stage2-data"]] == [
        ("animals", 0, 2), ("plants", 0, 2),
    ]  # fmt: skip
    assert any(run.startswith("train_stage2") for run in document["consequences"])
    assert not any(cause["run"].startswith("train") for cause in document["causes"])


def test_other_measuring_of_equal_weights_is_told_apart(project: Project):
    commit = after(project, "fusion/evaluate.py", "# evaluate harder\n")
    document = diff_document(f"evaluate@tiny@{commit}", "evaluate@tiny")
    assert document["same_weights"] and document["causes"][0]["code"] == ["fusion/evaluate.py"]
    assert document["causes"][0]["likelihood"] == 1.0
    (score,) = document["scores"]
    assert score["difference"] == pytest.approx(-0.1) and not score["intervals_overlap"]
    assert "the weights are equal" in tell(document)


def test_code_of_training_is_one_cause_for_both_stages_and_idle_changes_are_put_aside(project: Project):
    commit = project.git("rev-parse", "HEAD")
    project.write("fusion/ingest.py", "# ingest, with a comment\n")
    after(project, "fusion/train.py", "# train better\n")
    document = diff_document(f"evaluate@tiny@{commit}", "evaluate@tiny")
    first = document["causes"][0]
    assert "train_stage1" in first["run"] and "train_stage2" in first["run"] and first["code"] == ["fusion/train.py"]
    assert {one["run"].partition("@")[0] for one in document["without_effect"]} == {"ingest"}
    done = CliRunner().invoke(app, ["diff", f"evaluate@tiny@{commit}", "evaluate@tiny", "--json"])
    assert done.exit_code == 0 and '"same_weights": false' in done.output


def test_another_adopted_checkpoint_is_the_first_cause(project: Project):
    project.adopt(b"one")
    commit = project.commit()
    project.adopt(b"another", FOLDER)
    document = diff_document(f"evaluate@tiny@{commit}", "evaluate@tiny")
    (cause,) = document["causes"]
    assert not document["same_weights"] and cause["run"] == "adopt@MODEL-stage1"
    assert cause["likelihood"] == 1.0 and cause["why"] == "training began from other weights"
    assert "origin.repo: org/open -> (not there)" in tell(document)


def test_adopted_checkpoints_of_two_variants_are_compared_by_their_role(project: Project):
    project.adopt(b"one")
    project.adopt(b"one", variant="other")
    text = (project.root / "dvc.yaml").read_text()
    project.write("dvc.yaml", text.replace("foreach: [other]", "foreach: [tiny, other]"))
    same = diff_document("evaluate@tiny", "evaluate@other")
    assert same["same_weights"] and not any("adopt" in one["run"] for one in [*same["causes"], *same["without_effect"]])
    project.adopt(b"two", FOLDER, variant="other")
    project.write("dvc.yaml", text.replace("foreach: [other]", "foreach: [tiny, other]"))
    differ = diff_document("evaluate@tiny", "evaluate@other")
    assert differ["causes"][0]["run"] == "adopt@MODEL-stage1" and differ["causes"][0]["likelihood"] == 1.0
    assert not any(cause["why"].startswith("only") for cause in differ["causes"])


def test_training_here_and_adopting_differ_in_what_training_began_with(project: Project):
    commit = project.git("rev-parse", "HEAD")
    project.adopt(b"one")
    causes = {cause["run"]: cause for cause in diff_document(f"evaluate@tiny@{commit}", "evaluate@tiny")["causes"]}
    assert causes["adopt@MODEL-stage1"]["why"] == "only B has it"
    assert causes["adopt@MODEL-stage1"]["likelihood"] == 0.9
