"""`make start RUN=FLOW/DEPLOYMENT`: starts a deployment on the running server and, if asked, waits for its end.

`python -m flows.start data/nightly [NAME=VALUE ...] [--follow]`; values are YAML: `variants=[tiny]`, `force=true`.
`python -m flows.start --cancel RUN` cancels a run by its id or its name.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from flows.environment import prepare
from flows.errors import FlowError
from flows.server import running_server

LOOK_SECONDS = 2.0


def parameters(words: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` words; raises `FlowError` for another one."""
    made = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise FlowError(f"`{word}` is no NAME=VALUE")
        try:
            made[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise FlowError(f"{name}: `{value}` is no YAML: {str(error).splitlines()[0]}") from error
    return made


def start(name: str, values: dict[str, Any], follow: bool) -> int:
    """Starts a run of the deployment; the exit code: 0 when it was started or, followed, when it completed."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(name)
            run = client.create_flow_run_from_deployment(deployment.id, parameters=values)
        except ObjectNotFound as error:
            known = sorted(f"{_flow_name(client, one.flow_id)}/{one.name}" for one in client.read_deployments())
            raise FlowError(f"there is no deployment `{name}`; there are: {', '.join(known) or 'none'}") from error
        except PrefectHTTPStatusError as error:
            raise FlowError(f"the server refuses this run: {error.response.text[:500]}") from error
        page = os.environ["PREFECT_API_URL"].removesuffix("/api")
        print(f"started {run.name}: {page}/runs/flow-run/{run.id}", flush=True)
        shown = ""
        while follow:
            state = client.read_flow_run(run.id).state
            if state is not None and state.name != shown:
                shown = state.name or ""
                print(f"{shown}: {state.message}" if state.message else shown, flush=True)
            if state is not None and state.is_final():
                return 0 if state.is_completed() else 1
            time.sleep(LOOK_SECONDS)
    return 0


def _flow_name(client: Any, flow_id: UUID) -> str:
    return str(client.read_flow(flow_id).name)


def cancel(run: str) -> int:
    """Asks for the end of a run; raises `FlowError` when there is none of that id or name that has not ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
    from prefect.states import Cancelling

    try:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run)]))
    except ValueError:
        chosen = FlowRunFilter(name=FlowRunFilterName(any_=[run]))
    with get_client(sync_client=True) as client:
        runs = [one for one in client.read_flow_runs(flow_run_filter=chosen) if one.state and not one.state.is_final()]
        if not runs:
            raise FlowError(f"no run `{run}` is waiting or running")
        for one in runs:
            client.set_flow_run_state(one.id, Cancelling(message="cancelled from the command line"))
            print(f"cancels {one.name}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.start", description=__doc__.splitlines()[0])
    parser.add_argument("deployment", nargs="?", metavar="FLOW/DEPLOYMENT", help="for example data/nightly")
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE", help="parameters of the flow")
    parser.add_argument("--follow", action="store_true", help="wait for the end; the exit code tells how it was")
    parser.add_argument("--cancel", metavar="RUN", help="cancel this run instead")
    options = parser.parse_intermixed_args(arguments)  # `--follow` may stand between the words.
    root = Path(".")
    try:
        prepare(root)
        url = os.environ.get("PREFECT_API_URL") or running_server(root)
        if url is None:
            raise FlowError("no server runs for this project: start one with `make ui`, or set PREFECT_API_URL")
        os.environ["PREFECT_API_URL"] = url
        if options.cancel:
            return cancel(options.cancel)
        if not options.deployment:
            raise FlowError("name a deployment: `make start RUN=data/nightly`; prefect.yaml lists them")
        return start(options.deployment, parameters(options.values), options.follow)
    except FlowError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
