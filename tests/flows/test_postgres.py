"""The shared server of docs/operations.md: Prefect on PostgreSQL, two workers of one pool, a run on each, and the
automation that tells of a run that fails.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows import postgres
from tests.flows.test_notify import Listener
from tests.stored_project import HERE

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing())),
]

FLOW = """
import os, time
from pathlib import Path
from prefect import flow
from flows.notify import notify

@flow(log_prints=True, on_failure=[notify])
def work(name: str):
    if name == "wrong":
        raise ValueError("this one goes wrong on purpose")
    Path(__file__).with_name(f"{name}.started").write_text(str(os.getppid()))
    deadline = time.monotonic() + 600
    while len(list(Path(__file__).parent.glob("*.started"))) < 2:
        assert time.monotonic() < deadline, "the other run never started"
        time.sleep(0.5)
    print("both runs are going on")
"""

DEPLOY = """
import sys
from prefect import flow

flow.from_source(source=sys.argv[1], entrypoint="work.py:work").deploy(
    name="shared", work_pool_name="machines", print_next_steps=False
)
"""


def call(address: str, path: str, body: Any = None, auth: str = "") -> Any:
    """One request to Prefect's API."""
    import base64

    headers = {"Content-Type": "application/json", "Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        token = call(address, "/csrf-token?client=tests", auth=auth)["token"]
        headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"}
    with urllib.request.urlopen(
        urllib.request.Request(address + path, data=data, headers=headers), timeout=60
    ) as answer:
        return json.loads(answer.read() or b"null")


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session of its own; nothing of it is left afterwards."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)


def wait_until(what: str, condition: Any, seconds: float = 900) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, urllib.error.URLError):
            if value := condition():
                return value
        time.sleep(1)
    raise AssertionError(f"{what} within {seconds:.0f} s")


def test_two_workers_of_a_server_on_postgresql_run_one_run_each(tmp_path: Path) -> None:
    password, auth = secrets.token_hex(12), f"team:{secrets.token_hex(12)}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code/work.py").write_text(FLOW)
    (tmp_path / "deploy.py").write_text(DEPLOY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    with postgres.serve(password) as database, contextlib.ExitStack() as stack:
        client = {
            **os.environ,
            "PREFECT_HOME": str(tmp_path / "home"),
            "DO_NOT_TRACK": "1",
            "PREFECT_API_URL": api,
            "PREFECT_API_AUTH_STRING": auth,
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_API_REQUEST_TIMEOUT": "300",
        }
        server = {
            **client,
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_API_AUTH_STRING": auth,
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # A machine that has other things to do is no failure.
            "PREFECT_API_DATABASE_TIMEOUT": "120",
            "PREFECT_API_DATABASE_CONNECTION_TIMEOUT": "120",
        }
        prefect = [sys.executable, "-m", "prefect"]
        start = [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        stack.enter_context(started(start, server, tmp_path / "server.log"))
        wait_until("the server answers", lambda: call(api, "/health", auth=auth) is not None)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            call(api, "/flow_runs/filter", {}, auth="team:wrong")

        made = subprocess.run(
            [sys.executable, "-m", "flows.deployments"],
            env=client,
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        known = {one["name"] for one in call(api, "/deployments/filter", {}, auth)}
        assert {"nightly", "weekly", "on-demand"} <= known
        limits = {one["name"]: one["concurrency_limit"] for one in call(api, "/work_pools/filter", {}, auth)}
        assert limits["fusion-gpu"] == 1

        for command in (
            [*prefect, "work-pool", "create", "machines", "--type", "process"],
            [sys.executable, str(tmp_path / "deploy.py"), str(tmp_path / "code")],
        ):
            done = subprocess.run(
                command, env={**client, "PYTHONPATH": str(HERE)}, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, done.stdout + done.stderr
        listener = stack.enter_context(Listener())
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        telling = {**client, "FUSION_NOTIFY_URL": listener.address, "PYTHONPATH": str(HERE)}
        for words in ("created the automation", "brought the automation"):
            command = [sys.executable, "-m", "flows.automation"]
            done = subprocess.run(command, env=telling, cwd=tmp_path, capture_output=True, text=True, timeout=600)
            assert done.stdout.startswith(words), done.stdout + done.stderr
        blocks = json.dumps(call(api, "/block_documents/filter", {"include_secrets": False}, auth))
        assert "fusion-notify-url-webhook" in blocks and listener.address not in blocks
        for name in ("one", "two"):
            worker = [*prefect, "worker", "start", "--pool", "machines", "--name", name, "--limit", "1"]
            stack.enter_context(started(worker, telling, tmp_path / f"worker-{name}.log"))

        deployment = call(api, "/deployments/name/work/shared", auth=auth)["id"]
        body = {"parameters": {"name": "a"}}, {"parameters": {"name": "b"}}
        runs = [call(api, f"/deployments/{deployment}/create_flow_run", one, auth)["id"] for one in body]

        def states() -> list[str]:
            return [call(api, f"/flow_runs/{run}", auth=auth)["state_type"] for run in runs]

        wait_until("both runs end", lambda: set(states()) <= {"COMPLETED", "FAILED", "CRASHED"})
        assert states() == ["COMPLETED", "COMPLETED"], (tmp_path / "worker-one.log").read_text()[-3000:]
        parents = {(tmp_path / "code" / f"{name}.started").read_text() for name in "ab"}
        assert len(parents) == 2, "each worker had one of them"
        wrong = call(api, f"/deployments/{deployment}/create_flow_run", {"parameters": {"name": "wrong"}}, auth)["id"]
        wait_until("the hook and the automation tell of it", lambda: len(listener.posted) >= 2)
        told = sorted((document for _, document in listener.posted), key=lambda document: "subject" in document)
        assert [("flow" in document, "subject" in document) for document in told] == [(True, False), (False, True)]
        for document in told:
            assert "this one goes wrong on purpose" in document["text"] and wrong in document["text"]
        listener.shutdown()
        rows = postgres.query(database, "SELECT id::text, state_type::text FROM flow_run")
        assert {row[0] for row in rows if row[1] != "SCHEDULED"} == {*runs, wrong}, "it is PostgreSQL that keeps them"
    for log in tmp_path.glob("*.log"):
        text = log.read_text(errors="replace")
        assert password not in text and auth not in text, f"a secret is in {log.name}"
