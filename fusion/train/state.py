"""Resumable state of a training stage: in the scratch folder, keyed by everything that decides the result.

A DVC output that persists would switch the run cache off and could resume a checkpoint of other parameters; so the
state lies outside the outputs and is deleted when the stage has succeeded, but for a copy of its result, which stays
until somebody has begun with it (see `result`). Source: design "Who owns what", item 5.

A checkpoint is written to a folder with another name, its files are hashed, the list of them is written, all of it is
flushed to the disk, and then the folder gets its name. One whose files differ from the list is never used.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusion.files import flush_to_disk, write_json
from fusion.hashing import file_sha256
from fusion.train.errors import TrainingError
from fusion.train.recipe import Recipe

CHECKPOINT, RESULTS = "checkpoint", "results"
"""What a finished stage leaves for its two places."""
_LIST = "complete.json"
_HOLDER = "held.by"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_PATIENCE_SECONDS = 10.0
"""A process that was just killed may take a moment to be gone."""


class ResumableState:
    """Checkpoints `step-N` under `scratch/train/<variant>-<stage>-<identity>/`, newest last."""

    FINISHED = "finished"

    def __init__(self, recipe: Recipe) -> None:
        self.folder = recipe.root / "scratch" / "train" / f"{recipe.variant}-{recipe.stage}-{recipe.identity()[:16]}"
        assert recipe.settings.keep_checkpoints is not None  # filled in by Settings.stage
        self._keep = recipe.settings.keep_checkpoints

    @property
    def finished(self) -> Path:
        """Where the result of the finished stage is kept."""
        return self.folder / self.FINISHED

    def hold(self) -> None:
        """Keeps all other processes from this state until `release`, or until this one ends, however that happens.

        The lock is one that a process's children do not have: readers that outlive a killed rank keep nobody out.

        Raises:
            TrainingError: another process has it; its number is told.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Opened to be kept: to close any descriptor of the file gives the lock away.
        self._held = os.open(self.folder / _HOLDER, os.O_RDWR | os.O_CREAT, 0o644)
        self._lock(self._held)
        os.truncate(self._held, 0)
        os.pwrite(self._held, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)

    def release(self) -> None:
        """Lets others have it."""
        os.close(self._held)

    def _lock(self, file: int) -> None:
        patience = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return  # the file system has none
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if time.monotonic() > patience:
                    who = os.pread(file, 200, 0).decode("utf-8", "replace") or "another process"
                    raise TrainingError(
                        f"{who} trains this stage and writes the same state, {self.folder}: wait for it or end it; "
                        "started again after that, this command continues from there"
                    ) from None
            time.sleep(0.1)

    @contextlib.contextmanager
    def finishing(self, facts: dict[str, Any]) -> Iterator[tuple[Path, Path]]:
        """Two folders to write checkpoint and results of the finished stage into; named when the block ends well.

        Half-written ones are removed at the next start.
        """
        partial = self.folder / f"partial-{self.FINISHED}"
        remove(partial)
        for name in (CHECKPOINT, RESULTS):
            (partial / name).mkdir(parents=True)
        yield partial / CHECKPOINT, partial / RESULTS
        self._seal(partial, self.finished, facts)

    def result(self) -> tuple[dict[str, Any] | None, str | None]:
        """What was stored with the whole result of the finished stage, if there is one; and what is wrong with it."""
        if not self.finished.is_dir():
            return None, None
        fault = self._fault(self.finished)
        if fault is not None:
            return None, f"the result in {self.finished} is damaged ({fault})"
        return self._facts(self.finished), None

    def newest(self) -> tuple[int | None, list[str]]:
        """The step of the newest whole checkpoint, or None; and one line for each that is damaged and passed over."""
        damaged: list[str] = []
        for step in reversed(self._named()):
            fault = self._fault(self.folder / self.tag(step))
            if fault is None:
                return step, damaged
            damaged.append(f"{self.folder / self.tag(step)} is damaged ({fault}) and is passed over")
        return None, damaged

    def tag(self, step: int) -> str:
        """The name of the checkpoint of `step`, as DeepSpeed's `tag`."""
        return f"step-{step}"

    def partial(self, step: int) -> str:
        """The name under which it is written."""
        return f"partial-{step}"

    def clear_partial(self) -> None:
        """Removes what an interrupted run left half written."""
        for folder in self.folder.glob("partial-*"):
            remove(folder)

    def complete(self, step: int, facts: dict[str, Any]) -> None:
        """Names a checkpoint that all ranks have written, and removes all but the last few."""
        self._seal(self.folder / self.partial(step), self.folder / self.tag(step), facts)
        for old in self._named()[: -self._keep]:
            remove(self.folder / self.tag(old))

    def _seal(self, partial: Path, final: Path, facts: dict[str, Any]) -> None:
        """Writes the list of a folder's files, flushes all of it and gives it its name."""
        files = {str(path.relative_to(partial)): _entry(path) for path in sorted(partial.rglob("*")) if path.is_file()}
        write_json({"facts": facts, "files": files}, partial / _LIST)
        flush_to_disk(partial / _LIST)
        remove(final)  # damaged, and written anew
        partial.rename(final)
        flush_to_disk(self.folder)

    def facts(self, step: int) -> dict[str, Any]:
        """What was stored with a whole checkpoint."""
        return self._facts(self.folder / self.tag(step))

    @staticmethod
    def _facts(folder: Path) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((folder / _LIST).read_text(encoding="utf-8"))["facts"]
        return facts

    def delete_checkpoints(self) -> None:
        """Removes all state but the result; called when the stage has succeeded."""
        for path in self.folder.iterdir():
            if path.name not in (self.FINISHED, _HOLDER):
                remove(path)

    def _named(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    @staticmethod
    def _fault(folder: Path) -> str | None:
        try:
            files: dict[str, dict[str, Any]] = json.loads((folder / _LIST).read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{_LIST}: {error}"
        for name, entry in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["size"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['size']}"
            if file_sha256(path) != entry["sha256"]:
                return f"{name} does not have the sha256 it was written with"
        return None


def remove(path: Path) -> None:
    """Removes a file or folder, if it is there. A folder loses its name first: half of one is never taken for it."""
    if path.is_dir():
        away = path if path.name.startswith("partial-") else path.with_name(f"partial-removed-{path.name}")
        if away != path:
            shutil.rmtree(away, ignore_errors=True)
            path.rename(away)
        shutil.rmtree(away)
    else:
        path.unlink(missing_ok=True)


def _entry(path: Path) -> dict[str, Any]:
    flush_to_disk(path)
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}
