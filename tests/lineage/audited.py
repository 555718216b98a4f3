"""A small real project under git and DVC, run to the end, for the audit: shards, manifest, checkpoint, package."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo

from fusion.files import write_json
from fusion.hashing import json_sha256
from fusion.lineage.ancestry import ancestry_of
from fusion.lineage.record import record_stage
from fusion.lineage.records import DETERMINISTIC, record_file_name, record_folder

DVC_YAML = """
stages:
  shard:
    foreach: [cats, dogs]
    do:
      cmd: fusion shard set ${item}
      deps: [fusion/shard.py, data/samples]
      params: [run.seed]
      outs: ["data/shards/set/${item}", "data/index/set/${item}"]
  curate:
    cmd: fusion curate set
    deps: [fusion/curate.py, data/index/set]
    outs: [data/manifests/set]
  train:
    cmd: fusion train tiny stage1
    deps: [fusion/train.py, data/manifests/set, data/shards/set]
    params: [run.seed, train]
    outs: [checkpoints/tiny/stage1, results/tiny/summary.json]
    plots: [results/tiny/loss.csv]
  evaluate:
    cmd: fusion evaluate tiny
    deps: [fusion/train.py, checkpoints/tiny/stage1]
    metrics: [results/tiny/scores.json]
  package:
    cmd: fusion package tiny
    deps: [fusion/package.py, checkpoints/tiny/stage1, results/tiny/scores.json]
    params: [train]
    outs: [packages/tiny]
"""
IGNORED = (
    "data/shards", "data/index", "data/manifests", "checkpoints/**", "results", "packages", "runs",
    "scratch", "reports",
)  # fmt: skip
STAGES = ("shard@cats", "shard@dogs", "curate", "train", "evaluate", "package")


class Project:
    """The project in `root`, and what may be done to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def build(self) -> "Project":
        """Writes it, runs every stage, commits everything."""
        files = {
            ".dvc/config": "[core]\n    analytics = false\n    autostage = false\n[cache]\n    type = copy\n",
            ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
            ".gitignore": "".join(f"/{name}\n" for name in IGNORED) + "!/checkpoints/**/\n!/checkpoints/**/*.dvc\n",
            "dvc.yaml": DVC_YAML,
            "params.yaml": "run: {seed: 7}\ntrain: {rate: 0.5, eps: 1.0e-8}\n",
            "requirements.txt": "polars==2.1.0\n",
            "data/samples/words.txt": "one two three four\n",
        }
        files |= {f"fusion/{name}.py": f"# {name}\n" for name in ("shard", "curate", "train", "package")}
        for path, text in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        self.git("init", "-q")
        self.commit("code")
        self.run()
        self.commit("run")
        return self

    def run(self, stages: Iterable[str] = STAGES) -> None:
        """Runs all stages, or those, and has DVC take their outputs in."""
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

    def git(self, *arguments: str) -> str:
        """Runs git as nobody in particular."""
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout

    def commit(self, message: str = "more") -> None:
        """Commits everything that git does not ignore."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def path(self, name: str) -> Path:
        """A path; a star stands for whatever is there, and the first one is taken."""
        return next(iter(sorted(self.root.glob(name))))

    def write(self, name: str, data: bytes) -> None:
        """Writes a file in place, also a read-only one."""
        path = self.path(name) if "*" in name else self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o644)
        path.write_bytes(data)

    def flip(self, name: str, keep_time: bool = False) -> None:
        """Changes one bit in the middle of a file."""
        path = self.path(name)
        times = path.stat()
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        self.write(path.relative_to(self.root).as_posix(), bytes(data))
        if keep_time:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def swap(self, first: str, second: str) -> None:
        """Exchanges two files' contents."""
        one, other = self.path(first), self.path(second)
        a, b = one.read_bytes(), other.read_bytes()
        self.write(one.relative_to(self.root).as_posix(), b)
        self.write(other.relative_to(self.root).as_posix(), a)

    def object(self, out: str, file: str = "") -> str:
        """The cache object of a file of an output, or of its listing (`.dir`), relative to the root."""
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())
        (md5,) = {o["md5"] for s in lock["stages"].values() for o in s.get("outs", []) if o["path"] == out}
        place = f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"
        if file == ".dir" or not md5.endswith(".dir"):
            return place
        found = {item["relpath"]: item["md5"] for item in json.loads((self.root / place).read_text())}[file]
        return f".dvc/cache/files/md5/{found[:2]}/{found[2:]}"

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Edits a JSON file and nothing else."""
        path = self.path(name)
        document = json.loads(path.read_text())
        change(document)
        write_json(document, path)

    def forge(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Edits a record and makes its digest and its name right again."""
        path = self.path(name)
        document = json.loads(path.read_text())
        change(document)
        document["digest"] = json_sha256({field: document[field] for field in DETERMINISTIC})
        path.unlink()
        write_json(document, self.root / record_folder(document["stage"]) / record_file_name(document))

    def lock(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Edits the stages of dvc.lock."""
        path = self.root / "dvc.lock"
        document = yaml.safe_load(path.read_text())
        # A number that YAML 1.1 takes for a text.
        for stage in document["stages"].values():
            stage.get("params", {}).get("params.yaml", {}).get("train", {}).update(eps=1e-8)
        change(document["stages"])
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def copy(self, to: Path) -> "Project":
        """The same project elsewhere."""
        shutil.copytree(self.root, to, symlinks=True)
        return Project(to)


def _work(stage: str) -> None:
    name, _, item = stage.partition("@")
    files: dict[str, bytes] = {}
    words = Path("data/samples/words.txt").read_bytes()
    if name == "shard":
        files = {f"data/shards/set/{item}/00000{n}.tar": (item.encode() + bytes([n]) + words) * 50 for n in range(2)}
        files |= {f"data/index/set/{item}/index.parquet": item.encode() * 30}
    elif name == "curate":
        files = {"data/manifests/set/manifest.parquet": words * 20, "data/manifests/set/ledger.parquet": b"dropped" * 9}
    elif name == "train":
        files = {
            "checkpoints/tiny/stage1/model.safetensors": words * 99, "checkpoints/tiny/stage1/config.json": b"{}\n",
            "results/tiny/summary.json": b'{"steps": 3}\n', "results/tiny/loss.csv": b"step,loss\n1,2.5\n",
        }  # fmt: skip
    elif name == "evaluate":
        files = {"results/tiny/scores.json": b'{"accuracy": 0.81}\n'}
    else:
        files = {"packages/tiny/model.safetensors": words * 99, "packages/tiny/README.md": b"# A model\n"}
    for path, data in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)
    if name == "package":
        write_json(ancestry_of("package").document, Path("packages/tiny/lineage.json"))
