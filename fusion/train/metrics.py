"""results/<variant>/<stage>/metrics.json: few numbers, to compare two runs by (`dvc metrics diff`)."""

import csv
import math
from pathlib import Path
from typing import Any

from fusion.files import write_json
from fusion.train.sources import SourceLosses

METRICS = "metrics.json"
_LAST = 20
"""The loss at the end is the mean of the last twentieth of the steps: that of a single one says little."""


def write_metrics(results: Path, curve: Path, by_source: SourceLosses) -> None:
    """The loss and its terms at the end of a stage, and the cross-entropy by category and source there."""
    with curve.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = rows[-math.ceil(len(rows) / _LAST) :]
    ends: dict[str, Any] = {
        name: float(f"{sum(float(row[name]) for row in rows) / len(rows):.6g}")
        for name in ("loss", "cross_entropy", "text_mapping", "image_mapping")
    }
    for kind, facts in by_source.summary().items():
        ends[f"cross_entropy_{kind}"] = {name: own["loss_at_the_end"] for name, own in facts.items()}
    write_json(ends, results / METRICS)
