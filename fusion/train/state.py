"""Resumable state of a training stage: in the scratch folder, keyed by everything that decides the result.

A DVC output that persists would switch the run cache off and could resume a checkpoint of other parameters; so the
state lies outside the outputs and is deleted when the stage has succeeded. Source: design "Who owns what", item 5.

A checkpoint is written to a folder with another name, its files are hashed, the list of them is written, all of it is
flushed to the disk, and then the folder gets its name. One whose files differ from the list is never used.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from fusion.files import flush_to_disk, write_json
from fusion.hashing import file_sha256
from fusion.train.recipe import Recipe

_LIST = "complete.json"


class ResumableState:
    """Checkpoints `step-N` under `scratch/train/<variant>-<stage>-<identity>/`, newest last."""

    def __init__(self, recipe: Recipe) -> None:
        self.folder = recipe.root / "scratch" / "train" / f"{recipe.variant}-{recipe.stage}-{recipe.identity()[:16]}"
        assert recipe.settings.keep_checkpoints is not None  # filled in by Settings.stage
        self._keep = recipe.settings.keep_checkpoints

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
            shutil.rmtree(folder)

    def complete(self, step: int, facts: dict[str, Any]) -> None:
        """Names a checkpoint that all ranks have written, and removes all but the last few."""
        partial, final = self.folder / self.partial(step), self.folder / self.tag(step)
        files = {str(path.relative_to(partial)): _entry(path) for path in sorted(partial.rglob("*")) if path.is_file()}
        write_json({"facts": facts, "files": files}, partial / _LIST)
        flush_to_disk(partial / _LIST)
        if final.exists():  # damaged, and written anew
            shutil.rmtree(final)
        partial.rename(final)
        flush_to_disk(self.folder)
        for old in self._named()[: -self._keep]:
            shutil.rmtree(self.folder / self.tag(old))

    def facts(self, step: int) -> dict[str, Any]:
        """What was stored with a whole checkpoint."""
        facts: dict[str, Any] = json.loads((self.folder / self.tag(step) / _LIST).read_text(encoding="utf-8"))["facts"]
        return facts

    def delete(self) -> None:
        """Removes all state; called when the stage has succeeded."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

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


def _entry(path: Path) -> dict[str, Any]:
    flush_to_disk(path)
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}
