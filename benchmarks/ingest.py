"""Ingest at the published sets' size: rows a second on one core and peak memory, of files of any form and size.

    python -m benchmarks.ingest [--rows 2000000] [--members 1000000] [--folder DIR] [--no-result]

Writes an annotation file in each of the published forms (an array with a record a line, an indented array, JSON lines),
made up with the lengths of the stages: short captions, long ones, conversations. Each is ingested by a process of its
own, bound to one core; so is the list of the members of a tar and of a zip archive. The limits: 25,000 rows/s on one
core, 1 GB of memory whatever the file's size.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROWS_PER_SECOND, MEMORY_BYTES = 25_000, 1_000_000_000
FORMS, KINDS = ("array", "indented", "lines"), ("tar", "zip")
DATASET, SOURCE = "made-up", "s"
_WORDS = 20_000


def records(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Made-up records: 21% short captions, 69% long ones, 10% conversations of three turns; 1.1 kB on average."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(_WORDS)]
    for number in range(count):
        kind = chance.random()
        if kind < 0.21:
            turns = [(8, 12)]
        elif kind < 0.9:
            turns = [(12, chance.randint(60, 260))]
        else:
            turns = [(20, 60)] * 3
        talk = []
        for turn, (asked, answered) in enumerate(turns):
            question = " ".join(chance.choices(words, k=asked))
            answer = " ".join(chance.choices(words, k=answered))
            talk.append({"from": "human", "value": question if turn else f"<image>\n{question}"})
            talk.append({"from": "gpt", "value": f'{answer} "é"\n' if number % 3 == 0 else answer})
        yield {"id": f"{number:09d}", "image": f"{number // 10000:05d}/{number:09d}.jpg", "conversations": talk}


def write_annotations(path: Path, form: str, rows: int) -> None:
    """An annotation file in one of `FORMS`."""
    with path.open("w", encoding="utf-8") as file:
        if form == "lines":
            file.writelines(json.dumps(record) + "\n" for record in records(rows))
            return
        for number, record in enumerate(records(rows)):
            file.write((",\n" if number else "[\n") + json.dumps(record, indent=2 if form == "indented" else None))
        file.write("\n]\n")


def ingest_file(path: Path) -> dict[str, Any]:
    """Ingests one file in this process: rows, seconds, peak memory."""
    from fusion.data.catalog import load_catalog
    from fusion.data.ingest import ingest_source
    from fusion.settings import load_settings

    root = path.parent / f"{path.name}.project"
    (root / "data/catalog").mkdir(parents=True)
    origin = {"kind": "published", "revision": None, "file": path.name, "images": ["images"]}
    source = {"origin": origin, "sampling": "all", "category": "captions", "profile": "web"}
    source["licence"] = {"declared": "MIT", "verified": "MIT"}
    dataset = {
        "title": "made up",
        "for_stage": "stage1",
        "tokenizers": {"tiny": {"name": "data/tokenizers/tiny", "template": "phi_3"}},
        "sources": {SOURCE: source},
    }
    (path.parent / "images").mkdir(exist_ok=True)
    (path.parent / "images" / "not-a-picture-of-these-rows").touch()  # a place where pictures can lie
    (root / "data/catalog/made-up.yaml").write_text(json.dumps({"datasets": {DATASET: dataset}}))
    settings = load_settings()
    roots = settings.data.model_copy(update={"roots": {DATASET: str(path.parent)}})
    settings = settings.model_copy(update={"data": roots})
    catalog = load_catalog(root / "data/catalog")
    start, worked = time.perf_counter(), time.process_time()
    folder = ingest_source(settings, catalog, dataset=DATASET, source=SOURCE, root=root)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(folder / "samples.parquet").metadata.num_rows
    rates = {"rows_per_second": round(rows / seconds), "rows_per_processor_second": round(rows / worked)}
    return {"bytes": path.stat().st_size, "rows": rows, **rates, **_usage(seconds)}


def list_archive(path: Path) -> dict[str, Any]:
    """Lists the members of one archive in this process."""
    import numpy as np

    from fusion.data.store.images import write_members

    start = time.perf_counter()
    table = io.BytesIO()
    write_members([path], table, path.name)
    seconds = time.perf_counter() - start
    table.seek(0)
    members = np.load(table).shape[1]
    return {"members": members, "members_per_second": round(members / seconds), **_usage(seconds)}


def _usage(seconds: float) -> dict[str, Any]:
    # Not getrusage: what it says of a new process begins with the size of the one that has started it.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return {"seconds": round(seconds, 1), "peak_memory_mb": round(int(line.split()[1]) * 1024 / 1e6)}


def _write_archive(path: Path, members: int) -> None:
    names = (f"{number // 10000:05d}/{number:09d}.jpg" for number in range(members))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x" * 400)
        return
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 400
            tar.addfile(info, io.BytesIO(b"x" * 400))
            tar.members = []  # type: ignore[attr-defined]


def _alone(function: str, path: Path) -> dict[str, Any]:
    """What `function` of this file says of `path`, in a process of its own on one core."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--alone", function, str(path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(told)
    return found


def measure(
    folder: Path, rows: int, members: int, forms: Iterable[str] = FORMS, kinds: Iterable[str] = KINDS
) -> dict[str, Any]:
    """All measurements, with files written into `folder`."""
    result: dict[str, Any] = {"limits": {"rows_per_second": ROWS_PER_SECOND, "memory_bytes": MEMORY_BYTES}}
    for form in forms:
        path = folder / f"{form}.json"
        write_annotations(path, form, rows)
        result[form] = _alone("ingest_file", path)
        path.unlink()
        print(form, result[form], flush=True)
    for kind in kinds:
        path = folder / f"archive.{kind}"
        _write_archive(path, members)
        result[kind] = _alone("list_archive", path)
        path.unlink()
        print(kind, result[kind], flush=True)
    result["met"] = all(
        result[form]["rows_per_second"] >= ROWS_PER_SECOND and result[form]["peak_memory_mb"] * 1e6 <= MEMORY_BYTES
        for form in forms
    )
    return result


def main() -> None:
    """Measures and writes benchmarks/results/ingest.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-result", action="store_true")
    parser.add_argument("--alone", nargs=2, metavar=("FUNCTION", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        function = {"ingest_file": ingest_file, "list_archive": list_archive}[options.alone[0]]
        print(json.dumps(function(Path(options.alone[1]))))
        return
    from benchmarks.report import surroundings, write_result

    about = surroundings()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = {**measure(Path(folder), options.rows, options.members), "surroundings": about}
    if not options.no_result:
        print(write_result("ingest", result))
    sys.exit(0 if result["met"] else 1)


if __name__ == "__main__":
    main()
