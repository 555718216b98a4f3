"""What a person may name to ask for its lineage: a path, a data set, a variant, a stage, a package, a Hub repo."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.lineage.errors import LineageError
from fusion.lineage.family import Family, Records, family_of, family_of_document
from fusion.lineage.stages import Stage, producer_of, producers

SHORT = ("packages", "checkpoints", "data/manifests", "data/shards", "data/benchmarks", "results")
"""Where `tiny`, `tiny/stage1` or `tiny-stage1` is looked for, in this order."""
LINEAGE_FILE = "lineage.json"
_HUB = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class Place:
    """A stage's output: `path` is the output or something inside it, relative to the root."""

    path: str
    output: str
    stage: str


def find_family(ref: str, root: Path = Path("."), revision: str | None = None) -> Family:
    """The lineage of what `ref` names.

    In the project's folder: any path that a stage writes (also a shard, or a file in a checkpoint), the name of a data
    set, VARIANT, VARIANT/STAGE, a stage of dvc.yaml, an adopted checkpoint. Anywhere: a package's folder, or OWNER/NAME
    on the Hub, whose lineage.json tells.

    Raises `LineageError` when nothing of that name is known.
    """
    if (root / "dvc.yaml").is_file():
        records = Records(root)
        place = find_place(ref, records, root)
        if place is not None:
            return family_of(place.stage, place.path, root, records)
    if (Path(ref) / LINEAGE_FILE).is_file():
        return family_of_document(_read(Path(ref) / LINEAGE_FILE), ref)
    if _HUB.match(ref) and not Path(ref).exists():
        return family_of_document(_read(_from_hub(ref, revision)), ref)
    raise LineageError(
        f"nothing is known of `{ref}`: name a path that a stage of dvc.yaml writes, a data set, a variant, "
        f"VARIANT/STAGE, a stage, a folder with {LINEAGE_FILE}, or OWNER/NAME on the Hub"
    )


def find_place(ref: str, records: Records, root: Path) -> Place | None:
    """The output and the stage that `ref` names in the project's folder; None when it is none of them."""
    outputs = producers(records.stages.values())
    absolute = Path(ref) if Path(ref).is_absolute() else Path.cwd() / ref
    inside = os.path.relpath(absolute, root.resolve()).replace(os.sep, "/")
    for path in (inside, ref.rstrip("/"), *(f"{prefix}/{ref}" for prefix in SHORT)):
        hit = producer_of(path, outputs)
        if hit is not None and (hit[0] == path or (root / path).exists()):
            return Place(path, hit[0], hit[1].name)
        stage = _adopted(path, root)
        if stage is not None:
            return Place(path, path, stage)
    if ref in records.stages:
        stage_of: Stage = records.stages[ref]
        return Place(stage_of.outs[0] if stage_of.outs else ref, stage_of.outs[0] if stage_of.outs else ref, ref)
    return None


def _adopted(path: str, root: Path) -> str | None:
    """The stage adopt@NAME whose record says that it wrote `path`."""
    for file in sorted((root / "records").glob("adopt-*/*.json")):
        document = _read(file)
        if path in document.get("outputs", {}):
            return str(document["stage"])
    return None


def _from_hub(repo: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, LINEAGE_FILE, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise LineageError(f"{repo}: {LINEAGE_FILE} cannot be read from the Hub: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LineageError(f"{path} is no JSON file that can be read ({error})") from error
    if not isinstance(document, dict):
        raise LineageError(f"{path} is no JSON object")
    return document
