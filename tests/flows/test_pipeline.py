"""The flow from the outside: what runs, what does not, and what it says."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.flows.flow_project import HERE, environment, make_project, repro


@pytest.fixture
def flow():
    """The flow's command line, in this process: Prefect's server starts once for all tests."""
    from flows.pipeline import main

    return main


def test_the_flow_gives_the_same_lock_file_as_dvc(project, flow, capfd, caplog, tmp_path):
    assert flow([]) == 0
    assert "4 of 4 stages ran" in capfd.readouterr().out
    other = make_project(tmp_path / "other")
    repro(other)
    assert (project / "dvc.lock").read_bytes() == (other / "dvc.lock").read_bytes()
    assert (project / "made/count.txt").read_text() == "2"

    # Nothing changed: nothing starts.
    assert flow([]) == 0
    assert "0 of 4 stages ran" in capfd.readouterr().out

    # A change that stops mattering half-way: `join` comes out the same, so `count` does not even start.
    (project / "params.yaml").write_text("repeat: 3\n")
    assert flow([]) == 0
    assert "3 of 4 stages ran" in capfd.readouterr().out
    starts = [message for message in caplog.messages if "  starts (" in message][-3:]
    assert [message.split()[0] for message in starts] == ["letters@a", "letters@b", "join"]
    assert starts[-1] == "join  starts (changed deps: made/a.txt modified)"

    # A lost output is brought back.
    before = (project / "dvc.lock").read_bytes()
    (project / "made/count.txt").unlink()
    assert flow(["--dry-run"]) == 0
    assert "count  changed outs: made/count.txt deleted" in capfd.readouterr().out
    assert flow(["--target", "count"]) == 0
    assert "1 of 4 stages ran" in capfd.readouterr().out
    assert (project / "made/count.txt").read_text() == "2"
    assert (project / "dvc.lock").read_bytes() == before

    assert flow(["--target", "letters@a", "--force"]) == 0
    assert "1 of 1 stages ran" in capfd.readouterr().out
    assert (project / "dvc.lock").read_bytes() == before


def test_a_failed_stage_fails_the_flow_with_its_reason_and_stops_it(project, flow, capfd, caplog, monkeypatch):
    monkeypatch.setenv("MODE", "fail")
    assert flow([]) == 1
    assert capfd.readouterr().err == "join: error: the letters do not match: write them anew\n"
    assert "working on letters" in caplog.messages and "working on count" not in caplog.messages
    assert set(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == {"letters@a", "letters@b"}


def test_a_wrong_target_is_an_error_that_names_the_stages(project, flow, capfd):
    assert flow(["--target", "nothing"]) == 1
    assert "no stage `nothing`; it has: letters@a, letters@b, join, count" in capfd.readouterr().err


def test_two_flows_never_run_in_one_working_tree(project, flow, capfd):
    from flows.lock import note_run, worktree_lock

    with worktree_lock(project):
        note_run(project, "the-first")
        assert flow([]) == 1
    assert "another flow is running in this working tree" in (error := capfd.readouterr().err) and "the-first" in error
    assert not (project / "dvc.lock").exists()


def test_the_tasks_are_the_stages_of_the_repository():
    """The two views of the repository's own dvc.yaml: what DVC lists, and what the flow would run, in order."""
    from flows.pipeline import stage_task
    from flows.plan import select
    from fusion.lineage.stages import parents_of, producers, resolve_stages

    assert (HERE / "dvc.yaml").is_file() and (HERE / "data/pipeline.yaml").is_file()
    stages = resolve_stages(HERE)
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    listed = subprocess.run(command, cwd=HERE, env=environment(), check=True, capture_output=True, text=True)
    tasks = [stage_task(stage).name for stage in select(stages, [])]
    assert sorted(tasks) == sorted(listed.stdout.split())
    outputs = producers(stages.values())
    for stage in stages.values():
        assert all(tasks.index(parent) < tasks.index(stage.name) for parent in parents_of(stage, outputs))


def test_flows_use_nothing_of_the_insides():
    for path in (HERE / "flows").glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("from fusion", "import fusion")):
                assert line.split()[1] in {
                    "fusion.checkouts",
                    "fusion.errors",
                    "fusion.lineage.stages",
                    "fusion.secrecy",
                }, f"{Path(path).name}: {line}"
