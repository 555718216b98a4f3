"""Secrets are planted in the environment, pieces of a run are run, and then every byte that was written is read."""

import json
import os
import secrets
import subprocess
from pathlib import Path

import pytest

from flows.notify import message
from flows.results import PushError, commit, push
from flows.worktree import prepare
from fusion.lineage.record import record_stage
from fusion.secrecy import is_secret, mask
from tests.e2e.project import copy_project as copy_pipeline
from tests.flows.test_notify import ended
from tests.stored_project import StoredProject, copy_project

NAMES = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PREFECT_API_AUTH_STRING", "FUSION_NOTIFY_URL", "WANDB_API_KEY")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Name -> value that stands nowhere else in the world."""
    values = {name: f"planted-{secrets.token_hex(12)}" for name in NAMES}
    values["PREFECT_API_AUTH_STRING"] = f"team:{values['PREFECT_API_AUTH_STRING']}"
    values["FUSION_NOTIFY_URL"] = f"http://127.0.0.1:9/{values['FUSION_NOTIFY_URL']}"
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def found_in(folder: Path, planted: dict[str, str]) -> list[str]:
    """The files below `folder` with a planted value, git's compressed objects included."""
    needles = [value.rsplit("/", 1)[-1].rsplit(":", 1)[-1].encode() for value in planted.values()]
    hits, files = [], 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            files += 1
            content = path.read_bytes()
            hits += [f"{path}: {needle.decode()}" for needle in needles if needle in content]
        if path.name == "objects" and path.parent.name == ".git":
            command = ["git", "-C", str(path.parents[1]), "cat-file", "--batch-all-objects", "--batch"]
            stored = subprocess.run(command, capture_output=True, check=True).stdout
            hits += [f"{path}: {needle.decode()}" for needle in needles if needle in stored]
    assert files > 10
    return hits


def test_no_piece_of_a_run_writes_a_secret(stored: StoredProject, planted, tmp_path, monkeypatch):
    project = copy_project(stored, tmp_path / "project", "as-made")
    worktree = prepare(project.root, "main", tmp_path / "tree")
    monkeypatch.chdir(worktree)
    (worktree / "made/b").mkdir(parents=True)
    (worktree / "made/a").mkdir()
    said: list[str] = []

    # A stage that fails with an error of a library that quotes what it was given.
    quoted = (
        f"401 for https://me:{planted['HF_TOKEN']}@hub/x?token={planted['HF_TOKEN']} key {planted['WANDB_API_KEY']}"
    )
    with pytest.raises(RuntimeError), record_stage("join", worktree):
        raise RuntimeError(quoted)
    failure = json.loads((worktree / "runs/stages.jsonl").read_text())["failure"]
    assert failure == "401 for https://***@hub/x?token=*** key ***"

    # A stage that goes well: its record tells of the environment, and takes nothing from it.
    with record_stage("join", worktree):
        (worktree / "made/joined.txt").write_text("joined")
    assert list((worktree / "records/join").glob("*.json"))
    branch = commit(worktree, "planted", "2031-02-03")
    assert branch is not None

    # A remote that cannot be reached, with credentials in its address.
    address = f"http://me:{planted['AWS_SECRET_ACCESS_KEY']}@127.0.0.1:9/x"
    monkeypatch.setenv("DVC_REMOTE_ADDRESS", address)
    project.dvc("remote", "add", "--local", "--default", "web", "http://127.0.0.1:9/x")
    prepare(project.root, "main", worktree)
    (worktree / "dvc.lock").write_bytes((stored.root / "dvc.lock").read_bytes())
    with pytest.raises(PushError) as refused:
        push(worktree, say=said.append)
    told = json.dumps(message(*ended(f"push: {quoted}\n{refused.value}")))
    assert not [value for value in planted.values() if value in told + str(refused.value) + "".join(said)]
    assert found_in(tmp_path, planted) == []


def test_what_is_a_secret_is_told_by_its_name():
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "PREFECT_SERVER_API_AUTH_STRING", "PGPASSWORD"):
        assert is_secret(name)
    for name in ("PATH", "TOKENIZERS_PARALLELISM", "AWS_WEB_IDENTITY_TOKEN_FILE", "HOME", "DVC_STAGE"):
        assert not is_secret(name)
    environment = {"A_TOKEN": "abcdef", "B_TOKEN": "abcdefgh", "C_TOKEN": "on", "D_PASSWORD": "p@ss word/1"}
    assert mask("abcdefgh abcdef on p%40ss%20word%2F1 p@ss word/1", environment) == "*** *** on *** ***"
    assert (
        mask("s3://bucket/x and http://a:b@c/d and http://c:80/@e", {})
        == "s3://bucket/x and http://***@c/d and http://c:80/@e"
    )


@pytest.mark.long
def test_no_stage_of_the_pipeline_writes_a_secret(planted, tmp_path, monkeypatch):
    """The real stages of `micro` up to the first training, through DVC and its ranks, and what launchers print."""
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    project = copy_pipeline(tmp_path / "project", "micro")
    said = project.repro("train_stage1@micro")
    printed = [
        project.run("fusion", "train", "micro", "stage1", "--launcher", "print", "--as", kind)
        for kind in ("torchrun", "slurm", "kubernetes")
    ]
    flow = project.run("python", "-m", "flows.pipeline", "--target", "validate@micro-stage1")
    output = "".join(run.stdout + run.stderr for run in (said, *printed, flow))
    assert not [name for name, value in planted.items() if value in output and name in os.environ]
    assert (project.root / "records").is_dir() and (project.root / "runs/stages.jsonl").is_file()
    assert found_in(tmp_path, planted) == []
