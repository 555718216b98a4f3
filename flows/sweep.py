"""What a run that died left behind, cleared before the next one starts: processes, locks, a torn dvc.lock, its state.

Every run has a file under scratch/flows/ for as long as it lives. A file whose process is gone is a run that was
killed. Only the holder of the working tree's lock sweeps, so no run that lives is taken for a dead one.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from flows.lock import RUN_ID
from flows.plan import YAML_LOADER
from flows.supervisor import end_all, grace_seconds, processes_with
from fusion.lineage.stages import Stage

RUNS = "scratch/flows"
RWLOCK = ".dvc/tmp/rwlock"
GOOD_LOCK = "scratch/flows/dvc.lock"
MARGIN_SECONDS = 5.0


@dataclass
class Swept:
    """What was found: runs that died, processes that were ended, and sentences about what was mended."""

    runs: list[str]
    processes: int
    mended: list[str]


@contextlib.contextmanager
def registered(root: Path, run_id: str) -> Iterator[None]:
    """Notes this process as the one of the run, until the body ends in an orderly way."""
    path = root / RUNS / f"{run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"pid": os.getpid(), "created": psutil.Process().create_time()}
    path.write_text(json.dumps(facts), encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def sweep(root: Path, own_run: str | None = None) -> Swept:
    """Clears what dead runs left. Call it with the working tree's lock held, before anything starts."""
    dead = [path for path in (root / RUNS).glob("*.json") if path.stem != own_run and not _lives(path)]
    ended = 0
    for path in dead:
        # Its supervisors may still be giving a stage the time to save: they are not disturbed before that is over.
        ended += wait_and_end(path.stem)
    mended = [sentence for sentence in (_mend_rwlock(root), mend_dvc_lock(root)) if sentence]
    for path in dead:
        path.unlink(missing_ok=True)
    return Swept([path.stem for path in dead], ended, mended)


def wait_and_end(run_id: str) -> int:
    """Ends the processes of a run that died, after their time to save; how many there were."""

    def find() -> list[psutil.Process]:
        return processes_with(RUN_ID, run_id)

    if any("flows.supervisor" in _command_line(process) for process in find()):
        psutil.wait_procs(find(), timeout=grace_seconds() + MARGIN_SECONDS)
    return end_all(find)


def _command_line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def _lives(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
        facts = json.loads(path.read_text(encoding="utf-8"))
        return bool(psutil.Process(int(facts["pid"])).create_time() == facts["created"])
    return False


def _mend_rwlock(root: Path) -> str:
    """DVC's list of path locks: removed when a crash cut it off, or when none of those that it names is a living DVC.

    DVC itself drops an entry only when no process has its number, which after a while some other process may have.
    """
    path = root / RWLOCK
    if not path.is_file():
        return ""
    try:
        entries = list(_entries(json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, AttributeError, TypeError, KeyError):
        path.unlink()
        return "DVC's list of path locks was cut off: removed"
    if entries and not any(_is_dvc(int(entry["pid"])) for entry in entries):
        path.unlink()
        return "DVC's list of path locks named processes that are gone: removed"
    return ""


def _entries(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from document.get("write", {}).values()
    for readers in document.get("read", {}).values():
        yield from readers


def _is_dvc(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("dvc" in Path(word).name for word in psutil.Process(pid).cmdline())
    return False


def keep_good_lock(root: Path) -> None:
    """Keeps a copy of dvc.lock as it is after a stage: DVC writes the file in place, and a kill can cut it off."""
    source, target = root / "dvc.lock", root / GOOD_LOCK
    if not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    shutil.copyfile(source, partial)
    new, old = _stages_of(partial), _stages_of(target) if target.is_file() else []
    if new is not None and len(new) >= len(old or []):  # Otherwise another stage's end is just being written.
        os.replace(partial, target)
    else:
        partial.unlink()


def mend_dvc_lock(root: Path) -> str:
    """Puts the copy in the place of a dvc.lock that a kill has cut off, and removes the copy; says so if it did.

    Also at the end of a run: what stands in dvc.lock then is right, whatever a person does to it next.
    """
    path, good = root / "dvc.lock", root / GOOD_LOCK
    now = _stages_of(path) if path.is_file() else []
    if not good.is_file():
        if now is None:
            path.unlink()
            return "dvc.lock was cut off before it held anything whole: removed"
        return ""
    before = _stages_of(good) or []
    # Cut off in the middle of an entry, or so luckily between two that it can be read.
    cut = now is None or (len(now) < len(before) and before[: len(now)] == now)
    if cut:
        shutil.copyfile(good, path)
    good.unlink()
    return "dvc.lock was cut off: brought back as it was after the last stage that ended" if cut else ""


def _stages_of(path: Path) -> list[str] | None:
    """The names of the stages in a lock file; None when it is no whole lock file."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
        whole = all("cmd" in entry for entry in document["stages"].values())
        return list(document["stages"]) if whole and "schema" in document else None
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, UnicodeDecodeError):
        return None


def order_lock(root: Path, stages: dict[str, Stage]) -> None:
    """Puts the entries of dvc.lock into DVC's running order, as one `dvc repro` would write them.

    Stages that ran side by side ended in any order. Only whole blocks of lines move.
    """
    path = root / "dvc.lock"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    head, blocks = _blocks(text)
    position = {name: number for number, name in enumerate(stages)}
    places, last = {}, -1
    for name, _ in blocks:  # An entry whose stage is gone stays behind the one before it.
        last = position.get(name, last)
        places[name] = last
    made = head + "".join(lines for _, lines in sorted(blocks, key=lambda block: places[block[0]]))
    if made != text:
        partial = path.with_name(".dvc.lock.partial")
        partial.write_text(made, encoding="utf-8")
        os.replace(partial, path)


def _blocks(text: str) -> tuple[str, list[tuple[str, str]]]:
    head, blocks = "", []
    for line in text.splitlines(keepends=True):
        if line.startswith("  ") and not line.startswith("   ") and line.rstrip().endswith(":"):
            blocks.append([line.strip()[:-1].strip("'\""), line])
        elif blocks:
            blocks[-1][1] += line
        else:
            head += line
    return head, [(name, lines) for name, lines in blocks]
