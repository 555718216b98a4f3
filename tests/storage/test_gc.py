"""`fusion gc` on a real DVC cache: what anybody needs stays, the rest goes, and in doubt nothing does."""

import os
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from fusion.errors import FusionError
from fusion.storage.gc import collect
from tests.stored_project import StoredProject, copy_project


class Store:
    """A project, its worktrees, and folders of data that are added to DVC in them."""

    def __init__(self, project: StoredProject) -> None:
        self.project = project
        self.root = project.root

    def add(self, name: str, root: Path | None = None) -> set[str]:
        """Adds a folder `name` of two files to DVC, not to git; returns the hashes of its three objects."""
        root = root or self.root
        before = self.project.objects()
        (root / name).mkdir(exist_ok=True)
        for number in range(2):
            (root / name / f"{number}.txt").write_text(f"{name} {number} " * 1000)
        with Repo(str(root)) as repo:
            repo.add([str(root / name)])
        shutil.rmtree(root / name)
        return self.project.objects() - before

    def collect(self, *, yes: bool = True, remote: str | None = None, tips: bool = False, **more) -> None:
        collect(self.root, yes=yes, remote=remote, tips=tips, **{"hours": 0.0, **more})


@pytest.fixture
def store(stored: StoredProject, tmp_path: Path) -> Store:
    return Store(copy_project(stored, tmp_path / "project"))


def test_what_anybody_needs_stays_and_nothing_else(store: Store, tmp_path, capsys):
    git = store.project.git
    first = store.project.objects()

    git("switch", "--quiet", "--create", "side")
    side = store.add("side")
    store.project.commit("side")
    git("switch", "--quiet", "main")

    tagged = store.add("tagged")
    git("tag", "v1", store.project.commit("published"))
    theirs = store.add("theirs")
    git("update-ref", "refs/remotes/origin/theirs", store.project.commit("of another clone"))
    stashed = store.add("stashed")
    git("add", "--all")
    git("stash")
    git("reset", "--quiet", "--hard", "first")

    git("worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    (tmp_path / "tree/.dvc/config.local").write_text(f"[cache]\n    dir = {store.root}/.dvc/cache\n")
    uncommitted = store.add("uncommitted", tmp_path / "tree")

    old = store.add("changing")
    store.project.commit("the old state")
    (store.root / "changing.dvc").unlink()
    new = store.add("changed")
    store.project.commit("the new state")

    gone = store.add("gone")
    git("reset", "--quiet", "--hard", store.project.commit("a mistake") + "^")
    sets = (first, side, tagged, theirs, stashed, uncommitted, old, new, gone)
    assert [len(one) for one in sets] == [9, 3, 3, 3, 3, 3, 3, 3, 3]
    everything = set().union(*sets)

    capsys.readouterr()
    store.collect(yes=False)
    shown = capsys.readouterr().out
    assert store.project.objects() == everything
    assert all(hash_ in shown for hash_ in gone) and "not needed: 3 objects, 14.1 kB" in shown and "--yes" in shown

    store.collect(hours=24)
    assert "came within 24 h: 3, 14.1 kB" in capsys.readouterr().out and store.project.objects() == everything

    store.collect()
    assert store.project.objects() == everything - gone
    store.collect(tips=True)
    assert store.project.objects() == everything - gone - old
    store.collect(tips=True)
    assert store.project.objects() == everything - gone - old
    with Repo(str(store.root)) as repo:
        repo.checkout(force=True)
    assert (store.root / "made/joined.txt").is_file() and (store.root / "changed/1.txt").is_file()


def test_a_remote_is_cleared_of_the_same_and_knows_it(store: Store, tmp_path, capsys):
    remote = tmp_path / "remote"
    (store.root / ".dvc/config.local").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n"
    )
    gone = store.add("gone")
    with Repo(str(store.root)) as repo:
        repo.push()
    assert gone < store.project.objects(remote)
    (remote / "files/md5/README").write_text("of somebody else")
    (store.root / "gone.dvc").unlink()
    store.project.git("checkout", "--quiet", ".")

    store.collect(remote="-", yes=False)
    assert gone < store.project.objects(remote) and capsys.readouterr().out.count("not needed: 3 objects") == 2
    store.collect(remote="-")
    assert store.project.objects(remote) == store.project.objects() and not gone & store.project.objects()
    assert (remote / "files/md5/README").is_file()
    assert store.add("gone") == gone
    with Repo(str(store.root)) as repo:
        repo.push()
    assert gone < store.project.objects(remote), "DVC must not believe that they are still there"
    with pytest.raises(FusionError, match="nothing"):
        store.collect(remote="nothing")


def test_a_remote_that_others_use_is_left_alone_while_their_branches_are_not_known(store: Store, tmp_path):
    (store.root / ".dvc/config.local").write_text(f"['remote \"store\"']\n    url = {tmp_path / 'remote'}\n")
    other = copy_project(store.project, tmp_path / "other")
    store.project.git("remote", "add", "origin", str(other.root))
    store.project.git("fetch", "--quiet", "--all")
    store.collect(remote="store", yes=False)
    (other.root / "new.txt").write_text("new")
    other.commit("work of somebody else")
    with pytest.raises(FusionError, match=r"refs/heads/main of `origin` is not known here.*git fetch"):
        store.collect(remote="store")
    shutil.rmtree(other.root)
    with pytest.raises(FusionError, match="out of reach"):
        store.collect(remote="store")


def test_in_doubt_nothing_is_removed(store: Store, tmp_path):
    gone = store.add("gone")
    (store.root / "gone.dvc").unlink()
    everything = store.project.objects()

    # A listing that is nowhere: its files cannot be told from others.
    name = next(hash_ for path, hash_ in store.project.lock().items() if path == "made/a")
    listing = store.root / ".dvc/cache/files/md5" / name[:2] / name[2:]
    listing.rename(tmp_path / "listing")
    with pytest.raises(FusionError, match=r"1 needed folders are not in the cache.*made/a.*--accept-missing"):
        store.collect()
    assert store.project.objects() == everything - {name}
    # It is in the remote: then it is known.
    (store.root / ".dvc/config.local").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {tmp_path}/r\n"
    )
    there = tmp_path / "r/files/md5" / name[:2] / name[2:]
    there.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "listing", there)
    store.collect(yes=False)
    (tmp_path / "listing").rename(listing)

    lock = (store.root / "dvc.lock").read_text()
    (store.root / "dvc.lock").write_text(lock[:-30] + "\n: [")
    with pytest.raises(FusionError, match=r"dvc\.lock cannot be read"):
        store.collect()
    (store.root / "dvc.lock").write_text(lock)

    store.project.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    os.rename(tmp_path / "tree", tmp_path / "not-mounted")
    with pytest.raises(FusionError, match=r"tree, which is not there"):
        store.collect()
    assert store.project.objects() == everything
    os.rename(tmp_path / "not-mounted", tmp_path / "tree")
    store.collect()
    assert store.project.objects() == everything - gone
