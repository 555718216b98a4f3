"""The flow from the outside: what runs, what does not, what it says, and how it ends."""

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from tests.flows.conftest import AUTH
from tests.flows.flow_project import HERE, SLOWNESS, alive, environment, hanging_flow, make_project, repro, wait_for


@pytest.fixture
def flow(server):
    """The flow's command line, in this process: one server for all tests."""
    import flows.parts  # noqa: F401 - Prefect's log keeps the terminal of its import, which is not the test's
    from flows.pipeline import main

    return main


@pytest.fixture
def api(server):
    """A client of the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def run_id(project: Path) -> UUID:
    """The run that has, or had, the project."""
    return UUID(json.loads((project / "scratch/flow.lock").read_text())["run"])


def test_the_flow_gives_the_same_lock_file_as_dvc(project, flow, capfd, caplog, tmp_path):
    assert flow(["--parallel", "2"]) == 0
    assert "4 of 4 stages ran" in capfd.readouterr().out
    other = make_project(tmp_path / "other")
    repro(other)
    assert (project / "dvc.lock").read_bytes() == (other / "dvc.lock").read_bytes()
    assert (project / "made/count.txt").read_text() == "2"

    # Nothing changed: nothing starts.
    assert flow([]) == 0
    assert "0 of 4 stages ran" in capfd.readouterr().out

    # A change that stops mattering half-way: `join` comes out the same, so `count` does not even start.
    (project / "params.yaml").write_text("repeat: 3\nhardware: {device: cpu}\n")
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
    assert flow(["--flow", "evaluation"]) == 0
    assert "1 of 1 stages ran" in capfd.readouterr().out
    assert (project / "made/count.txt").read_text() == "2"
    assert (project / "dvc.lock").read_bytes() == before

    # A part of the pipeline makes nothing from stale inputs.
    (project / "made/a.txt").unlink()
    assert flow(["--flow", "training"]) == 1
    assert "letters@a comes before and is not up to date" in capfd.readouterr().err
    assert flow(["--target", "letters@a", "--force"]) == 0
    assert "1 of 1 stages ran" in capfd.readouterr().out
    assert (project / "dvc.lock").read_bytes() == before


def test_a_failed_stage_fails_the_flow_with_its_reason_and_stops_it(project, flow, capfd, caplog, monkeypatch, api):
    monkeypatch.setenv("MODE", "fail")
    assert flow([]) == 1
    assert capfd.readouterr().err == "join: error: the letters do not match: write them anew\n"
    assert "working on letters" in caplog.messages and "working on count" not in caplog.messages
    assert set(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == {"letters@a", "letters@b"}
    state = api.read_flow_run(run_id(project)).state
    assert state.is_failed() and state.message == "join: error: the letters do not match: write them anew"


def test_only_what_is_transient_is_tried_again(project, flow, capfd, monkeypatch, api):
    """A stage that was told to stop, and a path that another DVC has; the failure above was tried once."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    def tries(name: str) -> int:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run_id(project)]))
        return sum(one.run_count for one in api.read_task_runs(flow_run_filter=chosen) if one.name == name)

    repro(project)
    with (project / "dvc.yaml").open("a") as file:
        file.write("  reader:\n    cmd: python stage.py reader\n    deps: [made/count.txt]\n")
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "reader"]
    reader = subprocess.Popen(command, cwd=project, env=environment())
    assert wait_for((project / "reading").is_file)

    def free_it() -> None:
        wait_for(lambda: (project / "stopped").is_file() and tries("count") > 0)
        wait_for(lambda: tries("count") > 1, 20)
        (project / "go").touch()

    thread = threading.Thread(target=free_it)
    thread.start()
    monkeypatch.setenv("MODE", "stop once")
    assert flow(["--force", "--target", "count"]) == 0
    thread.join()
    assert reader.wait(60 * SLOWNESS) == 0
    assert "4 of 4 stages ran" in capfd.readouterr().out
    assert wait_for(lambda: tries("join") == 2 and tries("count") > 1 and tries("letters@a") == 1, 20)


@pytest.fixture
def another(project: Path) -> None:
    """An adopted checkpoint that `count` reads, and that is another than its .dvc file says."""
    adopted = project / "checkpoints/mine/stage1"
    adopted.mkdir(parents=True)
    (adopted / "model.safetensors").write_text("one")
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", str(adopted)], check=True, env=environment())
    (adopted / "model.safetensors").unlink()
    (adopted / "model.safetensors").write_text("another")
    stages = (project / "dvc.yaml").read_text()
    read = stages.replace("deps: [stage.py, made/joined.txt]", "deps: [stage.py, made/joined.txt, checkpoints/mine]")
    (project / "dvc.yaml").write_text(read)


def test_a_plan_does_not_read_an_adopted_checkpoint_that_is_another(another, capfd):
    from flows.pipeline import main

    assert main(["--dry-run"]) == 1
    assert "`dvc checkout --force checkpoints/mine/stage1.dvc`" in capfd.readouterr().err
    assert main(["--dry-run", "--flow", "data"]) == 0, "what does not read it is left alone"


def test_no_run_reads_an_adopted_checkpoint_that_is_another(project, another, flow, capfd):
    assert flow([]) == 1
    assert "`dvc checkout --force checkpoints/mine/stage1.dvc`" in capfd.readouterr().err
    assert not (project / "dvc.lock").exists()


def test_a_wrong_target_is_an_error_that_names_the_stages(project, flow, capfd):
    assert flow(["--target", "nothing"]) == 1
    assert "no stage `nothing`; it has: letters@a, letters@b, join, count" in capfd.readouterr().err


def test_a_cancelled_run_leaves_no_process_and_gives_back_what_it_held(project, flow, capfd, api):
    """A second run is refused meanwhile. The stage needs a GPU, so it holds a slot."""
    repro(project)
    (project / "params.yaml").write_text("repeat: 5\nhardware: {device: cuda}\n")
    process, pids = hanging_flow(project)
    cancelled = run_id(project)
    assert flow([]) == 1
    assert f"run {cancelled}" in capfd.readouterr().err
    from prefect.states import Cancelling

    def slots() -> int:
        return int(api.read_global_concurrency_limit_by_name("gpu").active_slots)

    assert slots() == 1
    api.set_flow_run_state(cancelled, Cancelling())
    assert process.wait(120 * SLOWNESS) == 1
    assert not any(alive(pid) for pid in pids)
    assert (
        (project / "terminal.txt")
        .read_text()
        .endswith("cancelled: the running stage was ended, the next run continues\n")
    )
    assert api.read_flow_run(cancelled).state.is_cancelled() and slots() == 0
    assert flow([]) == 0
    assert capfd.readouterr().out.startswith("2 of 4 stages ran")


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_no_process_outlives_a_killed_or_interrupted_flow(project, flow, capfd, api, number):
    repro(project)
    (project / "params.yaml").write_text("repeat: 5\nhardware: {device: cpu}\n")
    process, pids = hanging_flow(project)
    killed = run_id(project)
    process.send_signal(number)
    assert process.wait(120 * SLOWNESS) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert wait_for(lambda: not any(alive(pid) for pid in pids))
    terminal = (project / "terminal.txt").read_text()
    assert "join  working on join" in terminal and "Finished in state" not in terminal and "Traceback" not in terminal
    # Nothing has to be mended by hand: the next run goes through, and the page does not show the dead one as running.
    assert flow([]) == 0
    assert "2 of 4 stages ran" in capfd.readouterr().out
    assert api.read_flow_run(killed).state.is_crashed()


def test_secrets_are_not_shown_and_progress_is(project, flow, monkeypatch, caplog, api):
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, LogFilter, LogFilterFlowRunId

    monkeypatch.setenv("MODE", "tell")
    monkeypatch.setenv("SOME_API_TOKEN", "planted-secret")
    assert flow([]) == 0
    assert "secret: *** server: None" in caplog.messages
    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id(project)]))
    assert wait_for(lambda: any("secret: ***" in log.message for log in api.read_logs(chosen)), 30)
    assert not [log for log in api.read_logs(chosen) if "planted-secret" in log.message or AUTH in log.message]
    made = api.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id(project)]))
    )
    assert [(one.key, one.data, one.description) for one in made if one.type == "progress"] == [
        ("progress-join", 90, "join letters: 90 letters, 5/s, 3 s left")
    ]


def test_the_server_is_closed_without_the_secret(server):
    def code(secret: str | None, address: str = "/admin/version", data: bytes | None = None, **headers: str) -> int:
        request = urllib.request.Request(server + address, data, headers)
        if secret:
            request.add_header("Authorization", "Basic " + b64encode(secret.encode()).decode())
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert (code(None), code("tester:wrong"), code(AUTH)) == (401, 401, 200)
    assert code(None, "/flow_runs/filter", b"{}") == 403, "what changes something is asked for its CSRF token first"
    # A form of another site that a browser sends along with the secret.
    assert code(AUTH, "/flow_runs/filter", b"{}", **{"Content-Type": "application/json"}) == 403


def test_the_tasks_are_the_stages_of_the_repository(server):
    """The two views of the repository's own dvc.yaml: what DVC lists, and what the flow would run, in order."""
    from flows.selection import Selection, choose, read_kinds
    from flows.stage import stage_task
    from fusion.lineage.stages import parents_of, producers, resolve_stages

    assert (HERE / "dvc.yaml").is_file() and (HERE / "data/pipeline.yaml").is_file()
    stages = resolve_stages(HERE)
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    listed = subprocess.run(command, cwd=HERE, env=environment(), check=True, capture_output=True, text=True)
    tasks = [stage_task(stage).name for stage in choose(Selection(), stages, read_kinds(HERE))]
    assert sorted(tasks) == sorted(listed.stdout.split())
    outputs = producers(stages.values())
    for stage in stages.values():
        assert all(tasks.index(parent) < tasks.index(stage.name) for parent in parents_of(stage, outputs))


def test_the_form_offers_what_the_repository_has(server):
    """In a process of its own, as `prefect deploy` sees it: the choices are those of the current folder."""
    code = (
        "import json; from flows.parts import FLOWS\n"
        "from prefect.utilities.callables import parameter_schema\n"
        "print(json.dumps({name: parameter_schema(one).model_dump() for name, one in FLOWS.items()}, default=str))\n"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=HERE, env=environment(), capture_output=True, text=True)
    forms = json.loads(made.stdout.splitlines()[-1])
    variants = yaml.safe_load((HERE / "params.yaml").read_text())["run"]["variants"]
    properties = forms["data"]["properties"]
    assert properties["variants"]["items"].get("enum", [properties["variants"]["items"].get("const")]) == variants
    assert "curate" in json.dumps(properties["until_stage"]) and "train_stage1" not in json.dumps(
        properties["until_stage"]
    )
    assert all(one.get("description") for form in forms.values() for one in form["properties"].values())
    assert properties["when_busy"]["enum"] == ["wait", "refuse"] and properties["force"]["type"] == "boolean"
    assert "evaluate@" in json.dumps(forms["stage"]["properties"]["name"]) and forms["stage"]["required"] == ["name"]


def test_flows_use_nothing_of_the_insides():
    for path in (HERE / "flows").glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("from fusion", "import fusion")):
                assert line.split()[1] in {
                    "fusion.checkouts",
                    "fusion.errors",
                    "fusion.launchers.jobs",
                    "fusion.lineage.stages",
                    "fusion.secrecy",
                }, f"{Path(path).name}: {line}"
