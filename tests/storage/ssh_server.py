"""A real SSH server on loopback: OpenSSH's, started by whoever runs the tests, with keys of its own."""

import contextlib
import getpass
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.storage.ports import free_port, wait_until_it_listens

SBIN = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"


@dataclass(frozen=True)
class SshServer:
    """A running server: the address of a folder in it, the private key that opens it, the key of another."""

    address: str
    key: Path
    wrong_key: Path


def missing() -> str | None:
    """What has to be installed; None when all is there."""
    if shutil.which("sshd", path=SBIN) is None:
        return "OpenSSH's server is not installed: `apt-get install openssh-server`"
    if importlib.util.find_spec("dvc_ssh") is None:
        return "dvc-ssh is not installed: `uv pip install -e '.[ssh]'`"
    return None


@contextlib.contextmanager
def serve(folder: Path, served: Path) -> Iterator[SshServer]:
    """Serves `served` to one key until the block ends; the server's own files are in `folder`."""
    folder.mkdir(mode=0o700)
    served.mkdir()
    for name in ("host", "client", "other"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(made, check=True)
    (folder / "authorized").write_text((folder / "client.pub").read_text())
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Root's server gives up its rights there.
    program = shutil.which("sshd", path=SBIN)
    assert program is not None
    process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.PIPE, text=True)
    try:
        wait_until_it_listens(port, process)
        address = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{served}"
        yield SshServer(address, folder / "client", folder / "other")
    finally:
        process.terminate()
        process.communicate(timeout=30)
