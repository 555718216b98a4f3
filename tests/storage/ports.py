"""Ports of servers on loopback: a free one, and waiting until a server listens on it."""

import contextlib
import socket
import subprocess
import time


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_it_listens(port: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Waits for the server `process`; raises `AssertionError` when it ends, with its stderr, or is late."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port} after {seconds:.0f} s: {process.args!r}")
