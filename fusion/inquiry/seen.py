"""Which training runs saw rows of a manifest, at which steps, and which checkpoints come from them.

A run's record and its summary.json have all that the order is a function of (hash of the manifest, seed, epochs, batch,
what was left out), so no model is loaded and today's settings do not matter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from fusion.data.stream.order import TrainingOrder
from fusion.lineage.family import Records
from fusion.lineage.records import Record
from fusion.lineage.stages import ancestors_of

MANY = 20_000
"""More rows than this are spread over the whole stage: single steps say nothing then."""


@dataclass(frozen=True)
class Run:
    """A training stage that read a manifest. `checkpoints`: its own, and those and the packages made from it."""

    stage: str
    record: str
    checkpoint: str
    descendants: tuple[str, ...]
    steps: int
    seen_at: tuple[int, ...]
    """1-based steps, ascending; empty where `spread` or nothing was drawn."""
    spread: bool
    note: str | None


def runs_that_saw(dataset: str, rows: npt.NDArray[np.int64], records: Records, root: Path = Path(".")) -> list[Run]:
    """The recorded training stages of dvc.yaml that read the manifest of `dataset`; see `Run`."""
    path = f"data/manifests/{dataset}"
    found = []
    for stage in records.stages.values():
        if not stage.name.startswith("train_"):
            continue
        record = records.pick(stage.name, {}, None)
        if record is None or path not in record.inputs:
            continue
        checkpoint = next(out for out in record.outputs if out.startswith("checkpoints/"))
        found.append(_run(record, checkpoint, _descendants(stage.name, records), rows, dataset, root))
    return found


def _descendants(stage: str, records: Records) -> tuple[str, ...]:
    made = []
    for other in records.stages.values():
        if any(one.name == stage for one in ancestors_of(other.name, records.stages)) and records.of(other.name):
            made += [out for out in other.outs if out.startswith(("checkpoints/", "packages/"))]
    return tuple(made)


def _run(
    record: Record,
    checkpoint: str,
    descendants: tuple[str, ...],
    rows: npt.NDArray[np.int64],
    dataset: str,
    root: Path,
) -> Run:
    summary_path = next((root / out for out in record.outputs if out.endswith("summary.json")), None)
    if summary_path is None or not summary_path.is_file():
        unknown = "steps unknown: the stage's summary.json is not here (`dvc pull`)"
        return Run(record.stage, record.path, checkpoint, descendants, 0, (), True, unknown)
    summary = json.loads(summary_path.read_text(encoding="utf-8"))
    verdict = root / "data/validation" / dataset / "validation.json"
    here = json.loads(verdict.read_text(encoding="utf-8"))["manifest_sha256"] if verdict.is_file() else None
    if here != summary["manifest_sha256"]:
        other = "it was trained from another manifest than the one that is here: steps cannot be told"
        return Run(record.stage, record.path, checkpoint, descendants, summary["steps"], (), True, other)
    if len(rows) > MANY:
        return Run(record.stage, record.path, checkpoint, descendants, summary["steps"], (), True, None)
    steps = steps_of(rows, training_order(record, summary, dataset, root))
    return Run(record.stage, record.path, checkpoint, descendants, summary["steps"], tuple(steps.tolist()), False, None)


def training_order(record: Record, summary: dict[str, Any], dataset: str, root: Path) -> TrainingOrder:
    """The order of samples of a recorded training stage."""
    manifest = root / "data/manifests" / dataset / "manifest.parquet"
    draws = pl.scan_parquet(manifest).select("draws").collect(engine="streaming")["draws"].to_numpy()
    left_out = summary["left_out"]["too_long"]
    if left_out:
        lazy = pl.scan_parquet(manifest, row_index_name="number").filter(pl.col("sample_id").is_in(left_out))
        draws = draws.copy()
        draws[lazy.select("number").collect(engine="streaming")["number"].to_numpy()] = 0
    settings = summary["settings"]
    seed = record.document["params"]["params.yaml"]["run.seed"]
    return TrainingOrder(summary["manifest_sha256"], seed, settings["epochs"] or 1, settings["global_batch"], draws)


def steps_of(rows: npt.NDArray[np.int64], order: TrainingOrder) -> npt.NDArray[np.int64]:
    """1-based steps that hold any of the manifest's `rows`, ascending, each once.

    Blocks of samples are shuffled over the data set and samples within a window of blocks: so a row's window is found
    from its block, and only that window is walked through.
    """
    drawn = np.flatnonzero(np.isin(order._drawn, rows.astype(np.uint32)))
    if not len(drawn):
        return np.empty(0, dtype=np.int64)
    starts = order._bounds * order.block
    starts[-1] = order.samples_per_epoch
    blocks = np.minimum(drawn // order.block, order._bounds[-1])
    steps = []
    for epoch in range(order.epochs):
        for window in range(len(starts) - 1):
            inside = drawn[np.isin(blocks, order._blocks(epoch, window))]
            if not len(inside):
                continue
            positions = np.arange(starts[window], starts[window + 1], dtype=np.int64)
            hits = positions[np.isin(order._shuffled(positions, epoch), inside)]
            steps.append((epoch * order.samples_per_epoch + hits) // order.global_batch)
    return np.unique(np.concatenate(steps)) + 1 if steps else np.empty(0, dtype=np.int64)


def as_ranges(steps: tuple[int, ...]) -> str:
    """`3, 7-9, 12`."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][1] + 1:
            parts[-1][1] = step
        else:
            parts.append([step, step])
    texts = [str(a) if a == b else f"{a}\N{EN DASH}{b}" for a, b in parts]
    return ", ".join(texts[:12]) + (
        f" and {len(texts) - 12} more stretches up to {parts[-1][1]}" if len(texts) > 12 else ""
    )
