"""Cancelling a flow run during every stage of the pipeline, and failures at random stages, on the micro variant."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from benchmarks.chaos_flow import FlowRun, cancel, check_lock, forget_runs, one_server, rounds
from tests.e2e.project import Project, copy_project

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Micro, built by the flow, and a server for the runs that follow."""
    folder = tmp_path_factory.mktemp("flows")
    with one_server(folder):
        project = copy_project(folder / "project", "micro")
        code, told = FlowRun(project).finish()
        assert code == 0, told
        yield project


def test_cancelled_during_every_stage(built: Project) -> None:
    from prefect.client.orchestration import get_client

    expected = (built.root / "dvc.lock").read_bytes()
    stages = [name for name, outs in built.lock().items() if outs]
    assert len(stages) > 10
    missed = []
    for name in stages:
        forget_runs(built)
        run = FlowRun(built, "--only", name, "--force")
        assert run.wait_for_stage(), run.finish()
        cancel(run)
        code, told = run.finish()
        run.wait_until_nothing_is_left()
        if code == 0:  # The stage was quicker.
            missed.append(name)
            continue
        assert told.endswith("cancelled: the running stage was ended, the next run continues\n"), told
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run.id)).state
            assert state is not None and state.is_cancelled()
        # Its output is missing now; the stage after it needs it again.
        check_lock(built, expected, f"cancelling {name}")
    assert len(missed) <= len(stages) // 4, missed


def test_failures_at_random_stages(built: Project) -> None:
    made = rounds(built, 8, seed=1)
    assert len(made["kinds"]) == 8
    assert not list(Path(built.root / "scratch/flows").glob("*.json"))
