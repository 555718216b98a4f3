"""`fusion doctor`: what stands in the way of a run, found before it starts, each with what to do about it."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from fusion.errors import FusionError
from fusion.settings import load_settings

NEEDED_DISK_GB = 6.0
NEEDED_MEMORY_GB = 6.0

Finding = tuple[bool, str]


def run_checks(root: Path = Path()) -> int:
    """Prints one line a check; returns the exit code: 0 if all are well."""
    failed = 0
    for check in (python, programs, packages, disk, memory, storage, settings, catalog, stages):
        good, message = _result(check, root)
        failed += not good
        print(f"{'ok   ' if good else 'FAIL '} {check.__name__:<9} {message}")
    return 1 if failed else 0


def _result(check: Callable[[Path], Finding], root: Path) -> Finding:
    try:
        return check(root)
    except FusionError as error:
        return False, str(error)


def python(root: Path) -> Finding:
    """The interpreter is one that the pinned environment is made for."""
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    return good, f"Python {platform.python_version()}" + ("" if good else ": 3.11 or 3.12 is needed; run `make env`")


def programs(root: Path) -> Finding:
    """git for lineage; a C++ compiler and ninja for DeepSpeed's communication on CPU."""
    missing = [name for name in ("git", "g++", "ninja", "dvc") if shutil.which(name) is None]
    if missing:
        return False, f"not on PATH: {', '.join(missing)}; install them, and activate .venv or use `make`"
    return True, "git, g++, ninja, dvc"


def packages(root: Path) -> Finding:
    """The installed packages are those of requirements.txt."""
    wrong = []
    for line in (root / "requirements.txt").read_text(encoding="utf-8").splitlines():
        match = re.match(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", line)
        if not match:
            continue
        try:
            found = importlib.metadata.version(match[1]).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != match[2]:
            wrong.append(f"{match[1]} {found} instead of {match[2]}")
    if wrong:
        return False, f"{len(wrong)} differ from requirements.txt ({'; '.join(wrong[:5])}): run `make env`"
    return True, "as in requirements.txt"


def disk(root: Path) -> Finding:
    """Room for the outputs of the default run, once in place and once in DVC's cache."""
    free = shutil.disk_usage(root.resolve()).free / 1e9
    good = free >= NEEDED_DISK_GB
    return good, f"{free:.1f} GB free" + ("" if good else f"; the default run needs {NEEDED_DISK_GB:.0f} GB")


def memory(root: Path) -> Finding:
    """Memory for the default run."""
    free = psutil.virtual_memory().available / 1e9
    good = free >= NEEDED_MEMORY_GB
    cores = len(os.sched_getaffinity(0))
    return good, f"{free:.1f} GB free, {cores} cores" + (
        "" if good else f"; the default run needs {NEEDED_MEMORY_GB:.0f} GB"
    )


def storage(root: Path) -> Finding:
    """DVC keeps its data apart from what programs write to, and tells nobody what it does."""
    from dvc.config import Config, ConfigError

    try:
        config = Config(str(root / ".dvc"))
    except ConfigError as error:
        return False, f"DVC's settings cannot be used: {error}"
    linked = [kind for kind in config["cache"].get("type") or () if kind in ("hardlink", "symlink")]
    if linked:
        return False, (
            f"cache.type names {' and '.join(linked)}: one byte written in place changes the cache too, and DVC does "
            "not notice; run `dvc config cache.type reflink,copy`"
        )
    for name in ("analytics", "check_update"):
        if config["core"].get(name, True):
            return False, f"core.{name} is on, so DVC sends messages: run `dvc config core.{name} false`"
    return True, "DVC copies or reflinks, and sends nothing but data to its remotes"


def settings(root: Path) -> Finding:
    """params.yaml is right."""
    checked = load_settings(root / "params.yaml")
    return True, f"params.yaml: {len(checked.variants)} variants, to build: {', '.join(checked.run.variants)}"


def catalog(root: Path) -> Finding:
    """The catalog is right, and params.yaml and data/pipeline.yaml fit it."""
    from fusion.agreement import check_agreement, check_blocks, check_pins
    from fusion.data.catalog import load_catalog
    from fusion.selection import check_pipeline

    loaded = load_catalog(root / "data" / "catalog")
    checked = load_settings(root / "params.yaml")
    check_agreement(checked, loaded, root)
    check_blocks(checked)
    check_pins(checked, loaded, root)
    check_pipeline(checked, loaded, root)
    sources = sum(len(dataset.sources) for dataset in loaded.datasets.values())
    return True, f"{len(loaded.datasets)} data sets, {sources} sources, {len(loaded.benchmarks)} benchmarks"


def stages(root: Path) -> Finding:
    """DVC can resolve dvc.yaml."""
    from fusion.lineage.stages import resolve_stages

    return True, f"dvc.yaml: {len(resolve_stages(root))} stages"
