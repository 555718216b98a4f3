"""A small project of three stages: words -> counts (a matrix of two) -> total, with a parameter and a code folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.lineage.record import record_stage

DVC_YAML = """
stages:
  words:
    cmd: python stage.py words
    deps: [fusion/words.py, source.txt]
    outs: [made/words]
  count:
    matrix:
      kind: [vowels, others]
    cmd: python stage.py count@${item.kind}
    deps: [fusion/count.py, made/words]
    params: [run.seed, count]
    outs:
      - counts/${item.kind}.txt
  package:
    matrix:
      variant: [tiny]
    cmd: python stage.py package@${item.variant}
    deps: [counts, made/words/all.txt]
    outs:
      - made/package-${item.variant}.txt
"""

STAGE_PY = """
import os, sys
from pathlib import Path
from fusion.lineage.record import record_stage

def work(name):
    kind = name.partition("@")[2]
    if name == "words":
        Path("made/words").mkdir(parents=True, exist_ok=True)
        Path("made/words/all.txt").write_text(Path("source.txt").read_text().lower())
    elif name.startswith("count"):
        Path("counts").mkdir(exist_ok=True)
        text = Path("made/words/all.txt").read_text()
        Path(f"counts/{kind}.txt").write_text(str(sum((c in "aeiou") == (kind == "vowels") for c in text)))
    else:
        parts = [Path(f"counts/{kind}.txt").read_text() for kind in ("vowels", "others")]
        Path("made/package-tiny.txt").write_text(" ".join(parts))

if __name__ == "__main__":
    with record_stage(os.environ["DVC_STAGE"]):
        work(sys.argv[1])
"""


class Project:
    """The throw-away project and what tests do with it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.monkeypatch = monkeypatch
        (root / ".dvc").mkdir()
        (root / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
        (root / "fusion").mkdir()
        (root / "fusion/words.py").write_text("# lower case\n")
        (root / "fusion/count.py").write_text("# counts\n")
        (root / "source.txt").write_text("Abc E\n")
        (root / "params.yaml").write_text("run: {seed: 7}\ncount: {limit: 3}\n")
        (root / "requirements.txt").write_text("polars==2.1.0\n")
        (root / ".gitignore").write_text("/made/\n/counts/\n/runs/\n/scratch/\n")
        (root / "dvc.yaml").write_text(DVC_YAML)
        (root / "stage.py").write_text(STAGE_PY)

    def git(self, *arguments: str) -> str:
        """Runs git as nobody in particular; returns its output."""
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", *who, *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout

    def run(self, *stages: str) -> None:
        """Runs stages as DVC would: in the root, outputs removed before."""
        scope: dict[str, object] = {"__name__": "stage"}
        exec((self.root / "stage.py").read_text(), scope)
        work: Callable[[str], None] = scope["work"]  # type: ignore[assignment]
        self.monkeypatch.chdir(self.root)
        for stage in stages:
            with record_stage(stage):
                work(stage)

    def run_all(self) -> None:
        """Runs every stage in order."""
        self.run("words", "count@vowels", "count@others", "package@tiny")

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the real `dvc` in the project."""
        here = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": here, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=True)

    def records(self) -> dict[str, str]:
        """The text of every record by its path."""
        return {str(p.relative_to(self.root)): p.read_text() for p in sorted(self.root.glob("records/*/*.json"))}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without git; `project.git("init")` adds it."""
    return Project(tmp_path, monkeypatch)
