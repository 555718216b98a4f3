"""`make ui`: the server with its page, the deployments, the reports and the workers, until it is interrupted.

Everything listens on loopback unless --host says otherwise, which needs FUSION_UI_AUTH. A server or worker that ends is
started again. When this process ends, however it does, all of them end, and so do the runs and their stages.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from flows.command import supervised
from flows.environment import AUTHENTICATION, REPORTS_URL, authentication, prepare
from flows.errors import FlowError
from flows.reports import serve_reports
from flows.server import ADDRESS, LOOPBACK, Server, note_server, start_server

GPU_DEVICE = Path("/dev/nvidia0")
PAUSE_SECONDS = 3.0
"""Before a worker or server that ended is started again."""


@dataclass
class Services:
    """What runs: the server, and a worker for each pool."""

    root: Path
    host: str
    port: int
    pools: list[str]
    environment: dict[str, str]
    server: Server | None = None
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_server(self) -> None:
        """Starts it; this process and all that follow talk to it."""
        self.server = start_server(self.root, self.environment, self.host, self.port, page=True)
        os.environ["PREFECT_API_URL"] = self.environment["PREFECT_API_URL"] = self.server.url
        note_server(self.root, self.server.url, f"http://{self.host}:{self.port}")

    def start_workers(self) -> None:
        """Starts those that do not run."""
        for pool in self.pools:
            if pool not in self.workers or self.workers[pool].poll() is not None:
                command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
                with (Path(self.environment["PREFECT_HOME"]) / f"worker-{pool}.log").open("ab") as log:
                    process, _ = supervised(command, self.root, self.environment, service=True, output=log.fileno())
                self.workers[pool] = process

    def ended(self) -> list[str]:
        """The names of what has ended by itself."""
        names = [f"worker of {pool}" for pool, process in self.workers.items() if process.poll() is not None]
        if self.server is not None and self.server.process.poll() is not None:
            names.insert(0, "server")
        return names

    def end(self) -> None:
        """Ends the workers with their runs, then the server that they report to."""
        for process in self.workers.values():
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
        for process in self.workers.values():
            process.wait()
        if self.server is not None:
            self.server.end()
        (self.root / ADDRESS).unlink(missing_ok=True)


def run(services: Services, stop: threading.Event) -> None:
    """Starts everything and keeps it going until `stop`."""
    say(f"starts the server on port {services.port}; the first start takes a while")
    services.start_server()
    from flows.deployments import clear_dead_runs, create_pools, deploy  # Prefect wants the address at its import.

    for sentence in clear_dead_runs(services.root):
        say(sentence)
    create_pools()
    deploy(services.root, services.environment)
    services.start_workers()
    say(f"the page: http://{services.host}:{services.port}   reports: {services.environment[REPORTS_URL]}")
    say(f"workers for {', '.join(services.pools)}; start a run with `make start RUN=data/nightly`; Ctrl-C ends all")
    while not stop.wait(1.0):
        if ended := services.ended():
            say(f"{', '.join(ended)} ended: starting again")
            if stop.wait(PAUSE_SECONDS):
                break
            if "server" in ended:
                services.start_server()
            for sentence in clear_dead_runs(services.root):
                say(sentence)
            services.start_workers()


def say(sentence: str) -> None:
    """A line for the person at the terminal."""
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=4200, help="port of the page (default: 4200)")
    parser.add_argument("--reports-port", type=int, help="port of the reports (default: the next one)")
    parser.add_argument("--gpu", action="store_true", help="a worker for the pool fusion-gpu even if no GPU is seen")
    options = parser.parse_args(arguments)
    root = Path(".").resolve()
    stop = threading.Event()

    def hand_on(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, hand_on)
    try:
        prepare(root)
        secret = authentication()
        if options.host not in (LOOPBACK, "localhost", "::1") and not secret:
            raise FlowError(f"--host {options.host} opens the page to others: set {AUTHENTICATION}=user:password first")
        if not (root / "prefect.yaml").is_file():
            raise FlowError("prefect.yaml is not here: run the command in the project's folder")
        reports = serve_reports(root, options.host, options.reports_port or options.port + 1, secret)
        environment = {**os.environ}
        environment.setdefault(REPORTS_URL, reports)
        environment["FUSION_PROJECT"] = str(root)
        pools = ["fusion", *(["fusion-gpu"] if options.gpu or GPU_DEVICE.exists() else [])]
        services = Services(root, options.host, options.port, pools, environment)
        try:
            run(services, stop)
        finally:
            say("ends the workers, their runs and the server")
            services.end()
    except (FlowError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
