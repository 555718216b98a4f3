"""Shards and index: deterministic, readable by offset; bad pictures are named."""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import pytest

from benchmarks.chaos_data import processes_of
from fusion.data.errors import DataError, NoSpaceError
from fusion.data.sharding import workers
from fusion.data.sharding.shards import shard_source
from fusion.data.store.folders import full_disk_named, output_folder
from fusion.data.store.tars import TarWriter
from fusion.hashing import file_sha256
from tests.data.workshop import DATASET, TOKENIZER, Workshop, picture, sample, talk


def _png_of_claimed_size(width: int, height: int) -> bytes:
    """A small file that claims to be a huge picture: what a decompression bomb looks like from outside."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def _hashes(workshop: Workshop) -> dict[str, str]:
    folders = [workshop.folder / "data" / part / DATASET / "s" for part in ("shards", "index")]
    return {path.name: file_sha256(path) for folder in folders for path in sorted(folder.iterdir())}


def _add_sound(workshop: Workshop, count: int = 9) -> None:
    images = {f"{number}.png": picture(number // 2) for number in range(count)}
    records = [sample(number) for number in range(count)] + [{"conversations": talk("two and two?", "four")}]
    workshop.add("s", records, images, container="tar")


def test_tokens_are_not_counted_with_a_tokenizer_that_can_move(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    _add_sound(workshop)
    workshop.ingest("s")
    monkeypatch.setitem(TOKENIZER, "other", {"name": "some/one", "template": "phi_3"})
    told = r"test\.yaml: datasets\.shapes\.tokenizers\.other: the catalog pins no revision"
    with pytest.raises(DataError, match=told):
        workshop.shard_only("s")


def test_bad_pictures_are_rejected_with_their_own_reasons(workshop: Workshop):
    jpeg = picture(1, (200, 200), "JPEG")
    images = {
        "0.png": b"this is no picture",
        "1.png": jpeg[: len(jpeg) // 2],
        "2.png": _png_of_claimed_size(30_000, 30_000),
        "3.png": b"",
        "5.png": picture(5)[: len(picture(5)) // 2],
        "6.png": picture(6),
    }
    (workshop.published / "outside.png").write_bytes(picture(7))
    workshop.add("s", [sample(number) for number in range(8)], images)
    (workshop.published / "s-images/7.png").symlink_to(workshop.published / "outside.png")
    assert workshop.shard("s")["row"].to_list() == [6]
    assert workshop.rejects("s", "index") == {
        0: "unsupported-format",
        1: "truncated-image",
        2: "too-many-pixels",
        3: "empty-image",
        4: "missing-image",
        5: "truncated-image",
        7: "link-outside",
    }


def test_two_runs_give_equal_bytes_whatever_the_number_of_workers(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    _add_sound(workshop)
    workshop.shard("s")
    first = _hashes(workshop)
    workshop.shard("s")
    assert _hashes(workshop) == first
    monkeypatch.setattr(workers, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(workers, "_CHUNK", 2)
    data = workshop.settings.data.model_copy(update={"workers": 2})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    workshop.shard("s")
    assert _hashes(workshop) == first


def test_samples_lie_where_the_index_says(workshop: Workshop):
    _add_sound(workshop)
    for row in workshop.shard("s").iter_rows(named=True):
        data = (workshop.folder / row["shard"]).read_bytes()
        record = data[row["record_offset"] : row["record_offset"] + row["record_size"]]
        document = json.loads(record)
        assert document["id"] == row["sample_id"] and document["row"] == row["row"] and document["file"] == "s.json"
        assert hashlib.sha256(record).hexdigest() == row["sha256"]
        assert list(document) == sorted(document)
        if row["image_path"] is None:
            assert row["image_offset"] is None and row["pdq"] is None
            continue
        image = data[row["image_offset"] : row["image_offset"] + row["image_size"]]
        assert image == picture(row["row"] // 2)
        assert hashlib.sha256(image).hexdigest() == row["image_sha256"]


def test_shards_have_the_size_asked_for(workshop: Workshop):
    _add_sound(workshop)
    data = workshop.settings.data.model_copy(update={"shard_size_mb": 0.006})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    shards = workshop.shard("s")["shard"].unique(maintain_order=True).to_list()
    assert [os.path.basename(shard) for shard in shards] == [f"{number:06d}.tar" for number in range(len(shards))]
    assert len(shards) > 2
    for shard in shards:
        with tarfile.open(workshop.folder / shard) as tar:
            assert all((member.mtime, member.uid, member.gid) == (0, 0, 0) for member in tar.getmembers())


def test_long_and_foreign_member_names_survive(tmp_path: Path):
    names = ["a.png", "ordner/" + "ü" * 80 + ".png", "x" * 300]
    with TarWriter(tmp_path / "t.tar") as writer:
        offsets = [writer.add(name, name.encode()) for name in names]
    data = (tmp_path / "t.tar").read_bytes()
    assert [
        data[offset : offset + len(name.encode())].decode() for offset, name in zip(offsets, names, strict=True)
    ] == names
    with tarfile.open(tmp_path / "t.tar") as tar:
        assert tar.getnames() == names
        plain = tarfile.TarInfo("a.png")
        plain.size = 5
        assert data[:512] == plain.tobuf(tarfile.USTAR_FORMAT)


def test_a_full_disk_is_named_and_the_old_output_stays(tmp_path: Path):
    target = tmp_path / "out"
    with output_folder(target) as folder:
        (folder / "old").write_text("kept")
    full = pytest.raises(NoSpaceError, match=f"no space left on the disk that holds {target}")
    with full, output_folder(target), TarWriter(Path("/dev/full")) as writer:
        writer.add("a", bytes(1 << 20))
    assert (target / "old").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path):
    with pytest.raises(FileNotFoundError), full_disk_named(tmp_path):
        (tmp_path / "no" / "folder").write_text("x")


def test_damaged_samples_of_an_earlier_stage_are_named(workshop: Workshop):
    _add_sound(workshop)
    workshop.ingest("s")
    path = workshop.folder / "data/raw" / DATASET / "s/samples.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"samples\.parquet cannot be read .*: run `fusion ingest {DATASET} s` again"):
        shard_source(workshop.settings, workshop.catalog, dataset=DATASET, source="s", root=workshop.folder)


def test_data_stages_start_without_the_heavy_libraries():
    code = (
        "import sys, fusion.data.ingest, fusion.data.sharding.shards, fusion.data.curate, fusion.data.validate, "
        "fusion.data.benchmarks, fusion.data.sharding.tokens; "
        "from fusion.data.catalog import load_catalog; load_catalog();"
        "print([name for name in ('torch', 'transformers', 'great_expectations', 'webdataset') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


BUSY = """
import time
from fusion.data.sharding.prepare import Task
from fusion.data.sharding.workers import prepare_all

def rows():
    for number in range(400):
        yield number, None, [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
    print("started", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(prepare_all(Task("d", "s", "f", (), 1000, ()), rows(), count=100_000, workers=2))
"""


def test_workers_end_when_their_first_process_is_killed(tmp_path: Path):
    (tmp_path / "busy.py").write_text(BUSY)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(tmp_path / "busy.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        assert processes_of(process.pid) > 2
        process.kill()
    end = time.monotonic() + 20
    while processes_of(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    left = processes_of(process.pid)
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    assert not left
