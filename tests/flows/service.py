"""`make ui` of a throw-away project on free ports, and what a person does with it: for the long tests."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from flows.environment import prepare
from flows.server import free_port
from tests.flows.flow_project import HERE, SLOWNESS, alive, environment, wait_for

PATIENCE = 300.0


class Service:
    """The process of `make ui`, and commands that talk to it."""

    def __init__(self, root: Path, **more: str) -> None:
        self.root = root
        self.port = free_port()
        self.environment = environment(PREFECT_HOME=str(root / "scratch/prefect"), FUSION_RETRY_SECONDS="3", **more)
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "FUSION_UI_AUTH"):
            if name not in more:
                self.environment.pop(name, None)
        prepare(root, self.environment)
        self.log = root / "scratch/ui.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def page(self) -> str:
        """The address that a browser opens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        """Starts everything and waits until a worker is there."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            before = log.tell()
            command = [sys.executable, "-m", "flows.ui", "--port", str(self.port), *options]
            self.process = subprocess.Popen(
                command, cwd=self.root, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        ready = lambda: b"workers for" in self.log.read_bytes()[before:]  # noqa: E731
        assert wait_for(lambda: ready() or self.process.poll() is not None, PATIENCE) and ready(), self.log.read_text()

    def end(self) -> None:
        """Ends it as Ctrl-C does."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE * SLOWNESS)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`python -m flows.start` with these words."""
        command = [sys.executable, "-m", "flows.start", *words]
        return subprocess.run(command, cwd=self.root, env=self.environment, text=True, capture_output=True)

    def start_run(self, *words: str) -> UUID:
        """Starts a deployment; the run's id."""
        made = self.run(*words)
        assert made.returncode == 0, made.stdout + made.stderr
        return UUID(made.stdout.strip().rsplit("/", 1)[1])

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the server, as the page makes them."""
        import urllib.request
        from base64 import b64encode

        request = urllib.request.Request(
            f"{self.page}/api{path}", None if body is None else json.dumps(body).encode(), method=method,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        if secret := self.environment.get("FUSION_UI_AUTH"):
            request.add_header("Authorization", "Basic " + b64encode(secret.encode()).decode())
            if method != "GET":
                token = self.api("GET", "/csrf-token?client=tests")["token"]
                request.add_header("Prefect-Csrf-Token", token)
                request.add_header("Prefect-Csrf-Client", "tests")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def state(self, run: UUID) -> dict[str, Any]:
        """The run's state."""
        with contextlib.suppress(OSError):
            return dict(self.api("GET", f"/flow_runs/{run}").get("state") or {"type": "NONE"})
        return {"type": "AWAY"}

    def ends_as(self, run: UUID, kind: str) -> dict[str, Any]:
        """Waits for the run's end, which has to be of this kind; its state."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert wait_for(lambda: self.state(run)["type"] in final, PATIENCE), self.log.read_text()
        state = self.state(run)
        assert state["type"] == kind, f"{state}\n{self.log.read_text()}"
        return state

    def family(self, words: str = "") -> list[psutil.Process]:
        """All processes of the service and its runs with these words in the command line."""
        assert self.process is not None
        top = psutil.Process(self.process.pid)
        found = []
        for one in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                if words in " ".join(one.cmdline()):
                    found.append(one)
        return found


def pids_of_stage(root: Path) -> list[int]:
    """Waits for a stage that hangs; its process and those that it started."""
    assert wait_for((root / "pids.txt").is_file, PATIENCE)
    pids = [int(word) for word in (root / "pids.txt").read_text().split()]
    (root / "pids.txt").unlink()
    assert all(alive(pid) for pid in pids)
    return pids


@contextlib.contextmanager
def service(root: Path, *options: str, **more: str) -> Iterator[Service]:
    """A running service of the project at `root`; ends with everything that belongs to it."""
    (root / "flows").exists() or (root / "flows").symlink_to(HERE / "flows")
    (root / "prefect.yaml").exists() or (root / "prefect.yaml").write_text((HERE / "prefect.yaml").read_text())
    made = Service(root, **more)
    made.start(*options)
    try:
        yield made
    finally:
        made.end()
