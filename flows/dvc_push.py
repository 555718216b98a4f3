"""`python -m flows.dvc_push [ARGUMENTS]`: `dvc push` that says whether trying again may help.

DVC reports every file that failed in its log and then says only how many they were. This process looks at the
exceptions in that log. It ends with 0, with 75 (EX_TEMPFAIL: network, server, lock; try again), or with 1; and it ends
at once when its standard input, a pipe that the flow holds open, is closed.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator

TRANSIENT_EXIT_CODE = 75
PERMANENT_EXIT_CODE = 1

RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
RETRY_CODES = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling"})
RETRY_NAMES = frozenset(
    {
        "LockError",  # Of DVC: another process works in this repository.
        "EndpointConnectionError",  # Of botocore, as are the next ones; none is a builtin's subclass.
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionClosedError",
        "HTTPClientError",
        "IncompleteReadError",
        "ClientConnectionError",  # Of aiohttp.
        "ClientPayloadError",
        "ServerTimeoutError",
        "ConnectionLost",  # Of asyncssh.
        "DisconnectError",
    }
)
DENIED_NAMES = frozenset({"PermissionDenied", "HostKeyNotVerifiable"})
"""Of asyncssh: kinds of DisconnectError that no second try helps against."""
RETRY_ERRNO = frozenset({4, 5, 11, 16, 101, 103, 104, 110, 111, 113, 116})
"""EINTR, EIO, EAGAIN, EBUSY, and those of an unreachable network, a broken connection and a stale file handle."""


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help, by the error itself and those that it comes from."""
    for cause in _chain(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & DENIED_NAMES:
            return False
        if isinstance(cause, (ConnectionError, TimeoutError)) or names & RETRY_NAMES:
            return True
        if isinstance(cause, OSError) and cause.errno in RETRY_ERRNO:
            return True
        response = getattr(cause, "response", None)
        if isinstance(response, dict):  # botocore.exceptions.ClientError
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in RETRY_STATUS or response.get("Error", {}).get("Code") in RETRY_CODES:
                return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]


class _Errors(logging.Handler):
    """Keeps the exceptions that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


def _end_with_the_flow() -> None:
    while os.read(0, 1024):
        pass
    os._exit(PERMANENT_EXIT_CODE)


def main(arguments: list[str]) -> int:
    """Pushes; returns the exit code."""
    from dvc.cli import main as dvc

    threading.Thread(target=_end_with_the_flow, daemon=True).start()
    errors = _Errors()
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).addHandler(errors)
    code = dvc(["--wait-for-lock", "push", *arguments])
    if not code:
        return 0
    transient = bool(errors.found) and all(is_transient(error) for error in _roots(errors.found))
    return TRANSIENT_EXIT_CODE if transient else PERMANENT_EXIT_CODE


def _roots(found: list[BaseException]) -> list[BaseException]:
    """Without DVC's sum of the others, `N files failed to upload`."""
    return [error for error in found if type(error).__name__ != "UploadError"] or found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
