"""Prefect's settings for this project; import this before prefect, which reads them once at its own import."""

import logging
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from flows.errors import FlowError

LINE = "%(asctime)s  "
HOME = "scratch/prefect"
AUTHENTICATION = "FUSION_UI_AUTH"
"""The one setting that closes the server: `user:password`. With it, requests without it get 401, and forms need a CSRF
token. The server gets it, and workers, flows and commands that talk to the server."""

REPORTS_URL = "FUSION_REPORTS_URL"
"""Where `make ui` serves the folder reports/, if it does."""

DEFAULTS: dict[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # No part of the project starts a server behind one's back, which would outlive a killed run: flows/server.py does.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%H:%M:%S",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": LINE + "%(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": LINE + "%(task_run_name)s  %(message)s",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_CLI_PROMPT": "false",
    # A worker runs what is installed; it installs nothing.
    "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
    # A server that is started anew is waited for: about 5 minutes, with ever longer pauses.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

SERVER_DEFAULTS: dict[str, str] = {
    # Slots that are taken stay taken when the server is started anew.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
}


def prepare(root: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the user has not set."""
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    home = Path(environment.setdefault("PREFECT_HOME", str((root / HOME).resolve())))
    home.mkdir(parents=True, exist_ok=True)
    if secret := authentication(environment):
        environment.setdefault("PREFECT_API_AUTH_STRING", secret)


def authentication(environment: Mapping[str, str] = os.environ) -> str:
    """The `user:password` of FUSION_UI_AUTH, or an empty text; raises `FlowError` for one without a colon."""
    secret = environment.get(AUTHENTICATION, "").strip()
    if secret and (":" not in secret or secret.startswith(":") or secret.endswith(":")):
        raise FlowError(f"{AUTHENTICATION} has to be `user:password`")
    return secret


def server_environment(environment: Mapping[str, str], host: str, port: int, page: bool) -> dict[str, str]:
    """The environment of the server's process."""
    made = {**SERVER_DEFAULTS, **environment}
    made |= {
        "PREFECT_UI_ENABLED": "true" if page else "false",
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
    }
    made.pop("PREFECT_API_URL", None)
    if secret := authentication(environment):
        made["PREFECT_SERVER_API_AUTH_STRING"] = secret
        made["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] = "true"
    return made


class _NoStates(logging.Filter):
    """Drops Prefect's own lines about states: the flow says the same in fewer words, and the server has them all."""

    STARTS = ("Finished in state", "Beginning flow run", "Task run failed with state")

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.STARTS)


def keep_states_off_the_terminal() -> None:
    """Call after prefect has set up logging, that is, after its import."""
    for name in (None, "prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.addFilter(_NoStates())
