"""What a stage ran on: the commit and whether the tree differs from it, the packages, the machine."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from fusion.hashing import file_sha256

CODE: tuple[str, ...] = (
    "fusion",
    "flows",
    "data/catalog",
    "data/pipeline.yaml",
    "data/samples",
    "data/tokenizers",
    "params.yaml",
    "dvc.yaml",
    "requirements.txt",
    "pyproject.toml",
)
"""What makes a tree dirty when it differs from the commit. dvc.lock and records/ change during every run."""

PACKAGES: tuple[str, ...] = (
    "torch",
    "transformers",
    "deepspeed",
    "tokenizers",
    "safetensors",
    "dvc",
    "prefect",
    "polars",
    "pyarrow",
    "great-expectations",
    "webdataset",
    "pillow",
    "numpy",
    "pdqhash",
)
"""The packages whose versions stand in a record; the hash of requirements.txt covers all others."""


def git_state(root: Path) -> dict[str, Any]:
    """`commit`, `dirty` and the paths that differ from the commit; `commit` None and `reason` when git cannot tell."""
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "-z", "--untracked-files=all", "--", *CODE)
    except FileNotFoundError:
        return {"commit": None, "dirty": None, "changed": [], "reason": "git is not installed"}
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()
        return {"commit": None, "dirty": None, "changed": [], "reason": reason[0] if reason else "git failed"}
    paths = sorted(entry[3:] for entry in changed.split("\0") if len(entry) > 3 and entry[2] == " ")
    return {"commit": head, "dirty": bool(paths), "changed": paths, "reason": None}


def _git(root: Path, *arguments: str) -> str:
    """git's standard output. Optional locks are off: asking must not disturb a git command of somebody else."""
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def environment(root: Path) -> dict[str, Any]:
    """Python, the main packages' versions, and the sha256 of requirements.txt (None without one)."""
    requirements = root / "requirements.txt"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "requirements_sha256": file_sha256(requirements) if requirements.is_file() else None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, and the accelerators that torch sees if it is loaded."""
    accelerators: list[str] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "accelerators": accelerators,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()
