"""`fusion trace` and `fusion lineage` over manifests of ten million rows: `python -m benchmarks.trace_10m [--rows N]`.

The manifest is one of `benchmarks/manifests.py`, with the records, the summary and the verdict of a training stage
beside it. Each question is asked by a process of its own, as a person would; peak memory is that of the process. Its
CPU time stands beside the time on the clock: where they differ much, the machine had other work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.manifests import DATASET, ROOT, write_manifest
from benchmarks.report import surroundings, write_result
from fusion.files import write_json
from fusion.hashing import file_sha256, json_sha256
from fusion.lineage.records import record_file_name, record_folder

DVC_YAML = f"""
stages:
  curate:
    foreach: [{DATASET}]
    do: {{cmd: "fusion curate ${{item}}", outs: ["data/manifests/${{item}}"]}}
  train_stage1:
    foreach: [tiny]
    do:
      cmd: fusion train ${{item}} stage1
      deps: [data/manifests/{DATASET}]
      params: [run.seed]
      outs: ["checkpoints/${{item}}/stage1", "results/${{item}}/stage1/summary.json"]
"""


def build(root: Path, rows: int) -> dict[str, str]:
    """The project; the questions by name: a row's id, the hash of its picture, and a picture."""
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n", encoding="utf-8")
    (root / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    manifest = root / "data/manifests" / DATASET / "manifest.parquet"
    numbers = ("record_offset", "record_size", "image_offset", "image_size", "tokens", "turns", "instruct")
    pool = {name: np.arange(500, dtype=np.int64) + 1 for name in numbers}
    size = write_manifest(manifest, rows, pool)
    columns = ("sample_id", "source", "block", "reason", "evidence")
    pl.DataFrame(schema=dict.fromkeys(columns, pl.String)).write_parquet(manifest.with_name("ledger.parquet"))
    sha = file_sha256(manifest)
    write_json({"manifest_sha256": sha}, root / "data/validation" / DATASET / "validation.json")
    batch = 256
    summary = {
        "manifest_sha256": sha, "steps": -(-rows // batch), "left_out": {"too_long": []},
        "settings": {"epochs": 1, "global_batch": batch},
    }  # fmt: skip
    write_json(summary, root / "results/tiny/stage1/summary.json")
    out = f"data/manifests/{DATASET}"
    seed = 20250414
    for stage, command, params, inputs, outputs, parents in (
        (f"curate@{DATASET}", f"fusion curate {DATASET}", {}, {}, {out: sha}, {}),
        (
            "train_stage1@tiny", "fusion train tiny stage1", {"params.yaml": {"run.seed": seed}}, {out: sha},
            {"checkpoints/tiny/stage1": sha, "results/tiny/stage1/summary.json": sha}, {f"curate@{DATASET}": "0" * 64},
        ),
    ):  # fmt: skip
        core: dict[str, Any] = {
            "stage": stage, "command": command, "params": params, "inputs": inputs, "outputs": outputs,
            "parents": parents,
        }  # fmt: skip
        run = {"started": "2026-01-01T00:00:00+00:00", "git": {}}
        path = root / record_folder(stage) / record_file_name(core)
        write_json({**core, "digest": json_sha256(core), "run": run}, path)
    row = pl.scan_parquet(manifest).slice(rows // 2, 1).select("sample_id", "image_sha256").collect().row(0)
    print(f"{rows:,} rows, {size / 1e9:.2f} GB", file=sys.stderr)
    picture = root / "picture.png"
    from PIL import Image

    Image.effect_noise((300, 200), 80).save(picture)
    return {"sample id": row[0], "hash of a picture": row[1], "picture, near ones too": str(picture)}


def ask(root: Path, *words: str) -> dict[str, Any]:
    """Seconds, seconds of CPU and peak megabytes of one command."""
    code = (
        "import sys; from pathlib import Path; from fusion.cli import main\n"
        "try: main()\n"
        "finally: print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=root, env=environment, capture_output=True, text=True
    )  # fmt: skip
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = round(int(done.stderr.split()[-1]) / 1024)
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mb": peak, "said": done.stdout}


def main() -> None:
    """Measures and writes results/trace_10m.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--try", dest="trial", action="store_true", help="print only")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**surroundings(), "rows": arguments.rows}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        questions = build(root, arguments.rows)
        commands = {f"trace: {label}": ("trace", text) for label, text in questions.items()}
        commands["lineage"] = ("lineage", "tiny/stage1")
        for label, words in commands.items():
            answers = [ask(root, *words) for _ in range(arguments.rounds)]
            if "picture" not in label or "hash" in label:
                assert label == "lineage" or "saw it at step" in answers[0]["said"], answers[0]["said"]
            middle = sorted(answers, key=lambda one: one["seconds"])[len(answers) // 2]
            result[label] = {key: middle[key] for key in ("seconds", "cpu_seconds", "peak_mb")}
            print(label, result[label], file=sys.stderr)
    print(json.dumps(result, indent=1))
    if not arguments.trial:
        print(write_result("trace_10m", result))


if __name__ == "__main__":
    main()
