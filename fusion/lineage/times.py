"""How long each stage ran and how much memory it took, for people: the last execution that made what is there now."""

import json
from dataclasses import dataclass
from pathlib import Path

from fusion.lineage.ancestry import Ancestry
from fusion.lineage.record import EXECUTIONS


@dataclass(frozen=True)
class StageTime:
    """One stage's last execution. `here` is False where only the committed record tells, from another working tree."""

    stage: str
    started: str
    seconds: float
    peak_memory_bytes: int
    here: bool


def stage_times(ancestry: Ancestry, root: Path = Path(".")) -> list[StageTime]:
    """The times of the stages of `ancestry`, in its order.

    A record that was there already keeps the times of the run that first wrote it; so the list of this tree's own
    executions goes first. Lines that cannot be read (a full disk cut one off) are skipped.
    """
    latest: dict[str, StageTime] = {}
    path = root / EXECUTIONS
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        record = ancestry.records.get(entry["stage"])
        if record is not None and entry.get("record") == record.path:
            latest[record.stage] = StageTime(
                record.stage, entry["started"], entry["seconds"], entry["peak_memory_bytes"], here=True
            )
    times = []
    for name, record in ancestry.records.items():
        run = record.document["run"]
        recorded = StageTime(name, run["started"], run["seconds"], run["peak_memory_bytes"], here=False)
        times.append(latest.get(name, recorded))
    return times
