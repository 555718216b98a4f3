"""What a run leaves: data in the remote, dvc.lock and records on a branch of its own. Real git, DVC and remotes."""

import shutil
import socket

import pytest

from flows.errors import FlowError
from flows.results import PushError, commit, push
from flows.worktree import prepare
from tests.stored_project import StoredProject, copy_project, make_project

DAY = "2031-02-03"


@pytest.fixture(scope="module")
def ran(stored: StoredProject, tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredProject, StoredProject]:
    """A checkout, and its worktree with what a run made in another one."""
    folder = tmp_path_factory.mktemp("results")
    project = copy_project(stored, folder / "project", "as-made")
    worktree = StoredProject(prepare(project.root, "main", folder / "tree"))
    shutil.copy(stored.root / "dvc.lock", worktree.root)
    shutil.copytree(stored.root / "records", worktree.root / "records")
    return project, worktree


def test_results_are_committed_once_on_their_own_branch(ran):
    project, worktree = ran
    first, before = project.head(), worktree.git("status", "--porcelain")
    branch = commit(worktree.root, "abc-1", DAY)
    assert branch == f"runs/{DAY}-abc-1"
    assert project.head() == first and project.git("rev-parse", "main") == first
    assert worktree.git("status", "--porcelain") == before, "neither the index nor the files are touched"
    changed = project.git("diff", "--name-only", "main", branch).splitlines()
    assert changed[0] == "dvc.lock" and all(path.startswith("records/") for path in changed[1:]) and len(changed) == 4
    assert project.git("show", f"{branch}:dvc.lock") == (worktree.root / "dvc.lock").read_text().rstrip("\n")
    message = project.git("log", "-1", "--format=%B", branch)
    assert message.startswith(f"Run abc-1\n\nFrom {first}.")
    assert set(message.split("Stages:\n")[1].split()) == {"letters@a", "letters@b", "join"}

    # Again, on the next day, or by another run that made the same.
    made = project.git("rev-parse", branch)
    assert commit(worktree.root, "abc-1", "2031-02-04") == branch
    assert commit(worktree.root, "def-2", DAY) == branch
    assert project.git("rev-parse", branch) == made and project.git("branch", "--list", "runs/*").count("runs/") == 1

    # The same run went on and made more: one more commit on the same branch.
    (worktree.root / "records/more.json").write_text("{}\n")
    assert commit(worktree.root, "abc-1", "2031-02-05") == branch
    assert commit(worktree.root, "abc-1", "2031-02-05") == branch
    assert project.git("rev-list", "--count", f"main..{branch}") == "2"
    (worktree.root / "records/more.json").unlink()


def test_nothing_new_is_no_commit_and_changed_code_is_refused(tmp_path):
    project = make_project(tmp_path / "project")
    folder = prepare(project.root, "main", tmp_path / "tree")
    assert commit(folder, "abc") is None
    (folder / "stage.py").write_text("edited")
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    with pytest.raises(FlowError, match=r"nothing was committed: stage\.py"):
        commit(folder, "abc")
    with pytest.raises(FlowError, match="cannot be part"):
        commit(folder, "../main")
    assert project.git("branch", "--list") == "* main"


def test_a_worker_without_a_name_in_git_can_commit(ran, tmp_path, monkeypatch):
    project, worktree = ran
    for key in ("user.name", "user.email"):
        project.git("config", "--unset", key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (worktree.root / "records/nameless.json").write_text("{}\n")
    branch = commit(worktree.root, "nameless", DAY)
    assert branch and project.git("log", "-1", "--format=%an", branch) == "fusion"
    (worktree.root / "records/nameless.json").unlink()


def test_push_brings_every_object_and_says_how_far_it_is(ran, tmp_path):
    project, worktree = ran
    said: list[str] = []
    store = tmp_path / "store"
    project.dvc("remote", "add", "--local", "store", str(store))
    prepare(project.root, "main", worktree.root)
    assert push(worktree.root, "store", say=said.append) == 9
    assert worktree.objects(store) == project.objects() and len(project.objects()) == 9
    assert push(worktree.root, "store") == 0
    assert all(line.startswith("pushing: ") for line in said)


def test_a_push_without_a_remote_is_not_tried_again(ran):
    _, worktree = ran
    with pytest.raises(PushError, match="no remote") as nowhere:
        push(worktree.root)
    assert not nowhere.value.retryable


@pytest.mark.long
def test_a_push_to_a_server_that_does_not_answer_is_tried_again(ran):
    project, worktree = ran
    with socket.socket() as listener:  # Nobody listens there after it is closed.
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    project.dvc("remote", "add", "--local", "gone", f"http://127.0.0.1:{port}/store")
    prepare(project.root, "main", worktree.root)
    with pytest.raises(PushError) as refused:
        push(worktree.root, "gone")
    assert refused.value.retryable, refused.value


def test_errors_are_told_apart_by_what_they_come_from():
    ClientError = pytest.importorskip("botocore.exceptions", reason="the extra `s3` is not installed").ClientError

    from flows.dvc_push import is_transient

    def answer(status: int, code: str) -> ClientError:
        return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")

    def wrapped(cause: Exception) -> Exception:
        error = RuntimeError("unexpected error")
        error.__cause__ = cause
        return error

    for transient in (ConnectionResetError(), TimeoutError(), answer(503, "SlowDown"), wrapped(answer(500, "x"))):
        assert is_transient(transient)
    for permanent in (PermissionError(13, "denied"), answer(403, "AccessDenied"), answer(404, "NoSuchBucket")):
        assert not is_transient(wrapped(permanent))
    assert not is_transient(OSError(28, "no space left on device"))
