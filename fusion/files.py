"""Files that are there whole: JSON that is equal for equal content and never seen half written; flushes to the disk."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from fusion.errors import FusionError


def write_json(value: Any, path: Path) -> None:
    """Writes `value` with sorted keys, one space of indentation and a final newline; aside, and then renamed.

    Folders that are missing are made. Raises `FusionError` for a number that JSON has no word for (NaN, infinity).
    """
    try:
        text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise FusionError(f"{path} cannot be written, a value in it is no finite number: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def flush_to_disk(path: Path) -> None:
    """Waits until what was written to a file, or which names a folder has, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
