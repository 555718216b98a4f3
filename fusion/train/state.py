"""Resumable state of a training stage: in the scratch folder, keyed by everything that decides the result.

A DVC output that persists would switch the run cache off and could resume a checkpoint of other parameters; so the
state lies outside the outputs and is deleted when the stage has succeeded. Source: design "Who owns what", item 5.
"""

import json
import shutil
from typing import Any

from fusion.train.recipe import Recipe


class ResumableState:
    """Complete checkpoints `step-N` under `scratch/train/<variant>-<stage>-<identity>/`, newest last."""

    def __init__(self, recipe: Recipe) -> None:
        self.folder = recipe.root / "scratch" / "train" / f"{recipe.variant}-{recipe.stage}-{recipe.identity()[:16]}"
        assert recipe.settings.keep_checkpoints is not None  # filled in by Settings.stage
        self._keep = recipe.settings.keep_checkpoints

    def newest(self) -> int | None:
        """The step of the newest complete checkpoint, or None. Incomplete ones (no `complete.json`) do not count."""
        steps = self._complete()
        return steps[-1] if steps else None

    def tag(self, step: int) -> str:
        """The name of the checkpoint of `step`, as DeepSpeed's `tag`."""
        return f"step-{step}"

    def mark_complete(self, step: int, facts: dict[str, Any]) -> None:
        """Names a checkpoint complete once all ranks have written it, and removes all but the last few."""
        marker = self.folder / self.tag(step) / "complete.json"
        partial = marker.with_suffix(".partial")
        partial.write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
        partial.replace(marker)
        for old in self._complete()[: -self._keep]:
            shutil.rmtree(self.folder / self.tag(old))

    def facts(self, step: int) -> dict[str, Any]:
        """What was stored with a complete checkpoint."""
        text = (self.folder / self.tag(step) / "complete.json").read_text(encoding="utf-8")
        facts: dict[str, Any] = json.loads(text)
        return facts

    def delete(self) -> None:
        """Removes all state; called when the stage has succeeded."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _complete(self) -> list[int]:
        markers = self.folder.glob("step-*/complete.json")
        return sorted(int(marker.parent.name.removeprefix("step-")) for marker in markers)
