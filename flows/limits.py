"""What a run asks of the server besides its own states: the concurrency limits, and the end of runs that died."""

import contextlib
from collections.abc import Iterable
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.states import Crashed

from flows.stage import GPU

LIMITS = {GPU: 1}
"""Limit -> slots when it is created. A person may change the number on the page; it is left as it is then."""
DIED = "its process ended without a word; a later start found it"


def create_limits() -> None:
    """Creates the limits that are missing: a stage that needs one fails without it (`strict`)."""
    with _client() as client:
        for name, slots in LIMITS.items():
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                with contextlib.suppress(ObjectAlreadyExists):
                    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))


def mark_dead_runs(run_ids: Iterable[str]) -> list[str]:
    """Gives runs whose process died the state Crashed, if the server still takes them for running; says which."""
    told = []
    with _client() as client:
        for run_id in run_ids:
            with contextlib.suppress(ObjectNotFound, ValueError):  # It ran on another server, or its database is gone.
                run = client.read_flow_run(UUID(run_id))
                if run.state is not None and not run.state.is_final():
                    client.set_flow_run_state(run.id, Crashed(message=DIED), force=True)
                    told.append(f"run {run.name} was still shown as {run.state_name}: now Crashed")
    return told


def unfinished_runs() -> list[FlowRun]:
    """The runs that the server takes for started: pending, running or being cancelled."""
    kinds = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    with _client() as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=kinds)))


def _client() -> SyncPrefectClient:
    return get_client(sync_client=True)
