"""`fusion scratch`: what interrupted stages left, and its removal, one by one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.lock import worktree_lock
from fusion.errors import FusionError
from fusion.scratch import clear, leftovers, show


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with two states and something beside them that is nobody's business."""
    for name, size in (("train/tiny-stage1-0123", 3_000_000), ("ingest/web-a", 10)):
        folder = tmp_path / "scratch" / name / "step-4"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(size))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"x")
    return tmp_path


def test_the_largest_comes_first(root: Path) -> None:
    assert [(row.name, row.size) for row in leftovers(root)] == [
        ("train/tiny-stage1-0123", 3_000_000),
        ("ingest/web-a", 10),
    ]
    assert "3.0 MB" in show(root)


def test_one_is_removed_and_no_other(root: Path) -> None:
    assert "removed 1" in clear("ingest/web-a", root)
    assert [row.name for row in leftovers(root)] == ["train/tiny-stage1-0123"]
    with pytest.raises(FusionError, match="tiny-stage1-0123"):
        clear("ingest/web-a", root)
    with pytest.raises(FusionError):
        clear("../outside", root)
    assert "removed 1" in clear("all", root)
    assert leftovers(root) == []
    assert (root / "outside" / "precious").exists()


def test_a_link_is_removed_and_not_what_it_points_to(root: Path) -> None:
    (root / "scratch" / "train" / "link").symlink_to(root / "outside")
    clear("all", root)
    assert (root / "outside" / "precious").exists()
    assert show(root) == "scratch/ holds no state of interrupted stages"


def test_the_command(root: Path) -> None:
    command = [str(Path(sys.executable).parent / "fusion"), "scratch"]
    shown = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=True)
    assert "train/tiny-stage1-0123" in shown.stdout
    wrong = subprocess.run([*command, "--clear", "nothing"], cwd=root, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "error: scratch/ has no `nothing`" in wrong.stderr


def test_the_database_of_the_server_is_no_state_of_a_stage(root: Path) -> None:
    database = root / "scratch/prefect/prefect.db"
    database.parent.mkdir()
    database.touch()
    clear("all", root)
    assert leftovers(root) == [] and database.exists()


def test_nothing_is_taken_from_a_stage_at_work(root: Path) -> None:
    program = root / "bin/fusion"
    program.parent.mkdir()
    program.write_text("import time; print('at work', flush=True); time.sleep(60)", encoding="utf-8")
    command = [sys.executable, str(program), "train", "tiny", "stage1"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as stage:
        try:
            assert stage.stdout is not None and stage.stdout.readline()
            with pytest.raises(FusionError, match=rf"train tiny stage1 \(process {stage.pid}\)"):
                clear("all", root)
        finally:
            stage.kill()
    assert len(leftovers(root)) == 2
    assert "removed 2" in clear("all", root)


def test_nothing_is_taken_from_a_flow(root: Path) -> None:
    (root / "scratch/flows").mkdir()
    (root / "scratch/flows/0123.json").touch()
    with worktree_lock(root, "the run"), pytest.raises(FusionError, match=r"at work here .*a flow: .*the run"):
        clear("all", root)
    assert "removed 2" in clear("all", root)
    assert (root / "scratch/flows/0123.json").exists()
