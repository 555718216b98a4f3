"""Buffers that nobody uses are removed; those in use, young ones and other files stay."""

import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusion import shared_memory
from fusion.shared_memory import PREFIX, remove_unused_buffers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (f"{PREFIX}{os.getuid()}_127.0.0.1_1_0", f"{PREFIX}{os.getuid()}_127.0.0.1_2_0", "other"):
        (tmp_path / name).write_bytes(bytes(4096))
        long_ago = time.time() - 60
        os.utime(tmp_path / name, (long_ago, long_ago))
    return tmp_path


def test_only_unused_buffers_are_removed(folder: Path) -> None:
    used = folder / f"{PREFIX}{os.getuid()}_127.0.0.1_1_0"
    with used.open("r+b") as stream, mmap.mmap(stream.fileno(), 0):
        assert remove_unused_buffers(folder) == 4096
        assert {path.name for path in folder.iterdir()} == {used.name, "other"}
    assert remove_unused_buffers(folder) == 4096
    assert [path.name for path in folder.iterdir()] == ["other"]


def test_young_buffers_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_YOUNG_SECONDS", 3600.0)
    assert remove_unused_buffers(folder) == 0


def test_no_such_folder(tmp_path: Path) -> None:
    assert remove_unused_buffers(tmp_path / "nowhere") == 0


def test_two_that_tidy_up_at_once_count_every_byte_once(tmp_path: Path) -> None:
    """As two nodes on one machine do, which end together."""
    for number in range(200):
        path = tmp_path / f"{PREFIX}{os.getuid()}_127.0.0.1_{number}_0"
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    with ThreadPoolExecutor(4) as pool:
        freed = list(pool.map(remove_unused_buffers, [tmp_path] * 4))
    assert sum(freed) == 200
    assert not list(tmp_path.iterdir())
