"""`fusion publish` into a folder: what lies there, that a second call changes nothing, and what git keeps."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion.cli import app
from fusion.inquiry.checks import check_folder
from fusion.lineage.environment import git_state
from fusion.storage.needed import needed_objects
from tests.release.published import PublishedProject

MODELS = ("FUSION-Tiny-Stage1", "FUSION-Tiny-Stage1.5", "FUSION-Tiny")


def states(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def test_the_command_writes_a_release_and_the_second_call_changes_nothing(
    project: PublishedProject, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["publish", "tiny"], catch_exceptions=False)
    assert done.exit_code == 0
    steps = list(dict.fromkeys(line.split()[0] for line in done.output.splitlines()[:-1]))
    assert steps == ["gate", "licence", "card", "Croissant", "ML-BOM", "provenance", "signature", "folder", "git"]
    release = done.output.split()[-1]
    folder = project.root / "published"
    for number, name in enumerate(MODELS, 1):
        checks = {check.name: check.state for check in check_folder(folder / "fusion" / name, None, False)}
        assert checks.pop("signature") == "not checked" and set(checks.values()) == {"passed"}
        assert len(list((folder / "fusion" / name / "croissant").iterdir())) == number
        card = (folder / "fusion" / name / "README.md").read_text()
        assert f'load_checkpoint("fusion/{name}")' in card and "![" in card and "curves.png" in card
        digest = json.loads((folder / "fusion" / name / "lineage.json").read_text())["digest"]
        assert digest in card and ("This is a stage checkpoint" in card) is (number < 3)
    card = (folder / "fusion/FUSION-Tiny/README.md").read_text()
    assert "(40 questions about" not in card and "gate: PASS, +" in card
    assert "Of the 23 columns of the published models, none was run." in card
    described = (folder / "datasets/fusion/tiny-stage1/README.md").read_text()
    assert "| clipart-captions | short captions | 8 | 4 | CC0-1.0 | CC0-1.0 |" in described
    assert json.loads((folder / "datasets/fusion/tiny-stage1/croissant.json").read_text())["name"] == "tiny-stage1"

    before = states(folder)
    again = CliRunner().invoke(app, ["publish", "tiny"], catch_exceptions=False)
    assert again.output.split()[-1] == release and again.output.count("unchanged, verified") == 6
    assert states(folder) == before, "a file was written again"
    assert not git_state(project.root)["dirty"]


def test_a_tag_keeps_the_data_from_gc(project: PublishedProject):
    lock = project.root / "dvc.lock"
    out = {"path": "packages/tiny", "md5": "0123456789abcdef0123456789abcdef.dir"}
    lock.write_text(json.dumps({"schema": "2.0", "stages": {"package@tiny": {"cmd": "x", "outs": [out]}}}))
    project.commit()
    *_, release = project.publish()
    assert project.git("tag", "--list") == f"published/tiny/{release}"
    lock.write_text("schema: '2.0'\nstages: {}\n")
    project.git("checkout", "-q", "--orphan", "other")
    project.commit()
    project.git("branch", "-D", "main")
    assert out["md5"] in needed_objects(project.root).objects


def test_what_a_flow_committed_on_a_branch_of_its_own_counts(project: PublishedProject):
    """The flow leaves dvc.lock and records changed in its working tree, and commits them on a branch."""
    head = project.git("rev-parse", "HEAD")
    (project.root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n# by the run\n")
    project.git("stash", "-q")
    project.git("checkout", "-q", "-b", "runs/2026-01-01-one")
    project.git("stash", "apply", "-q")
    made = project.commit()
    project.git("checkout", "-q", "main")
    project.git("stash", "pop", "-q")
    *_, release = project.publish()
    assert project.git("rev-parse", f"published/tiny/{release}^{{commit}}") == made != head


def test_what_a_licence_asks_and_what_a_person_decided_stand_on_the_card(project: PublishedProject):
    path = project.root / "data/catalog/tiny.yaml"
    path.write_text(path.read_text().replace("declared: MIT\n", "declared: GPL-3.0\n").replace("verified: MIT\n", "verified: null\n"))  # fmt: skip  # noqa: E501
    reason = "legal department, 2026-01-07: its authors agreed in writing"
    (project.root / "data/licence-overrides.yaml").write_text(f"'GPL-3.0:tiny-stage2/easy-vqa': '{reason}'\n")
    project.commit()
    project.publish()
    card = (project.root / "published/fusion/FUSION-Tiny/README.md").read_text()
    assert f"- `GPL-3.0:tiny-stage2/easy-vqa`: {reason}" in card
    assert "- GPL-3.0: offer the source of what is conveyed" in card


def test_a_changed_file_of_a_release_is_written_again(project: PublishedProject):
    project.publish()
    card = project.root / "published/fusion/FUSION-Tiny/README.md"
    text = card.read_text()
    card.write_text(text + "The best of all models.\n")
    told = project.publish()
    assert card.read_text() == text and sum("written, verified" in line for line in told) == 1


def test_a_dead_process_leaves_nothing_and_a_living_one_is_left_alone(project: PublishedProject):
    for process in ("2147483000", str(os.getppid())):
        (project.root / f"published/.staging-{process}").mkdir(parents=True)
    project.publish()
    assert [path.name for path in (project.root / "published").glob(".staging-*")] == [f".staging-{os.getppid()}"]


def test_a_signature_is_made_once(project: PublishedProject, key: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["publish", "tiny", "--key", str(key)], catch_exceptions=False)
    assert done.exit_code == 0, "with the paths of a person, which are relative"
    signature = Path("published/fusion/FUSION-Tiny/model.sig")
    before = signature.read_bytes()
    assert "tag" in project.publish(key=key)[-2]
    assert signature.read_bytes() == before
    checks = check_folder(signature.parent, key.with_suffix(".pub"), True)
    assert {check.state for check in checks} == {"passed"}


def test_a_key_with_a_password_signs_and_the_password_is_shown_nowhere(
    project: PublishedProject, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    password, locked = "correct-horse-battery", tmp_path / "locked.pem"
    lock = ["openssl", "ec", "-in", str(key), "-aes256", "-passout", f"pass:{password}", "-out", str(locked)]
    subprocess.run(lock, check=True, capture_output=True)
    said = []
    for given, code in (("wrong-horse-battery", 1), (password, 0)):
        process = project.fusion("publish", "tiny", "--key", str(locked), FUSION_SIGNING_PASSWORD=given)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, out + err
        said.append(out + err)
    assert "signature: " in said[0] and "FUSION_SIGNING_PASSWORD" in said[0]
    checks = check_folder(project.root / "published/fusion/FUSION-Tiny", key.with_suffix(".pub"), True)
    assert {check.state for check in checks} == {"passed"}
    assert not any(word in text for text in said for word in (password, "wrong-horse-battery"))
    for path in project.root.rglob("*"):
        assert not path.is_file() or password.encode() not in path.read_bytes(), path
