"""Real shards of generated pictures and texts, and a manifest of any size over them in the shape that curation writes.

The rows of a large manifest are as many different samples; their bytes are those of a few hundred, again and again, so
that the first batch can be read without ten million pictures.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fusion.data.catalog import load_catalog
from fusion.data.store.sample import Message
from fusion.data.store.tars import TarWriter

ROOT = Path(__file__).parents[1]
DATASET = "fusion-pretrain-10m"
TOKENIZER = "phi35"
SIZES = ((640, 480), (480, 640), (640, 427), (500, 375), (1024, 683), (336, 336))
WORDS = [
    "a",
    "the",
    "small",
    "large",
    "red",
    "old",
    "street",
    "table",
    "dog",
    "tree",
    "window",
    "with",
    "near",
    "under",
]
_GROUP = 100_000

Pool = dict[str, npt.NDArray[Any]]


def photograph(generator: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A JPEG with coarse shapes, fine ones and grain: 0.1 to 0.2 bytes a pixel, as photographs of that quality have."""
    width, height = size
    layers = np.zeros((height, width, 3), dtype=np.float32)
    for cells, strength in ((4, 70), (16, 35), (64, 14)):
        noise = generator.normal(128, strength, (cells, cells, 3)).clip(0, 255).astype(np.uint8)
        layers += np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), dtype=np.float32) - 128
    layers += generator.normal(128, 4, layers.shape)
    buffer = io.BytesIO()
    Image.fromarray(layers.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def write_pool(
    root: Path, pictures: int, texts: int, count_tokens: Callable[[list[Message], bool], Any], seed: int = 0
) -> Pool:
    """Writes one shard of samples with and without a picture, and the pictures as files into `root/pictures`."""
    generator = np.random.default_rng(seed)
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    shard = root / "data/shards" / DATASET / "pool/000000.tar"
    shard.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with TarWriter(shard) as tar:
        for number in range(pictures + texts):
            image = (-1, 0)
            if number < pictures:
                data = photograph(generator, SIZES[number % len(SIZES)])
                (root / "pictures" / f"{number:06d}.jpg").write_bytes(data)
                image = (tar.add(f"{number:06d}.jpg", data), len(data))
            answer = " ".join(generator.choice(WORDS, int(generator.integers(20, 220))))
            question = "<image>\nDescribe this picture." if number < pictures else "Tell me something."
            talk: list[Message] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            record = json.dumps({"conversations": talk}).encode()
            rows.append(
                (tar.add(f"{number:06d}.json", record), len(record), *image, *count_tokens(talk, image[0] >= 0))
            )
    names = ("record_offset", "record_size", "image_offset", "image_size", "tokens", "turns", "instruct")
    return dict(zip(names, np.array(rows, dtype=np.int64).T, strict=True))


def write_manifest(path: Path, rows: int, pool: Pool, seed: int = 0) -> int:
    """Writes `rows` rows, sources in their published proportions one after the other; returns the file's bytes."""
    entry = load_catalog(ROOT / "data/catalog").dataset(DATASET)
    counts = np.array([source.count or 0 for source in entry.sources.values()], dtype=np.float64)
    ends = np.round(np.cumsum(counts) / counts.sum() * rows).astype(np.int64)
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, start = None, 0
    for (name, source), end in zip(entry.sources.items(), ends.tolist(), strict=True):
        for first in range(start, end, _GROUP):
            count = min(_GROUP, end - first)
            table = _table(name, source.category, first - start, count, pool, generator)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=3)
            writer.write_table(table)
        start = end
    assert writer is not None
    writer.close()
    return path.stat().st_size


def _table(source: str, category: str, first: int, count: int, pool: Pool, generator: np.random.Generator) -> pa.Table:
    """Rows `first` on of a source."""
    numbers = np.arange(first, first + count)
    drawn = {name: values[numbers % len(values)] for name, values in pool.items()}
    blind = drawn["image_offset"] < 0
    columns: dict[str, Any] = {
        "sample_id": [f"{DATASET}/{source}/{number:08d}" for number in numbers.tolist()],
        "dataset": _constant(DATASET, count),
        "source": _constant(source, count),
        "file": _constant(f"{source}.json", count),
        "row": numbers,
        "shard": _constant(f"data/shards/{DATASET}/pool/000000.tar", count),
        "record_offset": drawn["record_offset"],
        "record_size": drawn["record_size"],
        "image_offset": pa.array(drawn["image_offset"], mask=blind),
        "image_size": pa.array(drawn["image_size"], mask=blind),
        "image_path": [f"{source}/{number // 1000:05d}/{number:09d}.jpg" for number in numbers.tolist()],
        "sha256": _hex(generator, count),
        "text_sha256": _hex(generator, count),
        "image_sha256": _hex(generator, count),
        "pdq": _binary(generator, count, 32),
        "pdq_quality": generator.integers(50, 101, count, dtype=np.int32),
        "width": generator.integers(200, 1200, count, dtype=np.int32),
        "height": generator.integers(200, 1200, count, dtype=np.int32),
        "contrast": generator.uniform(20, 90, count).astype(np.float32),
        "colours": _binary(generator, count, 48),
        "turns": drawn["turns"].astype(np.int32),
        f"text_tokens_{TOKENIZER}": drawn["tokens"].astype(np.int32),
        f"instruct_tokens_{TOKENIZER}": drawn["instruct"].astype(np.int32),
        "answer_chars": generator.integers(40, 1500, count, dtype=np.int32),
        "category": _constant(category, count),
        "licence_declared": _constant("CC-BY-4.0", count),
        "licence_verified": pa.nulls(count, pa.string()),
        "draws": np.ones(count, dtype=np.int32),
    }
    return pa.table(columns)


def _constant(text: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), [text]).cast(pa.string())


def _hex(generator: np.random.Generator, count: int) -> pa.Array:
    """Texts of 64 hexadecimal digits."""
    offsets = np.arange(count + 1, dtype=np.int32) * 64
    data = generator.bytes(32 * count).hex().encode()
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data))


def _binary(generator: np.random.Generator, count: int, size: int) -> pa.Array:
    offsets = np.arange(count + 1, dtype=np.int32) * size
    data = [pa.py_buffer(offsets), pa.py_buffer(generator.bytes(size * count))]
    return pa.Array.from_buffers(pa.binary(), count, [None, *data])
