"""Shards at fsspec addresses: the same bytes as on the disk, within the bound of the cache, for several processes."""

import multiprocessing
import os
import signal
import time
import traceback
import uuid
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.data.stream.errors import LoaderError
from fusion.data.stream.loader import Remote, ShardReader
from fusion.data.stream.manifest import Manifest
from fusion.data.stream.remote import ATTEMPTS, RemoteShards
from tests.data.test_loader import SHARD, write_shard

BYTES = np.random.default_rng(0).bytes(100_000)
PIECE, LIMIT = 4096, 20_000


def stored(data: bytes = BYTES) -> str:
    address = f"memory://{uuid.uuid4().hex}/shard.tar"
    with fsspec.open(address, "wb") as file:
        file.write(data)
    return address


def kept(cache: Path) -> int:
    total = 0
    for path in (cache / "pieces").iterdir():
        with suppress(FileNotFoundError):  # Another process has removed it meanwhile.
            total += path.stat().st_size
    return total


@pytest.mark.parametrize("scheme", ["memory://", "file://"])
def test_samples_are_the_same_as_from_the_disk(tmp_path: Path, scheme: str) -> None:
    manifest = Manifest(write_shard(tmp_path, 9), "tiny", tmp_path / "scratch")
    where = f"memory://{uuid.uuid4().hex}" if scheme == "memory://" else f"file://{tmp_path}/elsewhere"
    with fsspec.open(f"{where}/source/000000.tar", "wb", auto_mkdir=True) as file:
        file.write((tmp_path / SHARD).read_bytes())
    local = ShardReader(tmp_path)
    remote = ShardReader(tmp_path / "nothing", Remote({"set": where}, tmp_path / "cache", 2**30))
    for place in manifest.places(manifest.rows(np.arange(9))):
        assert remote.read(place) == local.read(place)


@given(ranges=st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 15_000)), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_ranges_in_any_order_within_the_bound(
    tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[int, int]]
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    shards, address = RemoteShards(cache, LIMIT, PIECE), stored()
    for offset, size in ranges:
        assert shards.read(address, offset, size) == BYTES[offset : offset + size]
        assert kept(cache) <= LIMIT


def test_what_was_read_longest_ago_leaves_first(tmp_path: Path) -> None:
    shards, address = RemoteShards(tmp_path, 3 * PIECE, PIECE), stored()

    def pieces() -> set[int]:
        return {int(path.name[-6:]) for path in (tmp_path / "pieces").iterdir()}

    for number in (0, 1, 2, 0, 3):
        shards.read(address, number * PIECE, 10)
        time.sleep(0.01)
    assert pieces() == {0, 2, 3}


def test_a_replaced_shard_and_a_cut_piece_are_fetched_again(tmp_path: Path) -> None:
    address = stored()
    assert RemoteShards(tmp_path, LIMIT, PIECE).read(address, 0, 100) == BYTES[:100]
    (piece,) = (tmp_path / "pieces").iterdir()
    piece.write_bytes(b"")
    assert RemoteShards(tmp_path, LIMIT, PIECE).read(address, 0, 100) == BYTES[:100]
    with fsspec.open(address, "wb") as file:
        file.write(BYTES[::-1])
    assert RemoteShards(tmp_path, LIMIT, PIECE).read(address, 0, 100) == BYTES[::-1][:100]


def test_what_cannot_be_had_is_named(tmp_path: Path) -> None:
    shards = RemoteShards(tmp_path, LIMIT, PIECE)
    with pytest.raises(LoaderError, match=r"memory://nowhere/shard\.tar is missing"):
        shards.read("memory://nowhere/shard.tar", 0, 1)
    with pytest.raises(LoaderError, match="cannot be opened"):
        shards.read("nothing-like-it://bucket/shard.tar", 0, 1)
    with pytest.raises(LoaderError, match="cache_gb"):
        RemoteShards(tmp_path, 10, PIECE)


class HungUp(Exception):
    """What libraries of stores raise is often no OSError."""


class Flaky(MemoryFileSystem):
    """A store that fails now and then."""

    protocol = "flaky"
    failures = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("flaky://", "memory://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: object) -> bytes:
        if Flaky.failures:
            Flaky.failures -= 1
            raise HungUp("the store hung up")
        return bytes(super().cat_file(path, start, end, **kwargs))


def test_a_store_that_fails_is_asked_again_but_not_for_ever(tmp_path: Path) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    address = stored().replace("memory://", "flaky://")
    shards = RemoteShards(tmp_path, LIMIT, PIECE, wait=0.001)
    Flaky.failures = ATTEMPTS - 1
    assert shards.read(address, 5, 10) == BYTES[5:15]
    Flaky.failures = ATTEMPTS
    with pytest.raises(LoaderError, match="cannot be fetched in 5 attempts: HungUp: the store hung up"):
        shards.read(address, 50_000, 10)


def _reader(told: Path, address: str, cache: str, seed: int, seconds: float) -> None:
    """Reads in a process of its own, and writes down why it ended."""
    told.with_name(f"{told.name}-reading").touch()
    try:
        _read_at_random(address, cache, seed, seconds)
    except BaseException:
        told.write_text(traceback.format_exc(), encoding="utf-8")
        raise


def _read_at_random(address: str, cache: str, seed: int, seconds: float) -> None:
    shards, generator = RemoteShards(Path(cache), LIMIT, PIECE), np.random.default_rng(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        offset, size = int(generator.integers(0, 100_000)), int(generator.integers(1, 9000))
        assert shards.read(address, offset, size) == BYTES[offset : offset + size]


def test_processes_share_the_folder_and_may_be_killed(tmp_path: Path) -> None:
    """Readers of one folder get the right bytes within its bound, while others are killed in the middle of writing."""
    (tmp_path / "shard.tar").write_bytes(BYTES)
    address, cache = f"file://{tmp_path}/shard.tar", tmp_path / "cache"
    # A clean process forks them: a test process with threads of its own may leave a fork in no state to end well.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def wait_for(path: Path) -> None:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline, f"no {path.name}"
            time.sleep(0.01)

    def start(seed: int, seconds: float) -> multiprocessing.Process:
        process = context.Process(target=_reader, args=(tmp_path / f"told-{seed}", address, str(cache), seed, seconds))
        process.start()
        return process  # type: ignore[return-value]

    steady = [start(seed, 4.0) for seed in range(2)]
    wait_for(tmp_path / "told-0-reading")
    for seed in range(15):
        victim = start(100 + seed, 60)
        wait_for(tmp_path / f"told-{100 + seed}-reading")
        time.sleep(0.05 + 0.01 * (seed % 7))
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        assert kept(cache) <= LIMIT + PIECE, "a killed writer leaves one piece that the next one writes over"
    for seed, process in enumerate(steady):
        process.join()
        told = tmp_path / f"told-{seed}"
        assert process.exitcode == 0, told.read_text(encoding="utf-8") if told.is_file() else "it told nothing"
    _read_at_random(address, str(cache), 7, 0.2)
    assert kept(cache) <= LIMIT
