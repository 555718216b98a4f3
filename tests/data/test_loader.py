"""The loader reads what the manifest says, or names the sample and the shard that do not fit."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fusion.data.errors import DataError
from fusion.data.stream.loader import LoaderError, Manifest, ShardReader

CONVERSATION = [{"from": "human", "value": "<image>\nwhat is this?"}, {"from": "gpt", "value": "a dot"}]


def write_shard(root: Path, samples: int) -> Path:
    """A shard of `samples` records (every third without a picture) and its manifest; returns the manifest's path."""
    (root / "shards").mkdir()
    rows: list[dict[str, Any]] = []
    with tarfile.open(root / "shards" / "000000.tar", "w") as tar:

        def add(name: str, data: bytes) -> tuple[int, int]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            offset = tar.offset + tarfile.BLOCKSIZE
            tar.addfile(info, io.BytesIO(data))
            return offset, len(data)

        for number in range(samples):
            row: dict[str, Any] = {"image_offset": None, "image_size": None}
            if number % 3:
                row["image_offset"], row["image_size"] = add(f"{number}.png", b"picture %d" % number)
            record = json.dumps({"conversations": CONVERSATION, "id": number}).encode()
            row["record_offset"], row["record_size"] = add(f"{number}.json", record)
            name = {"sample_id": f"set/source/{number}", "source": "source", "shard": "shards/000000.tar"}
            rows.append(name | row | {"turns": 1 + number % 2, "draws": 1, "text_tokens_tiny": 30 + number})
    pl.DataFrame(rows).write_parquet(root / "manifest.parquet")
    return root / "manifest.parquet"


def test_reads_records_and_pictures_by_offset(tmp_path: Path) -> None:
    manifest = Manifest(write_shard(tmp_path, 7), "tiny")
    reader = ShardReader(tmp_path)
    for number in range(len(manifest)):
        record = reader.read(manifest.row(number))
        assert record.sample_id == f"set/source/{number}"
        assert record.conversations == CONVERSATION
        assert record.image == (b"picture %d" % number if number % 3 else None)
    reader.close()


def test_lengths_count_text_pictures_and_latents(tmp_path: Path) -> None:
    manifest = Manifest(write_shard(tmp_path, 3), "tiny")
    assert manifest.lengths(image_tokens=16, num_latents=4).tolist() == [30 + 4, 31 + 16 + 8, 32 + 16 + 4]


def test_cut_shard_is_named(tmp_path: Path) -> None:
    manifest = Manifest(write_shard(tmp_path, 3), "tiny")
    shard = tmp_path / "shards" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(LoaderError, match=r"set/source/2.*000000\.tar ends before byte"):
        ShardReader(tmp_path).read(manifest.row(2))


def test_overwritten_shard_is_named(tmp_path: Path) -> None:
    manifest = Manifest(write_shard(tmp_path, 3), "tiny")
    shard = tmp_path / "shards" / "000000.tar"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(LoaderError, match="set/source/0: no JSON record"):
        ShardReader(tmp_path).read(manifest.row(0))


def test_damaged_manifest_and_foreign_record_are_named(tmp_path: Path) -> None:
    path = write_shard(tmp_path, 3)
    manifest = Manifest(path, "tiny")
    shard = tmp_path / "shards" / "000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"conversations"', b'"conversation_"'))
    with pytest.raises(LoaderError, match="set/source/0: no JSON record"):
        ShardReader(tmp_path).read(manifest.row(0))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"manifest\.parquet cannot be read .*: run `dvc repro` again"):
        Manifest(path, "tiny")


def test_missing_shard_and_manifest_say_how_to_get_them(tmp_path: Path) -> None:
    manifest = Manifest(write_shard(tmp_path, 3), "tiny")
    (tmp_path / "shards" / "000000.tar").unlink()
    with pytest.raises(LoaderError, match="dvc checkout"):
        ShardReader(tmp_path).read(manifest.row(0))
    with pytest.raises(LoaderError, match="run `dvc repro`"):
        Manifest(tmp_path / "nowhere.parquet", "tiny")


def test_uncounted_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="text_tokens_phi35"):
        Manifest(write_shard(tmp_path, 3), "phi35")
