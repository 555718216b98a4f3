"""The project that benchmarks/chaos_data.py interrupts: three sources made from a seed, its steps, and a reader."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
DATASET = "chaos"
TOKENIZER = "tiny"
EPOCHS, GLOBAL_BATCH, SEED = 2, 32, 7


@dataclass
class Step:
    """One command, the folders or files that it leaves, and what was seen of it."""

    name: str
    command: list[str]
    outputs: list[Path]
    seconds: float = 0.0
    before_writing: float = 0.0
    hashes: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(
        default_factory=lambda: {
            "kills": 0,
            "while_writing": 0,
            "first_process_alone": 0,
            "over_older_outputs": 0,
            "ended_before_the_kill": 0,
            "runs_to_the_end": 0,
            "halves_seen": 0,
            "workers_left": 0,
            "differences": 0,
        }
    )


def make_project(folder: Path, samples: int, seed: int, sources: int = 3) -> list[Step]:
    """A project with `samples` samples in its first source and half as many in the others; its steps in order."""
    published = folder / "published"
    (published / "pictures").mkdir(parents=True)
    shutil.copytree(ROOT / "data/catalog", folder / "data/catalog")
    shutil.copytree(ROOT / "data/tokenizers", folder / "data/tokenizers")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["data"] |= {"roots": {DATASET: str(published)}, "shard_size_mb": 1, "workers": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    makers: list[Callable[[Path, int, int], dict[str, Any]]] = [_pictures, _archive, _texts]
    entries = {}
    for number, make in enumerate(makers[:sources]):
        origin = make(published, samples if number == 0 else samples // 2, seed + number)
        entries[make.__name__.strip("_")] = {
            "origin": {"kind": "published", "revision": None, **origin},
            "sampling": "all",
            "category": "captions",
            "profile": "web" if "images" in origin else "text",
            "licence": {"declared": "CC0-1.0", "verified": "CC0-1.0"},
        }
    dataset = {
        "title": "made to be interrupted",
        "for_stage": "stage1",
        "tokenizers": {TOKENIZER: {"name": "data/tokenizers/tiny", "template": "phi_3"}},
        "sources": entries,
    }
    (folder / "data/catalog/chaos.yaml").write_text(yaml.safe_dump({"datasets": {DATASET: dataset}}), encoding="utf-8")
    return _steps(folder, list(entries))


def _steps(folder: Path, sources: list[str]) -> list[Step]:
    fusion = [sys.executable, "-c", "from fusion.cli import main; main()"]
    data = folder / "data"
    steps = [
        Step(f"ingest {name}", [*fusion, "ingest", DATASET, name], [data / "raw" / DATASET / name]) for name in sources
    ]
    for name in sources:
        outputs = [data / part / DATASET / name for part in ("shards", "index")]
        steps.append(Step(f"shard {name}", [*fusion, "shard", DATASET, name], outputs))
    steps.append(Step("curate", [*fusion, "curate", DATASET], [data / "manifests" / DATASET]))
    # So few samples are not worth processes; with them their workers have to end too.
    always = "from fusion.data.store import workers; workers.WORTH_PROCESSES = 0"
    curate = [sys.executable, "-c", f"{always}; from fusion.cli import main; main()", "curate", DATASET]
    steps.append(Step("curate, workers", curate, [data / "manifests" / DATASET]))
    log = folder / "stream/read.log"
    steps.append(Step("stream", [sys.executable, "-m", "benchmarks.chaos_data", "--read", str(log)], [log.parent]))
    return steps


def _jpeg(generator: np.random.Generator) -> bytes:
    file = io.BytesIO()
    patches = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(patches).resize((96, 80), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def _records(count: int, generator: np.random.Generator, image: bool) -> Iterator[dict[str, Any]]:
    """Captions of drawn words; one in fifty has a fault, so that there is a ledger."""
    words = [f"word{number}" for number in range(3000)]
    for number in range(count):
        caption = " ".join(words[at] for at in generator.integers(0, len(words), 20))
        question = "<image>\nwhat is this?" if image else f"what is {number}?"
        record: dict[str, Any] = {
            "id": number,
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": caption}],
        }
        if image:
            record["image"] = f"{number}.jpg" if number % 50 else f"../{number}.jpg"
        elif number % 50 == 0:
            record["conversations"].pop()
        yield record


def _pictures(published: Path, count: int, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    for number in range(count):
        (published / f"pictures/{number}.jpg").write_bytes(_jpeg(generator))
    records = list(_records(count, generator, image=True))
    (published / "pictures.json").write_text(json.dumps(records), encoding="utf-8")
    return {"file": "pictures.json", "images": ["pictures"]}


def _archive(published: Path, count: int, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    with tarfile.open(published / "archive.tar", "w") as tar:
        for number in range(count):
            data = _jpeg(generator)
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    records = list(_records(count, generator, image=True))
    (published / "archive.json").write_text(json.dumps(records), encoding="utf-8")
    return {"file": "archive.json", "images": ["archive.tar"]}


def _texts(published: Path, count: int, seed: int) -> dict[str, Any]:
    lines = (json.dumps(record) for record in _records(count, np.random.default_rng(seed), image=False))
    (published / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {"file": "texts.jsonl"}


def read_all(log: Path) -> None:
    """Reads every sample of every training step and writes down what it was; goes on where the log ends."""
    from fusion.data.stream.loader import ShardReader
    from fusion.data.stream.manifest import Manifest
    from fusion.data.stream.order import TrainingOrder

    manifest = Manifest(Path("data/manifests") / DATASET / "manifest.parquet", TOKENIZER, Path("scratch/tables"))
    draws = np.concatenate([rows["draws"] for rows in manifest.pieces()])
    order = TrainingOrder(manifest.sha256, SEED, EPOCHS, GLOBAL_BATCH, draws)
    reader = ShardReader(Path("."))
    log.parent.mkdir(exist_ok=True)
    with log.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)  # a line that a kill has cut
        file.seek(0)
        for number in range(sum(1 for _ in file), order.steps):
            digest = hashlib.sha256()
            for place in manifest.places(manifest.rows(order.step(number))):
                sample = reader.read(place)
                digest.update(sample.sample_id.encode() + json.dumps(sample.conversations).encode())
                digest.update(sample.image or b"")
            file.write(f"{number} {digest.hexdigest()}\n".encode())
            file.flush()
    reader.close()
