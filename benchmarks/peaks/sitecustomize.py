"""What Python imports at its start where this folder is on PYTHONPATH: a rank of training leaves its peak of memory.

For benchmarks/gpu_stages.py, so that training need not know of it. The variable that `FOLDER` names has the folder of
the files.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import sys
from pathlib import Path

FOLDER = "FUSION_BENCHMARK_PEAKS"
"""The variable. A rank that is killed leaves nothing."""


def leave_peak() -> None:
    """Writes what this process has used at most: of its GPU as torch counts it, or else of main memory. In bytes."""
    torch = sys.modules.get("torch")
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = {"main_memory": kibibytes * 1024}
    if torch is not None and torch.cuda.is_initialized():
        peak["gpu_allocated"] = torch.cuda.max_memory_allocated()
        peak["gpu_reserved"] = torch.cuda.max_memory_reserved()
    path = Path(os.environ[FOLDER], f"{os.environ['RANK']}-{os.getpid()}.json")
    path.write_text(json.dumps(peak), encoding="utf-8")


if FOLDER in os.environ and "RANK" in os.environ:
    atexit.register(leave_peak)
