"""Remembered hashes: a file that is as it was is not read again; one that was changed in any way is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.hashing import file_sha256
from fusion.lineage import remembered
from fusion.lineage.remembered import MEMORY, RememberingHasher


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really read; files of four bytes are large, and settle at once."""
    names: list[str] = []

    def hashed(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(remembered, "file_sha256", hashed)
    monkeypatch.setattr(remembered, "LARGE", 4)
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", -60.0)
    return names


def digest(root: Path, path: str = "data") -> str:
    hasher = RememberingHasher(root)
    found = hasher.sha256(path)
    hasher.remember()
    return found


def make(root: Path) -> Path:
    (root / "data").mkdir()
    (root / "data/large").write_bytes(b"0000")
    (root / "data/small").write_bytes(b"0")
    time.sleep(0.02)  # longer than a tick of the file system's clock: these tests settle files at once
    return root / "data/large"


def test_a_large_file_is_read_once_and_a_small_one_each_time(tmp_path: Path, read: list[str]) -> None:
    make(tmp_path)
    first = digest(tmp_path)
    assert read == ["large"] and list(json.loads((tmp_path / MEMORY).read_text())) == ["data/large"]
    assert digest(tmp_path) == first and read == ["large"]
    (tmp_path / "data/small").write_bytes(b"1")
    assert digest(tmp_path) != first and read == ["large"]


def test_a_file_of_the_same_size_and_time_is_read_again(tmp_path: Path, read: list[str]) -> None:
    path = make(tmp_path)
    first, facts = digest(tmp_path), path.stat()
    path.write_bytes(b"1111")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    assert digest(tmp_path) != first
    other = path.with_name("other")
    other.write_bytes(b"2222")
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    os.replace(other, path)
    assert file_sha256(path) in json.dumps([digest(tmp_path), json.loads((tmp_path / MEMORY).read_text())])


def test_a_file_that_was_changed_just_now_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could be changed again within one tick of the clock, and would have the same size and times."""
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", 10.0)
    make(tmp_path)
    digest(tmp_path)
    assert not (tmp_path / MEMORY).exists()
    digest(tmp_path)
    assert read == ["large", "large"]
    now = time.time()
    monkeypatch.setattr(remembered.time, "time", lambda: now + 11)
    digest(tmp_path)
    digest(tmp_path)
    assert read == ["large"] * 3


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)

    def slowly(one: Path) -> str:
        found = file_sha256(one)
        path.write_bytes(b"1111")
        return found

    monkeypatch.setattr(remembered, "file_sha256", slowly)
    digest(tmp_path)
    assert not (tmp_path / MEMORY).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data/large": 3}', '{"data/large": []}', '{"data/large": ["x"]}'])
def test_a_torn_memory_is_none(tmp_path: Path, read: list[str], text: str) -> None:
    make(tmp_path)
    expected = digest(tmp_path)
    (tmp_path / MEMORY).write_text(text)
    assert digest(tmp_path) == expected and read == ["large", "large"]


def test_what_is_gone_is_forgotten_and_what_another_stage_learnt_is_kept(tmp_path: Path, read: list[str]) -> None:
    path = make(tmp_path)
    (tmp_path / "data/gone").write_bytes(b"0000")
    (tmp_path / "elsewhere").write_bytes(b"0000")
    one, other = RememberingHasher(tmp_path), RememberingHasher(tmp_path)
    one.sha256("data")
    other.sha256("elsewhere")
    one.remember()
    (tmp_path / "data/gone").unlink()
    other.remember()
    assert sorted(json.loads((tmp_path / MEMORY).read_text())) == ["data/large", "elsewhere"] and path.exists()


@given(contents=st.lists(st.binary(min_size=4, max_size=5), min_size=1, max_size=6), in_place=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_whatever_is_written_the_hash_is_that_of_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, read: list[str], contents: list[bytes], in_place: bool
) -> None:
    root = tmp_path_factory.mktemp("root")
    path = root / "file"
    for content in contents:
        if in_place or not path.exists():
            path.write_bytes(content)
        else:
            path.with_name("aside").write_bytes(content)
            os.replace(path.with_name("aside"), path)
        time.sleep(0.02)
        assert digest(root, "file") == file_sha256(path) == digest(root, "file")
