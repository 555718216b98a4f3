"""Which manifest rows the ranks of a stage really read, step by step: recorded while it trains, judged afterwards.

The record is taken where a rank hands the samples that it has read to its step, in a copy of the project only: nothing
of a stage knows of it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Rows = dict[int, list[int]]
"""1-based step -> the sorted manifest rows that all ranks read for it."""

_CALL = "        main(variant, stage)\n"


def record_in(project: Path) -> None:
    """Lets the ranks of this copy of the project record what they read, in `runs/VARIANT/STAGE-rows-RANK.jsonl`."""
    path = project / "fusion" / "train" / "__main__.py"
    source = path.read_text(encoding="utf-8")
    if source.count(_CALL) != 1:
        raise RuntimeError(f"{path} does not call main(variant, stage) once: change benchmarks/rows_read.py with it")
    recorded = "        from benchmarks.rows_read import record\n\n        record(variant, stage)\n"
    path.write_text(source.replace(_CALL, recorded + _CALL), encoding="utf-8")


def record(variant: str, stage: str) -> None:
    """In a rank: from now on each step's rows are written down before they are computed."""
    from fusion.train.batches import RankBatches, StepBatches

    read = RankBatches.__call__

    def recorded(self: RankBatches, first_step: int, notes: Path) -> Iterator[StepBatches]:
        path = Path("runs") / variant / f"{stage}-rows-{os.environ['RANK']}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for step, batches in enumerate(read(self, first_step, notes), first_step + 1):
            line = {"step": step, "rows": [row for rows in batches.rows for row in rows]}
            os.write(file, json.dumps(line).encode() + b"\n")  # one call: a kill leaves no half of it
            yield batches

    RankBatches.__call__ = recorded  # type: ignore[method-assign]


def rows_read(folder: Path, stage: str) -> Rows:
    """What the ranks recorded; the last word of each rank counts, since steps behind a checkpoint are done again."""
    found: Rows = {}
    for path in sorted(folder.glob(f"{stage}-rows-*.jsonl")):
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for step, rows in {line["step"]: line["rows"] for line in lines}.items():
            found[step] = sorted(found.get(step, []) + rows)
    return dict(sorted(found.items()))


def check_epochs(read: Rows, samples: int, epochs: int) -> None:
    """Checks that rows 0 to `samples` - 1 were read once in each of the epochs, which may end in the middle of a step.

    Raises:
        RuntimeError: a step is missing, or a row was read too often or not at all.
    """
    if list(read) != list(range(1, len(read) + 1)):
        raise RuntimeError(f"steps are missing: {list(read)}")
    counts: Counter[int] = Counter()
    done = 0
    for step, rows in read.items():
        counts.update(rows)
        done += len(rows)
        least, most = done // samples, -(-done // samples)
        wrong = {row: counts[row] for row in range(samples) if not least <= counts[row] <= most}
        if wrong or len(counts) > samples:
            raise RuntimeError(f"after step {step} a row has to be read {least} to {most} times; row: times {wrong}")
    if done != samples * epochs:
        raise RuntimeError(f"{done} samples were read instead of {epochs} times {samples}")
