"""A PostgreSQL server on loopback for a test, from the distribution's packages."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PLACES = "/usr/lib/postgresql/*/bin"
UNPRIVILEGED = ("postgres", "nobody")


def program(name: str) -> str | None:
    """A program of PostgreSQL: on PATH, or where Debian puts it; the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1]) if found else shutil.which(name)


def missing() -> str | None:
    """What has to be installed; None when all is there."""
    lacking = [name for name in ("initdb", "postgres", "pg_ctl") if program(name) is None]
    if lacking:
        return f"PostgreSQL is not installed ({', '.join(lacking)}): `apt-get install postgresql`"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and setpriv (util-linux) is not installed"
    return None


def _as_somebody() -> tuple[list[str], str | None]:
    """PostgreSQL refuses to run as root: the words that go before its commands, and the user."""
    if os.geteuid() != 0:
        return [], None
    import pwd

    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], name
    raise AssertionError("there is no user to run PostgreSQL as")


@contextlib.contextmanager
def serve(password: str) -> Iterator[str]:
    """Runs a server with an empty database `prefect`; gives the address for Prefect, with the password in it.

    Its files are not in a test's own folder: pytest closes that to other users, again and again.
    """
    before, user = _as_somebody()
    folder = Path(tempfile.mkdtemp(prefix="fusion-postgres-"))
    secret = folder / "password"
    secret.write_text(password)
    for path in (folder, secret):
        if user is not None:
            shutil.chown(path, user)

    def run(name: str, *arguments: str) -> None:
        command = [*before, program(name) or name, *arguments]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    data = folder / "data"
    run("initdb", "-D", str(data), "-U", "prefect", "--auth=scram-sha-256", f"--pwfile={secret}", "-N", "-E", "UTF8")
    secret.unlink()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off -c max_connections=100"
    log = folder / "server.log"
    run("pg_ctl", "-D", str(data), "-l", str(log), "-o", options, "-w", "-t", "240", "start")
    try:
        _create(port, password)
        yield f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/prefect"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder)


def _create(port: int, password: str) -> None:
    query(f"postgresql://prefect:{password}@127.0.0.1:{port}/postgres", "CREATE DATABASE prefect")


def query(address: str, statement: str) -> list[tuple[object, ...]]:
    """Runs one statement with the driver that Prefect uses."""
    import asyncio

    import asyncpg

    async def ask() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(address.replace("postgresql+asyncpg", "postgresql"))
        try:
            if statement.upper().startswith("SELECT"):
                return [tuple(row) for row in await connection.fetch(statement)]
            await connection.execute(statement)
            return []
        finally:
            await connection.close()

    deadline = time.monotonic() + 60
    while True:
        try:
            return asyncio.run(ask())
        except (OSError, asyncpg.CannotConnectNowError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
