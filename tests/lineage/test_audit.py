"""`fusion audit`: silent on a clean tree, and every tampering is found and named."""

import contextlib
import json
from pathlib import Path

import pytest
from dvc.repo import Repo
from typer.testing import CliRunner

from fusion.cli import app
from fusion.lineage.adopted import record_adoption
from fusion.lineage.audit.anchor import check_anchor
from fusion.lineage.audit.findings import Report
from fusion.lineage.audit.run import audit
from tests.lineage.audited import Project
from tests.lineage.tamper_cases import CASES, Case, package_elsewhere


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project; nobody changes it."""
    return Project(tmp_path_factory.mktemp("audited") / "project").build()


def audited(project: Project, anchor: Path | None = None) -> Report:
    report, current = audit(project.root)
    if anchor is not None:
        check_anchor(anchor, current, report)
    return report


def test_a_clean_tree_has_no_finding(finished: Project, tmp_path: Path):
    report = audited(finished.copy(tmp_path / "copy"), package_elsewhere(finished, tmp_path / "away"))
    assert report.sorted == [] and report.document["passed"]
    assert report.counts["artifacts"] == 10 and report.counts["records"] == 6
    # Each file of the tree and each object was hashed, once.
    assert report.counts["files hashed"] >= 2 * 13


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tampering_is_found(case: Case, finished: Project, tmp_path: Path):
    project = finished.copy(tmp_path / "copy")
    away = package_elsewhere(project, tmp_path / "away")
    case.do(project)
    report = audited(project, away if case.anchor else None)
    told = [(finding.kind, finding.where) for finding in report.sorted]
    assert any(kind == case.kind and case.where in where for kind, where in told), told
    if case.anchor:
        assert not audited(project).errors, "it could be found without the package"


def test_there_are_enough_cases():
    assert len(CASES) >= 40


def test_what_another_commit_had_is_audited_from_the_cache_alone(finished: Project, tmp_path: Path):
    project = finished.copy(tmp_path / "copy")
    commit = project.git("rev-parse", "HEAD").strip()
    project.write("params.yaml", b"run: {seed: 8}\ntrain: {rate: 0.5, eps: 1.0e-8}\n")
    project.commit()
    project.flip("checkpoints/tiny/stage1/model.safetensors")
    assert not audit(project.root, commit)[0].sorted
    assert {finding.kind for finding in audit(project.root, "HEAD")[0].errors} == {"lock-differs"}
    project.flip(project.object("data/shards/set/cats", "000000.tar"))
    assert {finding.kind for finding in audit(project.root, commit)[0].errors} == {"object-damaged"}


def test_damaged_objects_are_evicted_and_the_tree_can_be_taken_in_again(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = finished.copy(tmp_path / "copy")
    place = project.object("data/shards/set/cats", "000000.tar")
    project.flip(place)
    monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["audit", "--evict"])
    assert done.exit_code == 1 and "object-damaged" in done.output and place in done.output
    assert not (project.root / place).exists()
    report = json.loads((project.root / "reports/audit.json").read_text())
    assert not report["passed"] and report["damaged_objects"] == ["".join(Path(place).parts[-2:])]
    assert {finding.kind for finding in audited(project).errors} == {"object-missing"}
    with Repo(".") as repo:
        repo.commit("shard@cats", force=True)
    done = CliRunner().invoke(app, ["audit"])
    assert done.exit_code == 0 and "everything is what it is said to be" in done.output


def test_an_adopted_checkpoint_is_audited_as_well(finished: Project, tmp_path: Path):
    project = finished.copy(tmp_path / "copy")
    place = "checkpoints/adopted/other"
    project.write(f"{place}/model.safetensors", b"weights")
    facts = {"adopt": {"name": "other", "origin": {"kind": "folder", "name": "/somewhere"}}}
    record_adoption("adopt@other", "fusion adopt /somewhere", facts, place, {"started": "2026-01-01"}, project.root)
    with contextlib.chdir(project.root), Repo(".") as repo:
        repo.add(place)
    project.commit()
    assert audited(project).sorted == []
    project.flip(f"{place}/model.safetensors")
    assert [(f.kind, f.where) for f in audited(project).errors] == [("file-changed", f"{place}/model.safetensors")]
    for path in project.root.glob("records/adopt-other/*.json"):
        path.unlink()
    project.commit()
    assert "record-missing" in {finding.kind for finding in audited(project).errors}
