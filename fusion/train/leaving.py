"""Why ranks left: notes beside their exit codes, because launchers change those (torchrun makes 1 of every one)."""

import os
import time
from pathlib import Path

NOTES = "FUSION_EXIT_NOTES"
"""The variable that names the folder of the notes. Each node has one of its own."""


def leave_note(code: int) -> None:
    """This rank leaves with this exit code; nothing is written when nobody has asked for it."""
    if folder := os.environ.get(NOTES):
        # The clock is one for all processes of a machine.
        Path(folder, f"{time.monotonic_ns():020}-{os.environ.get('RANK', 0)}").write_text(str(code), encoding="utf-8")


def first_reason(notes: Path, known: set[int]) -> int | None:
    """The first code among those that are known; others are those of ranks that failed because one had left."""
    codes = (int(path.read_text(encoding="utf-8") or 0) for path in sorted(notes.iterdir()))
    return next((code for code in codes if code in known), None)
