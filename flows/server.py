"""Prefect's server as a process that cannot outlive who started it, and where a running one is found."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.command import supervised
from flows.environment import HOME, server_environment
from flows.errors import FlowError

LOOPBACK = "127.0.0.1"
START_SECONDS = "FUSION_SERVER_START_SECONDS"
"""How long a start may take (default: 600): the first one builds the database, and may have to share the machine."""
ADDRESS = Path(HOME) / "server.json"


@dataclass
class Server:
    """A running server; `end` ends it, and so does the end of this process, however it comes."""

    url: str
    process: subprocess.Popen[bytes]

    def end(self) -> None:
        """Ends it and waits for that."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait()


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def start_server(
    root: Path, environment: Mapping[str, str], host: str = LOOPBACK, port: int | None = None, page: bool = False
) -> Server:
    """Starts a server with the home in PREFECT_HOME and waits until it answers.

    Raises:
        FlowError: it ends at once, the port is taken, or it does not answer in time; with its last words.
    """
    port = port or free_port(host)
    url = f"http://{host}:{port}/api"
    if answers(url):
        raise FlowError(f"port {port} is taken: another server answers there; choose one with --port")
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", host,
        "--port", str(port), "--log-level", "warning", "--lifespan", "on", "--timeout-graceful-shutdown", "3",
        "--timeout-keep-alive", "30",
    ]  # fmt: skip
    log = Path(environment["PREFECT_HOME"]) / "server.log"
    with log.open("ab") as file:
        process, _ = supervised(
            command, root, server_environment(environment, host, port, page), service=True, output=file.fileno()
        )
    server = Server(url, process)
    deadline = time.monotonic() + float(environment.get(START_SECONDS, "600"))
    while not answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            server.end()
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise FlowError(f"Prefect's server does not start: {lines[-1] if lines else 'it says nothing'} (see {log})")
        time.sleep(0.1)
    return server


def answers(url: str) -> bool:
    """Whether a server answers there that it is well."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except (OSError, ValueError):
        return False


def note_server(root: Path, url: str, page: str) -> None:
    """Writes down where this project's server is, for commands that are started later."""
    (root / ADDRESS).parent.mkdir(parents=True, exist_ok=True)
    facts = {"api": url, "page": page, "pid": os.getpid(), "created": psutil.Process().create_time()}
    (root / ADDRESS).write_text(json.dumps(facts), encoding="utf-8")


def running_server(root: Path) -> str | None:
    """The address of the server that `make ui` of this project runs, if it does."""
    with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
        facts = json.loads((root / ADDRESS).read_text(encoding="utf-8"))
        if psutil.Process(facts["pid"]).create_time() == facts["created"] and answers(facts["api"]):
            return str(facts["api"])
    return None


@contextlib.contextmanager
def some_server(root: Path) -> Iterator[str]:
    """The server of PREFECT_API_URL, else that of `make ui`, else one of its own for as long as the body runs."""
    if url := os.environ.get("PREFECT_API_URL") or running_server(root):
        os.environ["PREFECT_API_URL"] = url
        yield url
        return
    server = start_server(root, os.environ)
    os.environ["PREFECT_API_URL"] = server.url
    try:
        yield server.url
    finally:
        deliver()
        del os.environ["PREFECT_API_URL"]
        server.end()


def deliver(seconds: float = 10.0) -> None:
    """Waits, at most so long, until what Prefect has to tell its server has arrived there."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for service in (APILogWorker, EventsWorker):
        service.drain_all(timeout=seconds, at_exit=False)
