"""A real SLURM of two nodes on this machine, of the distribution's packages, on loopback and in its own folder."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
NODES = ("127.0.0.1", "127.0.0.2")
"""Names by which a job's ranks find each other without a name server."""
_PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={short}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={short}/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
MinJobAge=2
KillWait=10
AccountingStorageType=accounting_storage/none
NodeName=127.0.0.1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.2 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """What has to be installed; None when all is there."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"{', '.join(lacking)}: apt-get install slurmctld slurmd slurm-client munge" if lacking else None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Runs it until the block ends; the environment in which its programs find it. What it says lies in `folder`."""
    (folder / "state").mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="slurm-") as short:  # a socket's path has 107 characters at most
        yield from _run(folder, Path(short))


def _run(folder: Path, short: Path) -> Iterator[dict[str, str]]:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    (folder / "slurm.conf").write_text(
        _CONF.format(
            host=socket.gethostname(), user=getpass.getuser(), folder=folder, short=short, ports=_free_ports(3)
        ),
        encoding="utf-8",
    )
    munged = [
        "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={short}/munge.socket",
        f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        said = stack.enter_context((folder / "said.txt").open("w"))
        for command in (munged, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in NODES)):
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            if command is munged:
                _until(lambda: (short / "munge.socket").exists(), folder)
        _until(lambda: _idle(environment) == 2, folder)
        yield {name: environment[name] for name in ("PATH", "SLURM_CONF")}
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, check=True)


def _idle(environment: dict[str, str]) -> int:
    told = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"], env=environment, capture_output=True, text=True, check=False
    )
    return told.stdout.split().count("idle")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def _until(true: Callable[[], object], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, (folder / "said.txt").read_text(encoding="utf-8")[-3000:]
        time.sleep(0.1)
