"""A small project in git and DVC, with run records, as the tests of worktrees, remotes, restoring and gc need one.

Three stages: `letters@a` and `letters@b` write a folder each, `join` a file from both. `amount` in params.yaml decides
what comes out.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parents[1]

DVC_YAML = """
stages:
  letters:
    matrix:
      which: [a, b]
    cmd: python stage.py letters ${item.which}
    deps: [stage.py]
    params: [amount]
    outs: ["made/${item.which}"]
  join:
    cmd: python stage.py join
    deps: [stage.py, made/a, made/b]
    outs: [made/joined.txt]
"""

STAGE_PY = """
import os, sys
from pathlib import Path
from fusion.lineage.record import record_stage

with record_stage(os.environ["DVC_STAGE"]):
    print("who runs:", __import__("fusion").__file__)
    amount = int(Path("params.yaml").read_text().split(":")[1])
    if sys.argv[1] == "letters":
        folder = Path("made") / sys.argv[2]
        folder.mkdir(parents=True)
        for number in range(3):
            (folder / f"{number}.txt").write_text(sys.argv[2] * 1000 * (amount + number))
    else:
        files = sorted(Path("made").glob("?/*.txt"))
        Path("made/joined.txt").write_text("".join(path.read_text() for path in files))
"""

CONFIG = """[core]
    analytics = false
    check_update = false
    autostage = false
[cache]
    type = "reflink,copy"
"""


class StoredProject:
    """A checkout of it; `environment` goes into every command."""

    def __init__(self, root: Path, **environment: str) -> None:
        self.root = root
        self.environment = environment

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """One command in the checkout; output is captured, and shown when the command fails."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "PYTHONPATH": str(HERE), "DO_NOT_TRACK": "1"}
        variables |= self.environment | environment
        run = subprocess.run(command, cwd=self.root, env=variables, capture_output=True, text=True, check=False)
        assert not check or run.returncode == 0, f"{command}: {run.stdout}{run.stderr}"
        return run

    def git(self, *arguments: str) -> str:
        """git's output, without its last newline."""
        return self.run("git", *arguments).stdout.rstrip("\n")

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The real DVC."""
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check)

    def fusion(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command `fusion` of the code under test."""
        return self.run(sys.executable, "-m", "fusion.cli", *arguments, check=check)

    def amount(self, amount: int) -> None:
        """Another value of the parameter."""
        (self.root / "params.yaml").write_text(f"amount: {amount}\n")

    def repro(self) -> None:
        """All stages."""
        self.dvc("repro", "--quiet")

    def commit(self, message: str) -> str:
        """Commits everything; returns the hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.head()

    def head(self) -> str:
        """The commit that is checked out."""
        return self.git("rev-parse", "HEAD")

    def lock(self) -> dict[str, str]:
        """Output -> DVC's hash of it, by dvc.lock."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}

    def objects(self, folder: Path | None = None) -> set[str]:
        """The hashes of all objects in the cache, or in a remote that is a folder."""
        files = (folder or self.root / ".dvc/cache") / "files/md5"
        return {path.parent.name + path.name for path in files.glob("??/*") if path.is_file()}


def make_project(root: Path) -> StoredProject:
    """Makes one with one commit, before anything ran."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text(CONFIG)
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / ".gitignore").write_text("/made/\n/scratch/\n/runs/\n/worktrees/\n__pycache__/\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "stage.py").write_text(STAGE_PY)
    (root / "requirements.txt").write_text("polars==2.1.0\n")
    project = StoredProject(root)
    project.amount(1)
    project.git("init", "--quiet", "--initial-branch", "main")
    project.git("config", "user.email", "test@example.org")
    project.git("config", "user.name", "Test")
    project.commit("as made")
    return project


def copy_project(project: StoredProject, root: Path, commit: str = "main") -> StoredProject:
    """A copy with a cache of its own and `main` at `commit`; faster than to make one and run its stages."""
    shutil.copytree(project.root, root, symlinks=True)
    copy = StoredProject(root)
    copy.git("reset", "--quiet", "--hard", commit)
    return copy
