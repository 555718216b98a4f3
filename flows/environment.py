"""Prefect's settings for this project; import this before prefect, which reads them once at its own import."""

import logging
import os
from pathlib import Path

LINE = "%(asctime)s  "

DEFAULTS: dict[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The first start of the in-process server builds its database; 20 seconds, the default, is not always enough.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%H:%M:%S",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": LINE + "%(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": LINE + "%(task_run_name)s  %(message)s",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_CLI_PROMPT": "false",
}


def prepare(root: Path) -> None:
    """Sets what the user has not set. Without PREFECT_API_URL the flow brings its own server, under scratch/prefect."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ:
        home = Path(os.environ.setdefault("PREFECT_HOME", str((root / "scratch/prefect").resolve())))
        home.mkdir(parents=True, exist_ok=True)


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
