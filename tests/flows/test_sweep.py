"""What a dead run leaves never needs a hand: processes, DVC's list of path locks, a dvc.lock that was cut off."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.errors import FlowError
from flows.lock import RUN_ID, Stopped, worktree_lock
from flows.sweep import GOOD_LOCK, RUNS, keep_good_lock, mend_dvc_lock, order_lock, registered, sweep
from fusion.lineage.stages import Stage
from tests.flows.flow_project import alive, environment

LOCK_FILE = "schema: '2.0'\nstages:\n" + "".join(
    f"  {name}:\n    cmd: make {name}\n    outs:\n    - path: out/{name}\n      md5: {number:032x}\n"
    for number, name in enumerate(("one", "two@a", "three"))
)


def dead_run(root: Path, run_id: str) -> None:
    """The note of a run whose process is gone: its number now belongs to another process."""
    (root / RUNS).mkdir(parents=True, exist_ok=True)
    (root / RUNS / f"{run_id}.json").write_text(json.dumps({"pid": os.getpid(), "created": 1.0}))


def test_what_a_run_killed_whole_left_is_ended(tmp_path):
    """Flow, supervisor and guard were killed at once: the stage goes on as an orphan, with its run's id."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    orphan = subprocess.Popen(sleep, env=environment(**{RUN_ID: "dead"}), start_new_session=True)
    other = subprocess.Popen(sleep, env=environment(**{RUN_ID: "alive"}))
    dead_run(tmp_path, "dead")
    try:
        with registered(tmp_path, "alive"):
            swept = sweep(tmp_path, "own")
        assert swept.runs == ["dead"] and swept.processes == 1
        assert not alive(orphan.pid) and alive(other.pid)
        assert sweep(tmp_path).runs == []
    finally:
        other.kill()
        other.wait()
        orphan.wait()


@pytest.mark.parametrize(
    ("content", "stays"),
    [
        ('{"write": {"/a', False),
        ("[]", False),
        ("", False),
        ('{"write": {"/a": {"pid": OWN, "cmd": "dvc repro"}}}', False),  # its number is ours now
        (json.dumps({"read": {"/a": [{"pid": 2**22 + 1, "cmd": "dvc repro"}]}}), False),
        ("{}", True),
    ],
)
def test_path_locks_of_nobody_are_removed(tmp_path, content, stays):
    path = tmp_path / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    path.write_text(content.replace("OWN", str(os.getpid())))
    sweep(tmp_path)
    assert path.exists() == stays


def test_path_locks_of_a_living_dvc_stay(tmp_path):
    (tmp_path / "dvc").write_text("import time; time.sleep(600)")
    dvc = subprocess.Popen([sys.executable, str(tmp_path / "dvc")])
    path = tmp_path / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"write": {"/a": {"pid": dvc.pid, "cmd": "dvc repro"}}}))
    try:
        sweep(tmp_path)
        assert path.exists()
    finally:
        dvc.kill()
        dvc.wait()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(LOCK_FILE)))
def test_a_lock_file_that_was_cut_off_comes_back(tmp_path, cut):
    """DVC writes dvc.lock in place. Wherever a kill cuts it, all that the last stage knew is there again."""
    root = tmp_path
    (root / "dvc.lock").write_text(LOCK_FILE)
    keep_good_lock(root)
    (root / "dvc.lock").write_text(LOCK_FILE[:cut])
    sweep(root)
    # Cut in the last lines of the last entry, the file still has all stages; DVC then runs that one again.
    text = (root / "dvc.lock").read_text()
    assert text == LOCK_FILE or (cut > LOCK_FILE.index("cmd: make three") and text == LOCK_FILE[:cut])
    assert not (root / GOOD_LOCK).exists()


def test_a_lock_file_that_was_cut_off_while_the_flow_lived_comes_back_at_its_end(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK_FILE)
    keep_good_lock(tmp_path)
    (tmp_path / "dvc.lock").write_text(LOCK_FILE[: LOCK_FILE.index("  three:")])
    assert "cut off" in mend_dvc_lock(tmp_path)
    assert (tmp_path / "dvc.lock").read_text() == LOCK_FILE


def test_what_a_person_does_to_the_lock_file_between_runs_stays(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK_FILE)
    keep_good_lock(tmp_path)
    assert mend_dvc_lock(tmp_path) == ""
    shorter = LOCK_FILE[: LOCK_FILE.index("  three:")]
    (tmp_path / "dvc.lock").write_text(shorter)
    sweep(tmp_path)
    assert (tmp_path / "dvc.lock").read_text() == shorter


def test_a_torn_lock_file_without_a_copy_is_removed(tmp_path):
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nsta")
    assert sweep(tmp_path).mended and not (tmp_path / "dvc.lock").exists()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(["one", "two@a", "three", "gone"]))
def test_entries_come_into_dvcs_order_and_none_changes(tmp_path, order):
    root = tmp_path
    blocks = {name: f"  {name}:\n    cmd: make\n    params:\n      a.yaml:\n        b: {name}\n" for name in order}
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n" + "".join(blocks[name] for name in order))
    order_lock(root, {name: Stage(name, "", (), (), {}) for name in ("one", "two@a", "three")})
    text = (root / "dvc.lock").read_text()
    assert sorted(text.splitlines()) == sorted(
        ("schema: '2.0'\nstages:\n" + "".join(blocks.values())).splitlines()
    ) and all(block in text for block in blocks.values())
    places = [text.index(f"  {name}:\n    cmd") for name in ("one", "two@a", "three")]
    assert places == sorted(places)


def test_two_runs_of_one_tree_are_refused_or_wait(tmp_path):
    waited: list[str] = []
    with worktree_lock(tmp_path, "first"):
        with pytest.raises(FlowError, match=f"process {os.getpid()}, run first"), worktree_lock(tmp_path, "second"):
            pass
        tries = iter([False, True])
        with (
            pytest.raises(Stopped, match="stopped while it waited"),
            worktree_lock(tmp_path, "third", "wait", lambda seconds: next(tries), waited.append),
        ):
            pass
        assert waited == [f"process {os.getpid()}, run first"]
    with worktree_lock(tmp_path, "fourth"):
        assert "fourth" in (tmp_path / "scratch/flow.lock").read_text()
