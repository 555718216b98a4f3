"""The same text rules and MinHash on the same captions: fusion's curation against Data-Juicer.

    python -m benchmarks.curate_juicer [--rows 200000] [--environment scratch/juicer] [--rounds 3] [--output FILE]

Data-Juicer 1.6.1 runs with `turbo: true` and two processes, in an environment of its own that is made at the first run;
the packages that it would install by itself are installed there before, and its own installing is refused. Both sides
read the captions as JSON, apply bounds of length, of repetition and of signs, drop equal texts and then near ones (word
3-grams, 16 bands of 8 hashes), and write what is left. Fusion's time is that of ingest, of an index with the sums of
the texts, and of the whole curation stage with its processes; Data-Juicer's starts after its imports.

The captions are random words, as long as real ones, of which a known number are too short, too long, repetitive, made
of signs, equal to an earlier one, or equal but for one word. The two sides' rows are compared one by one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.made_up import SEED, texts
from fusion.data.catalog import Catalog
from fusion.data.curate import curate_dataset
from fusion.data.ingest import ingest_source
from fusion.data.sharding.shards import index_schema
from fusion.data.store.ledger import write_ledger
from fusion.data.store.sample import SourceInfo
from fusion.settings import Settings, load_settings

DATASET, SOURCE = "captions", "captions"
BLOCKS = ["text", "exact-duplicates", "near-duplicates"]
PACKAGES = ["py-data-juicer==1.6.1", "aiohttp", "ray", "scipy", "torch==2.13.0"]
PROCESS = [
    {"text_length_filter": {"min_len": 3, "max_len": 20_000}},
    {"word_repetition_filter": {"rep_len": 10, "max_ratio": 0.5}},
    {"special_characters_filter": {"max_ratio": 0.5}},
    {"document_deduplicator": {}},
    {
        "document_minhash_deduplicator": {
            "tokenization": "space",
            "window_size": 3,
            "lowercase": True,
            "jaccard_threshold": 0.85,
            "num_permutations": 128,
            "num_bands": 16,
            "num_rows_per_band": 8,
        }
    },
]
_FEWEST_WORDS = 60


def captions(rows: int) -> tuple[list[str], set[int]]:
    """`rows` captions of 10 to 400 words, 5% of them with a defect each; and the rows without one."""
    generator = np.random.default_rng(SEED)
    found = texts(generator, generator.lognormal(4.3, 0.7, rows).round().clip(10, 400).astype(int))
    kinds = generator.choice(7, rows, p=[0.95, 0.002, 0.0005, 0.002, 0.002, 0.0135, 0.03]).tolist()
    kinds[0] = 0
    clean = [0]
    for row, kind in enumerate(kinds):
        earlier = found[clean[int(generator.integers(len(clean)))]]
        if kind == 1:
            found[row] = "ok"
        elif kind == 2:
            found[row] = f"{row} {' '.join([found[row]] * 40)} ".ljust(20_001, "z")
        elif kind == 3:
            found[row] = " ".join(["again"] * (20 + row % 50)) + f" {row}"
        elif kind == 4:
            found[row] = f"{row} !!! ??? *** !!!"
        elif kind == 5:
            found[row] = earlier
        elif kind == 6 and (words := earlier.split(" "))[_FEWEST_WORDS:]:
            words[int(generator.integers(len(words)))] = f"row{row}"
            found[row] = " ".join(words)
        else:
            clean.append(row)
    return found, set(clean)


def fusion_side(rows: list[str], folder: Path) -> tuple[float, set[int]]:
    """Seconds, and the rows that are left."""
    settings, catalog = _inputs(folder)
    records = (
        {"conversations": [{"from": "human", "value": "Describe it."}, {"from": "gpt", "value": text}]} for text in rows
    )
    (folder / "published").mkdir(parents=True)
    with (folder / "published/captions.json").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    start = time.perf_counter()
    ingest_source(settings, catalog, DATASET, SOURCE, folder)
    _write_index(folder)
    curate_dataset(settings, catalog, DATASET, folder)
    seconds = time.perf_counter() - start
    kept = pl.read_parquet(folder / "data/manifests" / DATASET / "manifest.parquet", columns=["row"])["row"]
    return seconds, set(kept.to_list())


def _inputs(folder: Path) -> tuple[Settings, Catalog]:
    settings = load_settings()
    profile = settings.curation.profiles["web"].model_copy(
        update={"min_answer_chars": 3, "useless_texts": True, "pii": False, "contamination_words": None}
    )
    data = settings.data.model_copy(update={"roots": {DATASET: str(folder / "published")}})
    curation = settings.curation.model_copy(update={"profiles": {"captions": profile}, "blocks": BLOCKS})
    source = {
        "origin": {"kind": "published", "revision": None, "file": "captions.json"},
        "sampling": "all",
        "category": "captions",
        "profile": "captions",
        "licence": {"declared": None},
    }
    dataset = {
        "file": "benchmarks/curate_juicer.py",
        "title": "captions",
        "for_stage": "stage1",
        "tokenizers": {},
        "sources": {SOURCE: source},
    }
    return settings.model_copy(update={"data": data, "curation": curation}), Catalog.model_validate(
        {"datasets": {DATASET: dataset}}
    )


def _write_index(folder: Path) -> None:
    """What curation needs of the index of texts without pictures: rows, ids and sums of the texts."""
    raw = pq.ParquetFile(folder / "data/raw" / DATASET / SOURCE / "samples.parquet")
    index = folder / "data/index" / DATASET / SOURCE
    index.mkdir(parents=True)
    schema = index_schema([])
    with pq.ParquetWriter(index / "index.parquet", schema, compression="zstd", store_schema=False) as writer:
        for batch in raw.iter_batches(20_000, columns=["row", "conversations"]):
            rows = batch.to_pylist()
            columns: dict[str, list[Any]] = {
                "row": [row["row"] for row in rows],
                "sample_id": [SourceInfo(DATASET, SOURCE, "captions.json", row["row"]).sample_id for row in rows],
                "source": [SOURCE] * len(rows),
                "category": ["captions"] * len(rows),
                "text_sha256": [hashlib.sha256(row["conversations"][1]["value"].encode()).hexdigest() for row in rows],
            }
            table = {name: columns.get(name, [None] * len(rows)) for name in schema.names}
            writer.write_table(pa.table(table, schema=schema))
    write_ledger([], SOURCE, index / "rejects.parquet")


def juicer_side(rows: list[str], folder: Path, python: Path) -> tuple[float, set[int]]:
    """Seconds, and the rows that are left."""
    folder.mkdir(parents=True)
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"row": row, "text": text}) + "\n" for row, text in enumerate(rows))
    configuration = {
        "project_name": "captions",
        "dataset_path": str(folder.resolve() / "captions.jsonl"),
        "export_path": str(folder.resolve() / "out/kept.jsonl"),
        "np": 2,
        "turbo": True,
        "use_cache": False,
        "open_tracer": False,
        "process": PROCESS,
    }
    (folder / "captions.json").write_text(json.dumps(configuration), encoding="utf-8")
    # Nothing of its caches is left over from an earlier round.
    environment = {**os.environ, "HF_HOME": str(folder.resolve() / "hf"), "DATA_JUICER_CACHE_HOME": str(folder / "dj")}
    script = Path(__file__).with_name("juicer_side.py")
    command = [python, script, folder / "captions.json", folder / "seconds.json"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ran.returncode or not (folder / "seconds.json").exists():
        raise SystemExit(f"Data-Juicer failed:\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}")
    seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    with (folder / "out/kept.jsonl").open(encoding="utf-8") as file:
        return float(seconds), {json.loads(line)["row"] for line in file}


def make_environment(folder: Path) -> Path:
    """The Python of Data-Juicer's environment, made at first use."""
    python = folder / "bin/python"
    if not (folder / ".complete").exists():
        uv = Path(sys.executable).with_name("uv")  # `make env` puts it there
        subprocess.run([uv, "venv", "--clear", "--python", sys.executable, folder], check=True)
        links = subprocess.run(["pip", "config", "get", "global.find-links"], capture_output=True, text=True)
        found = ["--find-links", links.stdout.strip()] if links.stdout.strip() else []
        subprocess.run([uv, "pip", "install", "--python", python, *found, *PACKAGES], check=True)
        (folder / ".complete").touch()
    return python


def compare(rows: int, python: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Both sides in turns; medians of the rounds."""
    made, clean = captions(rows)
    seconds: dict[str, list[float]] = {"fusion": [], "data-juicer": []}
    for _ in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        ours, mine = fusion_side(made, folder / "fusion")
        theirs, other = juicer_side(made, folder / "juicer", python)
        seconds["fusion"].append(ours)
        seconds["data-juicer"].append(theirs)
        print(f"fusion {ours:.1f} s, Data-Juicer {theirs:.1f} s", flush=True)
    shutil.rmtree(folder)
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    return {
        "rows": rows,
        "seconds": {name: round(statistics.median(taken), 2) for name, taken in seconds.items()},
        "rows_a_second": {name: round(rows / statistics.median(taken)) for name, taken in seconds.items()},
        "times_faster": round(statistics.median(ratios), 2),
        "left": {"fusion": len(mine), "data-juicer": len(other), "both": len(mine & other), "made": len(clean)},
        "only_fusion_keeps": sorted(mine - other)[:20],
        "only_data_juicer_keeps": sorted(other - mine)[:20],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--environment", type=Path, default=Path("scratch/juicer"))
    parser.add_argument("--folder", type=Path, default=Path("scratch/curate_juicer"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    from benchmarks.report import surroundings  # takes in torch, which neither side needs

    python = make_environment(arguments.environment)
    report = {"machine": surroundings(), **compare(arguments.rows, python, arguments.folder, arguments.rounds)}
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
