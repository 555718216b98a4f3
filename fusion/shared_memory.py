"""DeepSpeed's buffers in shared memory, which it leaves behind.

On one machine its CPU communication gives each rank a buffer of 69 MB in /dev/shm and never removes the name, however
the rank ends: a hundred training stages later the machine's memory is full of buffers that nobody uses.
"""

import contextlib
import math
import os
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
PREFIX = "deepspeed_allreduce_buffer_"
_YOUNG_SECONDS = 1.0
"""Between making a buffer and mapping it a rank needs microseconds; what is younger is left alone."""


def remove_unused_buffers(folder: Path = FOLDER) -> int:
    """Removes this user's buffers that no process has mapped; the bytes that are free again.

    Buffers of other runs that go on at the same time stay. Where there is no /proc (not Linux) nothing is removed.
    """
    if not folder.is_dir() or not Path("/proc/self/maps").exists():
        return 0
    limit = time.time() - _YOUNG_SECONDS
    old = [path for path in folder.glob(f"{PREFIX}{os.getuid()}_*") if _modified(path) < limit]
    mapped = _mapped_files() if old else set()
    freed = 0
    for path in old:
        if str(path) not in mapped:
            # Two nodes on one machine tidy up at the same time: what the other has removed is not ours to count.
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                path.unlink()
                freed += size
    return freed


def _modified(path: Path) -> float:
    """Time of the last change, later than any for a file that somebody else has removed meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _mapped_files() -> set[str]:
    """Files that processes have mapped, as far as this user may look."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            continue  # It ended meanwhile, or belongs to another user, who cannot use our buffers.
        found |= {line.split(maxsplit=5)[5] for line in text.splitlines() if PREFIX in line}
    return found
