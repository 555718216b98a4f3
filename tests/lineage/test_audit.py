"""`fusion audit`: silent on a clean tree, and every tampering is found and named."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
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
    assert len(report.artifacts) == 10 and {(one.tree, one.cache) for one in report.artifacts} == {("same", "same")}


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


def test_the_page_for_people_tells_what_was_looked_at_and_what_is_wrong(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = finished.copy(tmp_path / "copy")
    monkeypatch.chdir(project.root)
    assert CliRunner().invoke(app, ["audit"]).output.splitlines()[-1] == "reports/audit.html"
    text = (project.root / "reports/audit.html").read_text()
    assert "Everything is what it is said to be" in text and "Nothing, and no warning." in text
    for path, sha in json.loads(project.path("records/train/*.json").read_text())["outputs"].items():
        assert path in text and sha in text
    assert not re.search(r"""(src|href)=|@import|url\(|https?://""", text), "it has to open offline"

    project.write("data/shards/set/cats/<b>.tar", b"x")
    project.path("results/tiny/summary.json").unlink()
    assert CliRunner().invoke(app, ["audit", "--html", "found.html"]).exit_code == 1
    text = (project.root / "found.html").read_text()
    assert "2 things are not what they are said to be" in text
    assert "cats/&lt;b&gt;.tar was added" in text and "cats/<b>" not in text and "dvc checkout --force" in text
    states = {one["path"]: (one["tree"], one["cache"]) for one in _document(project)["artifacts"]}
    assert states.pop("data/shards/set/cats") == ("changed", "same")
    assert states.pop("results/tiny/summary.json") == ("missing", "same")
    assert set(states.values()) == {("same", "same")}
    assert CliRunner().invoke(app, ["audit", "--commit", "HEAD"]).exit_code == 0
    assert "the working tree was not looked at" in (project.root / "reports/audit.html").read_text()
    assert {one["tree"] for one in _document(project)["artifacts"]} == {None}


def _document(project: Project) -> dict[str, Any]:
    return dict(json.loads((project.root / "reports/audit.json").read_text()))


def test_an_anchor_has_to_be_signed_where_a_key_is_named(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = finished.copy(tmp_path / "copy")
    away = package_elsewhere(finished, tmp_path / "away")
    monkeypatch.chdir(project.root)
    assert CliRunner().invoke(app, ["audit", "--anchor", str(away)]).exit_code == 0
    (tmp_path / "key.pub").write_text("any key\n")
    done = CliRunner().invoke(app, ["audit", "--anchor", str(away), "--key", str(tmp_path / "key.pub")])
    assert done.exit_code == 1 and "anchor-unsigned: there is no model.sig" in done.output


def test_licences_that_forbid_publishing_or_that_nobody_knows_are_told(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = finished.copy(tmp_path / "copy")
    stages = (project.root / "dvc.yaml").read_text()
    read = "{data/catalog/set.yaml: ['datasets.set.sources.${item}.licence']}"
    project.write("dvc.yaml", stages.replace("params: [run.seed]\n", f"params: [run.seed, {read}]\n").encode())
    project.write(
        "data/catalog/set.yaml",
        b"datasets: {set: {sources: {cats: {licence: {declared: GPL-3.0, evidence: by Llama-3.x}},"
        b" dogs: {licence: {declared: null}}}}}\n",
    )
    project.commit("licences")
    project.run()
    project.commit("run")
    monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["audit"])
    told = [(one["severity"], one["kind"], one["where"]) for one in _document(project)["findings"]]
    assert done.exit_code == 1 and told == [
        ("error", "licence-forbids", "shard@cats"), ("error", "licence-forbids", "shard@cats"),
        ("warning", "licence-unknown", "shard@dogs"),
    ]  # fmt: skip
    assert "copyleft" in done.output and "which version of Llama wrote its texts is not known" in done.output
    decided = "legal department, 2026-01-07: its authors agreed"
    project.write(
        "data/licence-overrides.yaml",
        f"'GPL-3.0:set/cats': '{decided}'\n'llama-unknown:set/cats': '{decided}'\n".encode(),
    )
    project.commit("decided")
    assert CliRunner().invoke(app, ["audit"]).exit_code == 0
    assert CliRunner().invoke(app, ["audit", "--strict"]).exit_code == 1


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


def test_a_checkpoint_adopted_in_the_place_of_a_stage_is_no_source_of_the_next_one(finished: Project, tmp_path: Path):
    project = finished.copy(tmp_path / "copy")
    place = "checkpoints/tiny/stage1"
    stages = yaml.safe_load((project.root / "dvc.yaml").read_text())
    del stages["stages"]["train"]
    project.write("dvc.yaml", yaml.safe_dump(stages, sort_keys=False).encode())
    project.write("fusion/train.py", b"# newer than the last run of `train`\n")
    project.write(f"{place}/model.safetensors", b"weights from elsewhere")
    facts = {"adopt": {"name": "tiny/stage1", "origin": {"kind": "folder", "name": "/somewhere"}}}
    record_adoption(
        "adopt@tiny-stage1", "fusion adopt /somewhere", facts, place, {"started": "2026-01-01"}, project.root
    )
    with contextlib.chdir(project.root), Repo(".") as repo:
        repo.add(place)
    project.git("add", "-A")
    project.git("reset", "-q", f"{place}.dvc")
    project.git("commit", "-q", "-m", "adopted")
    project.run(["evaluate", "package"])
    project.git("add", "records", "dvc.lock")
    project.git("commit", "-q", "-m", "run")

    assert "train" in (project.root / "dvc.lock").read_text(), "DVC keeps what it knew of the stage"
    (found,) = audited(project).sorted
    assert (found.kind, found.where) == ("uncommitted", f"{place}.dvc") and f"`git add {place}.dvc`" in found.remedy
    project.commit()
    assert audited(project).sorted == []
    assert audit(project.root, "HEAD")[0].sorted == []
