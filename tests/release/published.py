"""A small project in git whose variant `tiny` is ready to be published: three checkpoints, scores, package, records.

It is the finished run of tests/publish with all training stages, a catalog on disk, and a commit.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from fusion.data.catalog import Catalog, load_catalog
from fusion.hashing import json_sha256
from fusion.lineage.record import record_stage
from fusion.publish.package import build_package
from fusion.release.publish import Target, publish_variant
from fusion.settings import Settings, load_settings
from tests.adopted import adopt
from tests.publish.finished_run import SOURCES, write_columns, write_dataset, write_evaluation, write_training
from tests.publish.small_checkpoint import write_checkpoint
from tests.publish.stages import dvc_yaml

HERE = Path(__file__).parents[2]
TRAINED = {"stage1": 1, "stage1_5": 2, "stage2": 3}


class PublishedProject:
    """A checkout of it in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def build(self, adopted: bool = False) -> "PublishedProject":
        """Writes everything and commits it; `adopted`: stage 1.5 is a checkpoint that was made elsewhere."""
        self.root.mkdir(parents=True)
        self.git("init", "-q", "--initial-branch", "main")
        self.git("config", "user.name", "Test")
        self.git("config", "user.email", "test@example.org")
        before = Path.cwd()
        os.chdir(self.root)
        try:
            _write()
            self.commit()
            if adopted:
                self._adopt()
            _run("stage1_5" if adopted else None)
        finally:
            os.chdir(before)
        self.commit()
        return self

    def _adopt(self) -> None:
        """In the documented order: params.yaml names it, then it is adopted, then both are committed."""
        self.set("variants.tiny.adopted", "stage1_5")
        (self.root / "dvc.yaml").write_text(dvc_yaml(["stage2"], ["code.py"], "stage1_5"))
        record = json.loads((self.root / adopt(self.root, b"weights")).read_text())
        files = json_sha256(record["outputs"])[:12]
        decided = f"'adopted:tiny/stage1_5:{files}': 'the legal department, 2026-01-07'\n"
        (self.root / "data/licence-overrides.yaml").write_text(decided)
        self.commit()

    def git(self, *arguments: str) -> str:
        run = subprocess.run(("git", *arguments), cwd=self.root, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    def commit(self) -> str:
        """Commits everything; the commit."""
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", "as it is")
        return self.git("rev-parse", "HEAD")

    def inputs(self) -> tuple[Settings, Catalog]:
        """params.yaml and the catalog as they are now."""
        return load_settings(self.root / "params.yaml"), load_catalog(self.root / "data/catalog")

    def set(self, key: str, value: Any) -> None:
        """Another value in params.yaml, by its dotted path; to be committed."""
        path = self.root / "params.yaml"
        document = yaml.safe_load(path.read_text())
        *folders, last = key.split(".")
        place = document
        for name in folders:
            place = place[name]
        place[last] = value
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def publish(
        self, folder: str = "published", *, key: Path | None = None, hub: bool = False, push: bool = False
    ) -> list[str]:
        """Publishes `tiny` in this process; the lines that are told, and the release's name."""
        lines: list[str] = []
        target = Target(Path(folder), hub=hub or push, push=push)
        release = publish_variant(
            *self.inputs(), "tiny", target, lambda step, what: lines.append(f"{step} {what}"), key, self.root
        )
        return [*lines, release]

    def fusion(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The command `fusion` of the code under test, started."""
        variables = {**os.environ, "PYTHONPATH": str(HERE), "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen(
            [sys.executable, "-m", "fusion.cli", *arguments], cwd=self.root, env=variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def copy(self, root: Path) -> "PublishedProject":
        """The same elsewhere."""
        shutil.copytree(self.root, root, symlinks=True)
        return PublishedProject(root)


def _write() -> None:
    root = Path(".")
    # Its benchmarks have fewer questions than those of the project.
    params = (HERE / "params.yaml").read_text()
    for chosen in ("{questions: 2000}", "{questions: 1500}"):
        params = params.replace(chosen, "{questions: null}")
    (root / "params.yaml").write_text(params)
    shutil.copytree(HERE / "data/catalog", "data/catalog")
    shutil.copytree(HERE / "data/tokenizers", "data/tokenizers")
    _small_catalog(root / "data/catalog/tiny.yaml")
    (root / "LICENSE").write_text("the licence of the project\n")
    (root / "dvc.yaml").write_text(dvc_yaml(list(TRAINED), ["code.py"]))
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (root / "code.py").write_text("# code\n")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (root / ".dvc/.gitignore").write_text("/tmp\n/cache\n")
    ignored = [f"/data/{name}/" for name in ("shards", "index", "manifests", "benchmarks")]
    ignored += ["/checkpoints/*/*/", "/results/", "/packages/", "/published/", "/runs/", "/scratch/"]
    (root / ".gitignore").write_text("\n".join(ignored) + "\n")


def _run(adopted: str | None) -> None:
    root = Path(".")
    settings, catalog = load_settings(root / "params.yaml"), load_catalog(root / "data/catalog")
    write_training(root, settings, steps=40)
    for dataset in SOURCES:
        with record_stage(f"curate@{dataset}", root):
            write_dataset(root, dataset, 12, 1)
    trained = {stage: seed for stage, seed in TRAINED.items() if adopted is None or stage > adopted}
    for stage, seed in trained.items():
        with record_stage(f"train_{stage}@tiny", root):
            write_checkpoint(root / f"checkpoints/tiny/{stage}", seed)
    with record_stage("evaluate@tiny", root):
        write_evaluation(root, 40, adopted or "stage1")
        write_columns(root, settings)
    with record_stage("package@tiny", root):
        build_package(settings, catalog, "tiny", root)


def _small_catalog(path: Path) -> None:
    """The data sets of the finished run, as the catalog writes them."""
    document = yaml.safe_load(path.read_text())
    origin = {"kind": "scenes", "pictures": 12, "seed": 1, "categories": ["colour"], "forms": ["short_caption"]}
    for dataset, sources in SOURCES.items():
        entry = document["datasets"][dataset]
        entry.pop("expect", None)
        entry["sources"] = {
            name: {
                "origin": origin, "sampling": "all", "category": category, "profile": profile,
                "licence": {"declared": licence or "CC-BY-4.0", "verified": licence},
            }
            for name, (category, profile, licence) in sources.items()
        }  # fmt: skip
    path.write_text(yaml.safe_dump(document, sort_keys=False))
