"""The loader reads what the manifest says, or names the sample and the shard that do not fit."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fusion.data.errors import DataError
from fusion.data.stream.errors import LoaderError, UnreadableSample
from fusion.data.stream.loader import ShardReader
from fusion.data.stream.manifest import Manifest, Place, has_picture, lengths

CONVERSATION = [{"from": "human", "value": "<image>\nwhat is this?"}, {"from": "gpt", "value": "a dot"}]
SHARD = "data/shards/set/source/000000.tar"


def write_shard(root: Path, samples: int) -> Path:
    """A shard of `samples` records (every third without a picture) and its manifest; returns the manifest's path."""
    (root / SHARD).parent.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    with tarfile.open(root / SHARD, "w") as tar:

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
            origin = {"dataset": "set", "source": "source", "file": "source.json", "row": number, "sha256": "0" * 64}
            name = {"sample_id": f"set/source/{number:08d}", **origin, "shard": SHARD}
            rows.append(name | row | {"turns": 1 + number % 2, "draws": 1, "text_tokens_tiny": 30 + number})
    pl.DataFrame(rows).write_parquet(root / "manifest.parquet", row_group_size=3)
    return root / "manifest.parquet"


def places(root: Path, samples: int) -> list[Place]:
    manifest = Manifest(write_shard(root, samples), "tiny", root / "scratch")
    return manifest.places(manifest.rows(np.arange(len(manifest))))


def test_reads_records_and_pictures_by_offset(tmp_path: Path) -> None:
    reader = ShardReader(tmp_path)
    for number, place in enumerate(places(tmp_path, 7)):
        record = reader.read(place)
        assert record.sample_id == f"set/source/{number:08d}"
        assert record.conversations == CONVERSATION
        assert record.image == (b"picture %d" % number if number % 3 else None)
    reader.close()


def test_lengths_count_text_pictures_and_latents(tmp_path: Path) -> None:
    manifest = Manifest(write_shard(tmp_path, 3), "tiny", tmp_path / "scratch")
    rows = np.concatenate(list(manifest.pieces()))
    assert lengths(rows, image_tokens=16, num_latents=4).tolist() == [30 + 4, 31 + 16 + 8, 32 + 16 + 4]
    assert has_picture(rows).tolist() == [False, True, True]


def test_origins_are_found_in_any_order(tmp_path: Path) -> None:
    manifest = Manifest(write_shard(tmp_path, 8), "tiny", tmp_path / "scratch")
    found = manifest.origins([7, 0, 4, 7])
    assert [row["row"] for row in found] == [7, 0, 4, 7]
    assert found[0]["sample_id"] == "set/source/00000007" and found[0]["file"] == "source.json"


def test_a_table_is_written_once_and_again_for_another_manifest(tmp_path: Path) -> None:
    path, scratch = write_shard(tmp_path, 3), tmp_path / "scratch"
    first = Manifest(path, "tiny", scratch)
    (table,) = scratch.glob("manifest-*-tiny")
    written = table.stat()
    assert len(Manifest(path, "tiny", scratch)) == 3
    assert table.stat().st_ino == written.st_ino
    pl.read_parquet(path).head(2).write_parquet(path)
    changed = Manifest(path, "tiny", scratch)
    assert len(changed) == 2 and len(first) == 3 and changed.sha256 != first.sha256
    table.with_name(f"{table.name}.partial").write_bytes(b"half")
    table.unlink()
    pl.read_parquet(path).write_parquet(path)
    assert len(Manifest(path, "tiny", scratch)) == 2, "what a killed writer left is written again"


def test_cut_shard_is_named(tmp_path: Path) -> None:
    place = places(tmp_path, 3)[2]
    shard = tmp_path / SHARD
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(UnreadableSample, match=r"short-shard: .*000000\.tar ends before byte"):
        ShardReader(tmp_path).read(place)


def test_overwritten_shard_is_named(tmp_path: Path) -> None:
    place = places(tmp_path, 3)[0]
    shard = tmp_path / SHARD
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(UnreadableSample, match=r"corrupt-record: no JSON record at byte \d+ of .*000000\.tar"):
        ShardReader(tmp_path).read(place)


def test_damaged_manifest_and_foreign_record_are_named(tmp_path: Path) -> None:
    place = places(tmp_path, 3)[0]
    shard, path = tmp_path / SHARD, tmp_path / "manifest.parquet"
    shard.write_bytes(shard.read_bytes().replace(b'"conversations"', b'"conversation_"'))
    with pytest.raises(UnreadableSample, match="corrupt-record: no JSON record"):
        ShardReader(tmp_path).read(place)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"manifest\.parquet cannot be read .*: run `dvc repro` again"):
        Manifest(path, "tiny", tmp_path / "scratch")


def test_missing_shard_and_manifest_say_how_to_get_them(tmp_path: Path) -> None:
    place = places(tmp_path, 3)[0]
    (tmp_path / SHARD).unlink()
    with pytest.raises(LoaderError, match="dvc checkout"):
        ShardReader(tmp_path).read(place)
    with pytest.raises(LoaderError, match="run `dvc repro`"):
        Manifest(tmp_path / "nowhere.parquet", "tiny", tmp_path / "scratch")


def test_an_empty_manifest_points_to_the_ledger(tmp_path: Path) -> None:
    path = write_shard(tmp_path, 3)
    pl.read_parquet(path).clear().write_parquet(path)
    with pytest.raises(LoaderError, match="keeps no sample: see the ledger"):
        Manifest(path, "tiny", tmp_path / "scratch")


def test_uncounted_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="text_tokens_phi35"):
        Manifest(write_shard(tmp_path, 3), "phi35", tmp_path / "scratch")
