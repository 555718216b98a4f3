"""What lies in the scratch folder: state of interrupted stages, results of finished ones; how to remove it."""

import contextlib
import fcntl
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer

from fusion.errors import FusionError

SCRATCH = Path("scratch")
_OTHERS = {"prefect", "flows"}
"""What is not a stage's: the database of a server that may be running, and by what flows find those that died."""
_FLOW = SCRATCH / "flow.lock"


@dataclass(frozen=True)
class Leftover:
    """One folder of state: `name` as `clear` takes it, size in bytes, last change in seconds since 1970."""

    name: str
    path: Path
    size: int
    changed: float


def leftovers(root: Path = Path()) -> list[Leftover]:
    """All folders `scratch/<kind>/<name>`, the largest first."""
    found = []
    for path in (root / SCRATCH).glob("*/*"):
        if path.parent.name in _OTHERS:
            continue
        files = [path, *path.rglob("*")]
        facts = [file.lstat() for file in files]
        size = sum(fact.st_size for file, fact in zip(files, facts, strict=True) if not file.is_dir())
        found.append(
            Leftover(str(path.relative_to(root / SCRATCH).as_posix()), path, size, max(fact.st_mtime for fact in facts))
        )
    return sorted(found, key=lambda one: (-one.size, one.name))


def show(root: Path = Path()) -> str:
    """A table of them."""
    rows = leftovers(root)
    if not rows:
        return "scratch/ holds no state of interrupted stages"
    width = max(len(row.name) for row in rows)
    now = time.time()
    lines = [f"{row.name:<{width}}  {row.size / 1e6:10.1f} MB  {_age(now - row.changed):>9} old" for row in rows]
    total = sum(row.size for row in rows) / 1e6
    return "\n".join(
        [
            *lines,
            f"{'in all':<{width}}  {total:10.1f} MB",
            "A stage that is started again continues from its own. A finished one keeps its result until the next",
            "stage or the evaluation begins. Remove one with `fusion scratch --clear NAME`.",
        ]
    )


def clear(name: str, root: Path = Path()) -> str:
    """Removes one of them, or all; says what was removed.

    Raises:
        FusionError: there is none of that name, or a stage is at work in this folder.
    """
    if working := _at_work(root):
        raise FusionError(f"somebody is at work here and needs this state: wait for it, or end it first: {working}")
    rows = leftovers(root)
    chosen = rows if name == "all" else [row for row in rows if row.name == name]
    if not chosen and name != "all":
        known = "".join(f"\n  {row.name}" for row in rows) or " none"
        raise FusionError(f"scratch/ has no `{name}`; there are:{known}")
    for row in chosen:
        shutil.rmtree(row.path) if row.path.is_dir() and not row.path.is_symlink() else row.path.unlink()
    return f"removed {len(chosen)}, {sum(row.size for row in chosen) / 1e6:.1f} MB"


def forget_result(variant: str, stage: str, root: Path = Path()) -> None:
    """Removes the result that a finished training stage keeps, when a command begins with it: somebody owns it now."""
    for kept in (root / SCRATCH / "train").glob(f"{variant}-{stage}-*/finished"):
        away = kept.parent.with_name(f"{kept.parent.name}-removed")
        kept.parent.rename(away)  # half of it is never taken for the whole
        shutil.rmtree(away)


def _at_work(root: Path) -> str | None:
    """The flow, the job or the command that is at work in this folder, with its number; None if nothing is."""
    from fusion.launchers.jobs import living_jobs

    for name, job in living_jobs(root).items():
        return f"{name} (job {job})"
    with contextlib.suppress(FileNotFoundError), (root / _FLOW).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"a flow: {lock.read()}"
    for process in psutil.process_iter():
        # A process may end meanwhile, and others' may not be looked at.
        with contextlib.suppress(psutil.Error, OSError):
            words = process.cmdline()
            stage = "fusion.train" in words or any(Path(word).name == "fusion" for word in words[:2])
            if stage and process.pid != os.getpid() and Path(process.cwd()) == root.resolve():
                return f"{' '.join(words)} (process {process.pid})"
    return None


def scratch(
    remove: Annotated[str | None, typer.Option("--clear", metavar="NAME", help="Remove this one, or `all`.")] = None,
) -> None:
    """Show what interrupted stages left to continue from, or remove it."""
    print(show() if remove is None else clear(remove))


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
