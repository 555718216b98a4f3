"""The worktree of scheduled runs, with real git and DVC: clean, at the pinned commit, and nobody else's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.errors import FlowError
from flows.worktree import prepare
from fusion.checkouts import run_here
from tests.stored_project import StoredProject, make_project


@pytest.fixture
def project(tmp_path: Path) -> StoredProject:
    return make_project(tmp_path / "project")


def state(project: StoredProject) -> tuple[str, str, str]:
    """What must never change in a person's checkout: branch and commit, files, stage of the index."""
    return project.git("rev-parse", "--abbrev-ref", "HEAD"), project.head(), project.git("status", "--porcelain")


def test_a_run_in_the_worktree_shares_the_cache_and_leaves_the_checkout_alone(project, tmp_path):
    first = project.head()
    project.amount(5)
    (project.root / "new.txt").write_text("a person's work")
    project.git("add", "new.txt")
    before = state(project)

    folder = prepare(project.root, "main", tmp_path / "tree")
    runs = StoredProject(folder)
    assert runs.head() == first and runs.git("status", "--porcelain") == ""
    assert (folder / "params.yaml").read_text() == "amount: 1\n"
    runs.repro()
    assert runs.lock()["made/joined.txt"] in project.objects(), "the cache is the checkout's"
    assert not (folder / ".dvc/cache").exists()
    assert state(project) == before

    # At the same commit the next run goes on with what is there.
    lock, records = (folder / "dvc.lock").read_bytes(), sorted(folder.glob("records/*/*.json"))
    assert prepare(project.root, first[:10], tmp_path / "tree") == folder
    assert (folder / "dvc.lock").read_bytes() == lock and len(records) == 3
    assert runs.run("dvc", "status").stdout == "Data and pipelines are up to date.\n"

    # At another commit the lock is the commit's own; records stay, because DVC brings the outputs back without a run.
    project.git("commit", "--quiet", "--all", "--message", "another amount")
    prepare(project.root, "main", folder)
    assert runs.head() == project.head() and not (folder / "dvc.lock").exists()
    assert sorted(folder.glob("records/*/*.json")) == records
    prepare(project.root, first, folder)
    said = runs.dvc("repro").stdout
    assert said.count("is cached - skipping run") == 3 and (folder / "dvc.lock").read_bytes() == lock


def test_a_record_that_was_committed_meanwhile_is_no_obstacle(project, tmp_path):
    folder = prepare(project.root, "main", tmp_path / "tree")
    for root, seconds in ((folder, 1), (project.root, 2)):
        (root / "records/join").mkdir(parents=True)
        (root / "records/join/0123.json").write_text(f'{{"seconds": {seconds}}}')
    (folder / "records/join/4567.json").write_text("{}")
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    project.commit("the same run, made by hand")
    prepare(project.root, "main", folder)
    assert StoredProject(folder).git("status", "--porcelain") == "?? records/join/4567.json"
    assert (folder / "records/join/0123.json").read_text() == '{"seconds": 2}'


def test_what_a_killed_run_leaves_needs_no_hand(project, tmp_path):
    folder = prepare(project.root, "main", tmp_path / "tree")
    runs = StoredProject(folder)
    runs.dvc("repro", "--quiet", "letters@a")
    whole = (folder / "dvc.lock").read_text()
    prepare(project.root, "main", folder)
    assert (folder / "dvc.lock").read_text() == whole
    (folder / "dvc.lock").write_text(whole[: whole.index("hash: md5") + 2])
    (Path(runs.git("rev-parse", "--absolute-git-dir")) / "index.lock").touch()
    prepare(project.root, "main", folder)
    assert not (folder / "dvc.lock").exists(), "half a lock file would stop every later run"


def test_a_worktree_that_was_removed_by_hand_or_half_made_is_made_anew(project, tmp_path):
    folder = prepare(project.root, "main")
    assert folder == project.root / "worktrees/runs" and project.git("status", "--porcelain") == ""
    subprocess.run(["rm", "-r", str(folder)], check=True)
    partial = folder.with_name(".runs.partial")
    project.git("worktree", "add", "--quiet", "--detach", str(partial))
    (partial / "junk").touch()
    (folder / "scratch").mkdir(parents=True)
    (folder / "scratch/flow.lock").write_text("held")
    assert prepare(project.root, "main") == folder
    assert (folder / "scratch/flow.lock").read_text() == "held" and (folder / "stage.py").is_file()
    assert not partial.exists() and StoredProject(folder).git("status", "--porcelain") == ""


def test_nothing_of_a_person_is_ever_reset(project, tmp_path):
    # The checkout itself, a person's own worktree, another repository, a folder with files.
    project.git("worktree", "add", "--quiet", "-b", "mine", str(tmp_path / "mine"))
    other = make_project(tmp_path / "other")
    (tmp_path / "files").mkdir()
    (tmp_path / "files/precious.txt").write_text("precious")
    for folder, words in (
        (project.root, "was not made for runs"),
        (tmp_path / "mine", "was not made for runs"),
        (other.root, "another repository"),
        (tmp_path / "files", "is in the way"),
    ):
        with pytest.raises(FlowError, match=words):
            prepare(project.root, "main", folder)
    assert (tmp_path / "files/precious.txt").read_text() == "precious"
    with pytest.raises(FlowError, match="no commit, tag or branch `nothing`"):
        prepare(project.root, "nothing", tmp_path / "tree")
    assert not (tmp_path / "tree").exists()

    folder = prepare(project.root, "main", tmp_path / "tree")
    (folder / "stage.py").write_text("edited")
    with pytest.raises(FlowError, match=r"somebody changed stage\.py"):
        prepare(project.root, "main", folder)
    assert (folder / "stage.py").read_text() == "edited"
    StoredProject(folder).git("checkout", "--quiet", "--", ".")
    (folder / "stage.py").write_text(folder.joinpath("stage.py").read_text() + "# a fix\n")
    fix = StoredProject(folder).commit("a fix, made in the wrong place")
    with pytest.raises(FlowError, match=f"somebody checked out {fix[:12]}"):
        prepare(project.root, "main", folder)


def test_a_job_at_work_in_it_keeps_it_at_its_commit(project, tmp_path, monkeypatch):
    """What SLURM tells of a job, by a program of one line; tests/launchers has the real one."""
    folder = prepare(project.root, "main", tmp_path / "tree")
    (folder / "runs/launch").mkdir(parents=True)
    (folder / "runs/launch/fusion-micro-stage1.job").write_text('{"tag": "t", "recipe": "r", "job": "17"}')
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/bash\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}{os.environ['PATH']}")
    first = project.head()
    project.amount(2)
    project.commit("another amount")
    with pytest.raises(FlowError, match="Unable to contact slurm controller"):
        prepare(project.root, "main", folder)
    squeue.write_text("#!/bin/bash\necho RUNNING\n")
    assert prepare(project.root, first, folder) == folder
    with pytest.raises(FlowError, match=r"job 17 \(fusion-micro-stage1\) is still at work there"):
        prepare(project.root, "main", folder)
    assert StoredProject(folder).head() == first
    squeue.write_text("#!/bin/bash\n")
    prepare(project.root, "main", folder)
    assert StoredProject(folder).head() == project.head()


def test_remotes_and_secrets_of_the_checkout_are_those_of_the_worktree(project, tmp_path):
    project.dvc("remote", "add", "--default", "--local", "store", str(tmp_path / "store"))
    project.dvc("remote", "modify", "--local", "store", "jobs", "2")
    (project.root / ".dvc/config").write_text(
        (project.root / ".dvc/config").read_text() + "['remote \"beside\"']\n    url = ../../beside\n"
    )
    folder = prepare(project.root, "main", tmp_path / "deep" / "tree")
    local = folder / ".dvc/config.local"
    assert local.stat().st_mode & 0o777 == 0o600
    settings = StoredProject(folder).dvc("config", "--list").stdout.splitlines()
    assert {f"remote.store.url={tmp_path / 'store'}", f"remote.beside.url={tmp_path / 'beside'}"} <= set(settings)
    assert {"core.remote=store", "remote.store.jobs=2"} <= set(settings)
    project.dvc("remote", "remove", "--local", "store")
    prepare(project.root, "main", folder)
    assert "store" not in local.read_text()


def test_the_code_that_runs_is_the_commits_own(project, tmp_path):
    (project.root / "fusion").mkdir()
    (project.root / "fusion/__init__.py").write_text("SAYS = 'pinned'\n")
    project.commit("code of its own")
    (project.root / "fusion/__init__.py").write_text("SAYS = 'edited'\n")
    folder = prepare(project.root, "main", tmp_path / "tree")
    command = ["python", "-c", "import fusion; print(fusion.SAYS)"]
    said = subprocess.run(command, cwd=tmp_path, env=run_here(folder), capture_output=True, text=True, check=True)
    assert said.stdout == "pinned\n"


def adopt(project: StoredProject, text: str) -> str:
    """What `fusion adopt` leaves of a checkpoint with this content, committed."""
    weights = project.root / "checkpoints/mine/stage1/model.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.unlink(missing_ok=True)
    weights.write_text(text)
    project.dvc("add", "--quiet", "checkpoints/mine/stage1")
    return project.commit(f"adopted {text}")


def test_an_adopted_checkpoint_is_the_commits_own(project, tmp_path):
    first = adopt(project, "one")
    weights = tmp_path / "tree/checkpoints/mine/stage1/model.safetensors"
    prepare(project.root, first, tmp_path / "tree")
    assert weights.read_text() == "one", "git brings the .dvc file alone"
    second = adopt(project, "another")
    prepare(project.root, second, tmp_path / "tree")
    assert weights.read_text() == "another"
    weights.unlink()
    weights.write_text("changed by hand")
    prepare(project.root, second, tmp_path / "tree")
    assert weights.read_text() == "another"
    assert StoredProject(tmp_path / "tree").git("status", "--porcelain") == ""

    # Adopted on another machine: the cache lacks it, the remote has it.
    project.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    project.dvc("push", "--quiet", "checkpoints/mine/stage1.dvc")
    third = project.commit("a remote")
    shutil.rmtree(project.root / ".dvc/cache")
    project.git("worktree", "remove", "--force", str(tmp_path / "tree"))
    prepare(project.root, third, tmp_path / "tree")
    assert weights.read_text() == "another"
    # Nowhere: a run that does not read it has no use for it.
    for lost in (project.root / ".dvc/cache", tmp_path / "store"):
        shutil.rmtree(lost)
    project.git("worktree", "remove", "--force", str(tmp_path / "tree"))
    prepare(project.root, third, tmp_path / "tree")
    assert not weights.exists()
