"""A small project with real pictures, manifests and records: two data sets, two training stages, scores."""

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from dvc.repo import Repo
from PIL import Image, ImageDraw

from fusion.data.ingest.record import Reject
from fusion.data.store.pixels import measure
from fusion.files import write_json
from fusion.hashing import file_sha256, json_sha256
from fusion.lineage.files import sha256_path
from fusion.lineage.record import record_stage
from tests.adopted import HUB, adopt

HERE = Path(__file__).parents[2]
SEED, BATCH, EPOCHS = 7, 4, 2
DVC_YAML = """
stages:
  ingest:
    foreach: &sources
      one-animals: {set: one, source: animals}
      two-animals: {set: two, source: animals}
      two-plants: {set: two, source: plants}
    do:
      cmd: fusion ingest ${item.set} ${item.source}
      deps: [fusion/ingest.py]
      outs: ["data/raw/${item.set}/${item.source}"]
  shard:
    foreach: *sources
    do:
      cmd: fusion shard ${item.set} ${item.source}
      deps: ["data/raw/${item.set}/${item.source}"]
      outs: ["data/index/${item.set}/${item.source}"]
  curate:
    foreach: [one, two]
    do:
      cmd: fusion curate ${item}
      deps: [fusion/curate.py, "data/index/${item}"]
      params: [{data/catalog/drop.json: [drop]}]
      outs: ["data/manifests/${item}"]
  validate:
    foreach: [one, two]
    do:
      cmd: fusion validate ${item}
      deps: ["data/manifests/${item}"]
      outs: ["data/validation/${item}"]
  train_stage1:
    foreach: [tiny]
    do:
      cmd: fusion train ${item} stage1
      deps: [fusion/train.py, data/manifests/one, data/validation/one]
      params: [run.seed]
      outs: ["checkpoints/${item}/stage1", "results/${item}/stage1/summary.json"]
  train_stage2:
    foreach: [tiny]
    do:
      cmd: fusion train ${item} stage2
      deps: [fusion/train.py, "checkpoints/${item}/stage1", data/manifests/two, data/validation/two]
      params: [run.seed]
      outs: ["checkpoints/${item}/stage2", "results/${item}/stage2/summary.json"]
  evaluate:
    foreach: [tiny]
    do:
      cmd: fusion evaluate ${item}
      deps: [fusion/evaluate.py, "checkpoints/${item}/stage2"]
      outs: ["results/${item}/evaluation/scores.json"]
"""
SOURCES = ("one-animals", "two-animals", "two-plants")
STAGES = (
    *(f"ingest@{source}" for source in SOURCES), *(f"shard@{source}" for source in SOURCES),
    "curate@one", "curate@two", "validate@one", "validate@two", "train_stage1@tiny", "train_stage2@tiny",
    "evaluate@tiny",
)  # fmt: skip
LEFT_OUT = "two/plants/00000003"


def picture(number: int, size: int = 96) -> bytes:
    """A picture that no other number resembles."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for part in range(6):
        value = int(json_sha256([number, part])[:12], 16)
        x, y, w = value % size, value // size % size, 12 + value // size**2 % 40
        draw.rectangle([x, y, x + w, y + w], fill=(value % 200, value // 7 % 200, value // 11 % 200))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Project:
    """The project in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def build(self) -> "Project":
        """Writes it, runs every stage, commits."""
        (self.root / "fusion").mkdir(parents=True)
        for name in ("ingest", "curate", "train", "evaluate"):
            (self.root / f"fusion/{name}.py").write_text(f"# {name}\n")
        shutil.copyfile(HERE / "params.yaml", self.root / "params.yaml")
        for name in ("data/catalog", "data/tokenizers"):
            shutil.copytree(HERE / name, self.root / name)
        (self.root / "data/catalog/drop.json").write_text('{"drop": [5]}\n')
        (self.root / "dvc.yaml").write_text(DVC_YAML)
        (self.root / ".dvc").mkdir()
        (self.root / ".dvc/config").write_text("[core]\n    analytics = false\n[cache]\n    type = copy\n")
        (self.root / ".dvc/.gitignore").write_text("/tmp\n/cache\n")
        ignored = ("raw", "index", "manifests", "validation", "shards")
        names = [*(f"data/{name}" for name in ignored), "checkpoints/*/*/", "results", "runs", "scratch", "reports"]
        (self.root / ".gitignore").write_text("".join(f"/{name}\n" for name in names))
        self.git("init", "-q")
        self.commit()
        self.run()
        self.commit()
        return self

    def git(self, *arguments: str) -> str:
        """Runs git as nobody in particular."""
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        """Commits everything; the commit."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "more")
        return self.git("rev-parse", "HEAD")

    def run(self, stages: Sequence[str] = STAGES) -> None:
        """Runs all stages, or some, and has DVC take their outputs in."""
        before = Path.cwd()
        os.chdir(self.root)
        try:
            for stage in stages:
                with record_stage(stage):
                    _work(stage)
            with Repo(".") as repo:
                repo.commit(force=True)
        finally:
            os.chdir(before)

    def adopt(self, weights: bytes, origin: Mapping[str, Any] = HUB, variant: str = "tiny") -> None:
        """Stage 1 of `variant` is a checkpoint made elsewhere, from now on; runs what comes after, and commits."""
        kept, rest = DVC_YAML.split("  train_stage1:")
        text = f"{kept}  train_stage2:{rest.split('  train_stage2:')[1]}"
        (self.root / "dvc.yaml").write_text(text.replace("foreach: [tiny]", f"foreach: [{variant}]"))
        shutil.rmtree(self.root / f"records/train_stage1-{variant}", ignore_errors=True)
        adopt(self.root, weights, origin, place=f"{variant}/stage1", started=f"2026-01-01T00:00:00.{len(weights):03}")
        self.run((f"train_stage2@{variant}", f"evaluate@{variant}"))
        self.commit()

    def copy(self, to: Path) -> "Project":
        """The same elsewhere."""
        shutil.copytree(self.root, to, symlinks=True)
        return Project(to)

    def write(self, name: str, text: str) -> None:
        """Writes a text file."""
        (self.root / name).write_text(text)


def _work(stage: str) -> None:
    name, _, item = stage.partition("@")
    work: Callable[[str, str], None] = {
        "ingest": _ingest, "shard": _shard, "curate": _curate, "validate": _validate, "train_stage1": _train,
        "train_stage2": _train, "evaluate": _evaluate,
    }[name]  # fmt: skip
    work(name, item)


def _ingest(_: str, item: str) -> None:
    write_json({"source": item}, Path("data/raw", *item.split("-"), "lock.json"))


def _shard(_: str, item: str) -> None:
    """Both data sets have the animals; 24 rows a source."""
    dataset, source = item.split("-")
    rows: list[dict[str, Any]] = []
    for row in range(24):
        measured = measure(picture(row if source == "animals" else 1000 + row), 10**6)
        assert not isinstance(measured, Reject)
        rows.append(
            {
                "sample_id": f"{dataset}/{source}/{row:08d}", "dataset": dataset, "source": source,
                "file": f"{source}.json", "row": row, "shard": f"data/shards/{dataset}/{source}/{row // 12:06d}.tar",
                "image_path": f"{source}/{row}.png", "sha256": json_sha256([item, row]),
                "text_sha256": json_sha256(["text", item, row]), "image_sha256": measured.sha256,
                "pdq": measured.pdq, "draws": 1, "licence_declared": "MIT" if source == "plants" else "CC0-1.0",
                "licence_verified": None,
            }
        )  # fmt: skip
    schema = {"licence_verified": pl.String}
    table = pl.DataFrame(rows, schema_overrides=schema)
    place = Path("data/index", dataset, source)
    place.mkdir(parents=True, exist_ok=True)
    table.write_parquet(place / "index.parquet")
    Path("data/shards", dataset, source).mkdir(parents=True, exist_ok=True)


def _curate(_: str, item: str) -> None:
    drop = json.loads(Path("data/catalog/drop.json").read_text())["drop"]
    folder = Path("data/manifests", item)
    folder.mkdir(parents=True, exist_ok=True)
    read = [pl.read_parquet(Path("data/index", *s.split("-"), "index.parquet")) for s in SOURCES if s.startswith(item)]
    table = pl.concat(read)
    table.filter(~pl.col("row").is_in(drop)).write_parquet(folder / "manifest.parquet")
    gone = table.filter(pl.col("row").is_in(drop)).select("sample_id", "source")
    columns = [
        pl.lit(text).alias(name) for name, text in (("block", "text"), ("reason", "too-short"), ("evidence", "2"))
    ]
    gone.with_columns(columns).write_parquet(folder / "ledger.parquet")


def _validate(_: str, item: str) -> None:
    sha = file_sha256(Path("data/manifests", item, "manifest.parquet"))
    write_json({"manifest_sha256": sha}, Path("data/validation", item, "validation.json"))


def _train(name: str, item: str) -> None:
    stage = name.removeprefix("train_")
    dataset = "one" if stage == "stage1" else "two"
    sha = file_sha256(Path("data/manifests", dataset, "manifest.parquet"))
    rows = pl.read_parquet(Path("data/manifests", dataset, "manifest.parquet"))
    left_out = [LEFT_OUT] if dataset == "two" else []
    draws = EPOCHS * (len(rows) - len(left_out))
    summary = {
        "dataset": dataset, "manifest_sha256": sha, "steps": -(-draws // BATCH),
        "left_out": {"too_long": left_out}, "settings": {"epochs": EPOCHS, "global_batch": BATCH},
    }  # fmt: skip
    write_json(summary, Path("results", item, stage, "summary.json"))
    code = Path("fusion/train.py").read_text()
    parent = Path("checkpoints", item, "stage1")
    began = sha256_path(parent) if stage == "stage2" else None
    write_json([sha, code, began], Path("checkpoints", item, stage, "model.json"))


def _evaluate(_: str, item: str) -> None:
    accuracy = 0.8 if Path("fusion/evaluate.py").read_text() == "# evaluate\n" else 0.7
    rows = [
        {
            "accuracy": accuracy,
            "low": accuracy - 0.02,
            "high": accuracy + 0.02,
            "group": "all",
            "n": 9,
            "system": "tiny stage2",
        }
    ]
    write_json({"benchmarks": {"shapes": {"rows": rows}}}, Path("results", item, "evaluation/scores.json"))
