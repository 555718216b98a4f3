"""`make ui` from the outside: deployments, cancelling, and killing one part of it after the other.

After each disturbance: no process of a stage, nothing to mend by hand, and the next run goes through.
"""

import urllib.error
import urllib.request
from collections.abc import Iterator
from uuid import UUID

import psutil
import pytest

from flows.lock import RUN_ID
from flows.supervisor import processes_with
from tests.flows.flow_project import alive, make_project, repro, wait_for
from tests.flows.service import PATIENCE, Service, pids_of_stage, service

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
AUTH = "team:not-a-real-secret"


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A closed service, kept through all tests of this file."""
    root = make_project(tmp_path_factory.mktemp("service") / "project")
    repro(root)
    with service(root, FUSION_UI_AUTH=AUTH) as running:
        yield running
    assert not [
        one for one in psutil.process_iter() if _environment(one).get("PREFECT_HOME") == str(root / "scratch/prefect")
    ]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except psutil.Error:
        return {}


def hang(ui: Service, number: int) -> tuple[UUID, list[int]]:
    """A run whose `join` hangs."""
    (ui.root / "mode").write_text("hang")
    (ui.root / "params.yaml").write_text(f"repeat: {number}\nhardware: {{device: cpu}}\n")
    run = ui.start_run("pipeline/weekly", "commit=''")
    return run, pids_of_stage(ui.root)


def next_run_goes_through(ui: Service) -> None:
    (ui.root / "mode").write_text("")
    state = ui.ends_as(ui.start_run("pipeline/weekly", "commit=''"), "COMPLETED")
    assert "stages ran in" in state["message"]


def test_a_deployment_is_started_by_one_command(ui: Service) -> None:
    made = ui.run("pipeline/weekly", "--follow", "commit=''", "force=true", "parallel=2")
    assert made.returncode == 0 and "4 of 4 stages ran" in made.stdout, made.stdout + made.stderr
    made = ui.run("pipeline/weekly", "--follow", "commit=''")
    assert made.returncode == 0 and "0 of 4 stages ran" in made.stdout, made.stdout + made.stderr
    wrong = ui.run("pipeline/monthly")
    assert wrong.returncode == 1 and "there are: data/nightly" in wrong.stderr
    wrong = ui.run("stage/on-demand", "name=nothing")
    assert wrong.returncode == 1 and "refuses this run" in wrong.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{ui.page}/api/admin/version")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{ui.port + 1}/")


def test_a_validation_failure_stops_the_run_with_its_reason(ui: Service) -> None:
    (ui.root / "mode").write_text("fail")
    (ui.root / "params.yaml").write_text("repeat: 9\nhardware: {device: cpu}\n")
    state = ui.ends_as(ui.start_run("pipeline/weekly", "commit=''"), "FAILED")
    assert state["message"] == "join: error: the letters do not match: write them anew"
    next_run_goes_through(ui)


def test_cancelled_as_the_page_does(ui: Service) -> None:
    run, pids = hang(ui, 10)
    second = ui.start_run("stage/on-demand", "name=letters@a", "when_busy=refuse")
    assert "another flow is running" in ui.ends_as(second, "FAILED")["message"]
    ui.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    ui.ends_as(run, "CANCELLED")
    assert wait_for(lambda: not any(alive(pid) for pid in pids), 60)
    assert not processes_with(RUN_ID, str(run))
    next_run_goes_through(ui)


def test_a_second_run_waits(ui: Service) -> None:
    run, pids = hang(ui, 11)
    second = ui.start_run("stage/on-demand", "name=letters@a", "when_busy=wait")
    assert wait_for(lambda: ui.state(second)["type"] == "RUNNING", PATIENCE)
    (ui.root / "mode").write_text("")
    ui.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    ui.ends_as(run, "CANCELLED")
    ui.ends_as(second, "COMPLETED")
    assert not any(alive(pid) for pid in pids)


def test_the_worker_is_killed(ui: Service) -> None:
    run, pids = hang(ui, 12)
    (worker,) = [one for one in ui.family("prefect worker start") if "flows.supervisor" not in " ".join(one.cmdline())]
    worker.kill()
    assert wait_for(lambda: not any(alive(pid) for pid in pids), 60)
    ui.ends_as(run, "CRASHED")
    next_run_goes_through(ui)


def test_the_server_is_killed_and_the_run_goes_on(ui: Service) -> None:
    (ui.root / "go").unlink(missing_ok=True)
    (ui.root / "mode").write_text("hold")
    (ui.root / "params.yaml").write_text("repeat: 13\nhardware: {device: cpu}\n")
    run = ui.start_run("pipeline/weekly", "commit=''")
    assert wait_for((ui.root / "holding").is_file, PATIENCE)
    (server,) = [one for one in ui.family("uvicorn") if "flows.supervisor" not in " ".join(one.cmdline())]
    server.kill()
    assert wait_for(lambda: ui.state(run)["type"] == "AWAY", 60)
    assert wait_for(lambda: ui.state(run)["type"] == "RUNNING", PATIENCE)
    (ui.root / "go").touch()
    ui.ends_as(run, "COMPLETED")
    next_run_goes_through(ui)


def test_everything_is_killed_at_once_but_the_stage(ui: Service) -> None:
    run, pids = hang(ui, 14)
    for one in ui.family():
        if one.pid not in pids:
            one.kill()
    assert ui.process is not None
    ui.process.wait()
    for guard in [one for one in processes_with(RUN_ID, str(run)) if one.pid not in pids]:
        guard.kill()
    ui.start()
    assert not any(alive(pid) for pid in pids[:2]), "the start sweeps what the dead run left"
    ui.ends_as(run, "CRASHED")
    next_run_goes_through(ui)


def test_ending_the_service_ends_its_runs(ui: Service) -> None:
    run, pids = hang(ui, 15)
    ui.end()
    assert not any(alive(pid) for pid in pids)
    assert not processes_with(RUN_ID, str(run))
    (ui.root / "mode").write_text("")
    ui.start()
    next_run_goes_through(ui)
