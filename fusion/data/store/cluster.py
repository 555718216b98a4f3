"""Work on a Dask or Ray cluster through Prefect's task runners, as `Workers` takes it.

The machines of a cluster have to see the project's folder under the same path, and need the same environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from fusion.data.errors import DataError

Kind = Literal["processes", "dask", "ray"]
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Settings of Prefect and Ray where a person has none; they read them at their import."""

_SERVER_STARTS = 120
"""Seconds. The first start builds its database."""


class Cluster:
    """A started task runner. `submit` gives futures whose `result()` is that of the job."""

    def __init__(self, kind: Kind, address: str | None, count: int) -> None:
        """Connects to the cluster at `address`, or starts one of `count` processes on this machine.

        Raises:
            DataError: the package for it is not installed.
        """
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        if "PREFECT_API_URL" not in os.environ:
            os.environ.setdefault("PREFECT_HOME", str(Path("scratch/prefect").resolve()))
        runner = _runner(kind, address, count)
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        with ExitStack() as opened:
            opened.enter_context(_server())
            self._runner = opened.enter_context(runner)
            self._open = opened.pop_all()
        self._task = task(name="part", persist_result=False, cache_policy=NO_CACHE)(_run)

    def submit(self, job: Callable[..., Any], *arguments: Any) -> Any:
        """A future of `job(*arguments)`."""
        return self._runner.submit(self._task, parameters={"job": _Job(job, arguments)})

    def shutdown(self, cancel_futures: bool = True) -> None:
        """Leaves the cluster, or ends the one that was started."""
        self._open.close()


class _Job:
    """A job with its arguments, which Prefect would look through for futures and write into its database."""

    def __init__(self, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.job = job
        self.arguments = arguments


def _run(job: _Job) -> Any:
    return job.job(*job.arguments)


def _runner(kind: Kind, address: str | None, count: int) -> Any:
    try:
        if kind == "dask":
            from prefect_dask import DaskTaskRunner

            local = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": None}
            return DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=local)
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise DataError(
            f"params.yaml: data.runner: `{kind}` needs the package prefect-{kind} ({error}): "
            f"pip install 'fusion-pipeline[{kind}]'"
        ) from None
    local = {"num_cpus": count, "include_dashboard": False, "log_to_driver": False}
    return RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs=local)


@contextmanager
def _server() -> Iterator[None]:
    """Prefect's server for the tasks: the one that is set, as in the flow, or one that ends with the work."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    server.start(timeout=_SERVER_STARTS)
    try:
        # Set, and not merely running here: the processes of a cluster would each start their own.
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            yield
    finally:
        server.stop()
