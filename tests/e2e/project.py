"""A copy of the project in a folder of its own, as a fresh clone would be, for tests that run the pipeline."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PARTS = (
    ".dvc",
    ".dvcignore",
    ".gitignore",
    "LICENSE",
    "data",
    "dvc.yaml",
    "flows",
    "fusion",
    "params.yaml",
    "pyproject.toml",
    "requirements.txt",
)


class Project:
    """Runs the project's commands in its own copy; nothing of the real project is touched."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """One command, with the environment's programs on PATH; output is captured."""
        variables = {**os.environ, "DO_NOT_TRACK": "1", "PYTHONPATH": str(self.root), **environment}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
        result = subprocess.run(command, cwd=self.root, env=variables, text=True, capture_output=True, check=False)
        if check and result.returncode:
            raise AssertionError(
                f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
            )
        return result

    def repro(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`dvc repro`."""
        return self.run("dvc", "repro", *arguments, check=check)

    def set(self, dotted: str, value: Any, file: str = "params.yaml") -> None:
        """Changes one key of a YAML file."""
        path = self.root / file
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        *parents, last = dotted.split(".")
        section = document
        for key in parents:
            section = section[key]
        section[last] = value
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def lock(self) -> dict[str, Any]:
        """dvc.lock: stage -> output path -> md5."""
        document = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))
        return {
            stage: {out["path"]: out["md5"] for out in facts.get("outs", [])}
            for stage, facts in document["stages"].items()
        }


def executed(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that a `dvc repro` really ran, in order."""
    return [line.split("'")[1] for line in result.stdout.splitlines() if line.startswith("Running stage")]


def copy_project(folder: Path, variant: str) -> Project:
    """A copy with git and DVC of its own, set to build `variant`; no outputs, records or lock come along."""
    folder.mkdir(parents=True)
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PARTS],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    project = Project(folder)
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    project.run("git", "config", "user.email", "test@example.org")
    project.run("git", "config", "user.name", "Test")
    project.set("run.variants", [variant])
    project.run("fusion", "settings", "--write")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "as cloned")
    return project
