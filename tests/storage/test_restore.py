"""`fusion restore`: an old run on another machine, from a remote that is a folder; and everything that can be wrong."""

import os
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from fusion.errors import FusionError
from fusion.lineage.files import sha256_path
from fusion.storage.restore import restore_commit
from tests.stored_project import StoredProject, copy_project

OUTPUTS = ("made/a", "made/b", "made/joined.txt")


@pytest.fixture
def remote(stored: StoredProject, tmp_path: Path) -> Path:
    """A remote that has all data of the run."""
    shutil.copytree(stored.root / ".dvc/cache/files", tmp_path / "remote/files")
    return tmp_path / "remote"


@pytest.fixture
def elsewhere(stored: StoredProject, remote: Path, tmp_path: Path) -> StoredProject:
    """A clone without data, in which a later commit is checked out."""
    origin = copy_project(stored, tmp_path / "origin")
    (origin.root / "later.txt").write_text("work that went on")
    origin.commit("later")
    project = StoredProject(tmp_path / "elsewhere")
    origin.git("clone", "--quiet", str(origin.root), str(project.root))
    settings = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n"
    (project.root / ".dvc/config.local").write_text(settings)
    return project


def object_of(remote: Path, project: StoredProject, path: str) -> Path:
    hash_ = project.lock()[path]
    return remote / "files/md5" / hash_[:2] / hash_[2:]


def test_code_and_data_of_an_old_run_come_back_and_verify(stored, elsewhere):
    before = elsewhere.git("status", "--porcelain"), elsewhere.head()
    told = restore_commit(elsewhere.root, "first")
    commit = stored.git("rev-parse", "first")
    folder = elsewhere.root / "worktrees" / commit[:12]
    assert f"restored {commit[:12]}" in told and "3 outputs" in told
    for path in OUTPUTS:
        assert sha256_path(folder / path) == sha256_path(stored.root / path)
    assert not (folder / "later.txt").exists() and (folder / "stage.py").is_file()
    assert (elsewhere.git("status", "--porcelain"), elsewhere.head()) == before

    with Repo(str(elsewhere.root)) as repo:
        assert len(repo.index.stages) == 3, "DVC does not take the folder for a part of the project"

    # Started again: nothing to fetch, and what somebody changed of the data is put right.
    (folder / "made/joined.txt").write_text("tampered")
    restore_commit(elsewhere.root, commit[:8])
    assert sha256_path(folder / "made/joined.txt") == sha256_path(stored.root / "made/joined.txt")


def test_what_the_remote_lacks_is_named_and_a_part_can_be_had(stored, elsewhere, remote, tmp_path):
    object_of(remote, stored, "made/joined.txt").unlink()
    with pytest.raises(FusionError, match=r"(?s)1 objects.*remote `store`:\n  made/joined\.txt \([0-9a-f]{32}\)\nPush"):
        restore_commit(elsewhere.root, "first", tmp_path / "back")
    assert "2 outputs" in restore_commit(elsewhere.root, "first", tmp_path / "part", only=["made/a", "made/b"])
    assert not (tmp_path / "part/made/joined.txt").exists()


def test_data_that_was_changed_in_the_remote_is_found(stored, elsewhere, remote, tmp_path):
    path = object_of(remote, stored, "made/joined.txt")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(FusionError, match=r"made/joined\.txt \((sha256 )?[0-9a-f]+\)"):
        restore_commit(elsewhere.root, "first", tmp_path / "back")


def test_a_run_without_its_record_does_not_verify(elsewhere, tmp_path):
    shutil.rmtree(elsewhere.root / "records/join")
    elsewhere.git("config", "user.email", "test@example.org")
    elsewhere.git("config", "user.name", "Test")
    elsewhere.commit("a record was lost")
    with pytest.raises(FusionError, match=r"made/joined\.txt .* is in no record of join"):
        restore_commit(elsewhere.root, "HEAD", tmp_path / "back")


def test_wrong_commits_remotes_and_folders_are_refused(elsewhere, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious.txt").touch()
    for arguments, words in (
        (("nothing",), "no commit, tag or branch `nothing`"),
        (("as-made", tmp_path / "a"), "no stage had run there"),
        (("first", tmp_path / "full"), "is in the way"),
        (("first", elsewhere.root), "was not made by `fusion restore`"),
        (("first", tmp_path / "b", "other"), "no remote `other`; there are: store"),
        (("first", tmp_path / "c", None, ["nowhere"]), "no output at nowhere"),
    ):
        with pytest.raises(FusionError, match=words):
            restore_commit(elsewhere.root, *arguments)
    assert os.listdir(tmp_path / "full") == ["precious.txt"]
