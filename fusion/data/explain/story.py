"""Everything that was decided about one sample, as a document; `fusion curate DATASET --explain SAMPLE` prints it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion.data.explain.near import Row
from fusion.data.explain.outputs import Outputs
from fusion.data.explain.steps import Steps
from fusion.hashing import file_sha256

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog
    from fusion.settings import Settings

_BEFORE_CURATION = ("ingest", "shard")
_BINARY = ("pdq", "colours")
_PLACE = ("shard", "record_offset", "record_size", "image_offset", "image_size")
_MEASURED = (
    "sha256", "text_sha256", "image_sha256", "pdq", "pdq_quality", "width", "height", "contrast", "colours", "turns",
    "answer_chars",
)  # fmt: skip


def explain_sample(
    settings: Settings, catalog: Catalog, dataset: str, sample: str, root: Path = Path(".")
) -> dict[str, Any]:
    """What the stages wrote about one sample of a curated data set.

    Args:
        sample: its id, a unique start of it, or SOURCE/ID with the id of the source's own file.

    Returns:
        A document of plain values: `decision` ("kept", "dropped" or "unknown"), `block`, `reason`, `evidence`,
        `origin`, `measured`, `steps` (one a stage or block, with its `checks`: measured value beside threshold),
        `place`, `draws`, `validation`, `notes`.

    Raises:
        DataError: the data set was not curated, or has no such sample; the message says what to do.
    """
    entry = catalog.dataset(dataset)
    outputs = Outputs(root, dataset, entry)
    sample_id = outputs.find(sample)
    _, source, number = sample_id.split("/")
    raw = outputs.one(outputs.raw(source), row=int(number))
    row = outputs.one(outputs.index(source), sample_id=sample_id)
    kept = outputs.one(outputs.manifest(), sample_id=sample_id)
    verdict = outputs.verdict(sample_id)
    profile = settings.curation.profiles[entry.sources[source].profile]
    teller = Steps(settings, outputs, profile, raw, row, verdict)
    steps = [teller.step(block) for block in outputs.blocks]
    notes = _notes(outputs, settings, steps, kept, verdict)
    return {
        "sample_id": sample_id,
        "decision": "dropped" if verdict else "kept" if kept else "unknown",
        "block": verdict["block"] if verdict else None,
        "reason": verdict["reason"] if verdict else None,
        "evidence": verdict["evidence"] if verdict else None,
        "origin": _origin(outputs, source, int(number), raw, row),
        "image": raw["image"] if raw else None,
        "conversations": raw["conversations"] if raw else None,
        "measured": _measured(row) if row else None,
        "profile": entry.sources[source].profile,
        "steps": steps,
        "place": {key: row[key] for key in _PLACE} if row else None,
        "draws": kept["draws"] if kept else 0,
        "validation": _validation(outputs),
        "notes": notes,
    }


def _origin(outputs: Outputs, source: str, number: int, raw: Row | None, row: Row | None) -> dict[str, Any]:
    entry = outputs.entry.sources[source]
    lock = outputs.lock(source)
    return {
        "dataset": outputs.dataset,
        "source": source,
        "category": entry.category,
        "kind": entry.origin.kind,
        "settings": entry.origin.model_dump(mode="json"),
        "sampling": entry.sampling,
        "licence": entry.licence.model_dump(),
        "file": row["file"] if row else str(getattr(entry.origin, "file", "annotations.json")),
        "row": number,
        "id": raw["key"] if raw else None,
        "containers": [{key: item.get(key) for key in ("path", "sha256")} for item in lock.get("containers", [])],
    }


def _measured(row: Row) -> dict[str, Any]:
    found = {key: row[key].hex() if key in _BINARY and row[key] else row[key] for key in _MEASURED}
    if found["contrast"] is not None:
        found["contrast"] = round(found["contrast"], 2)
    return found | {key: row[key] for key in row if re.match("(text|instruct)_tokens_", key)}


def _validation(outputs: Outputs) -> dict[str, Any]:
    result = outputs.validation()
    if result is None:
        return {"status": "not validated", "of_this_manifest": False}
    same = result["manifest_sha256"] == file_sha256(outputs.manifest_path)
    return {"status": result["status"], "of_this_manifest": same}


def _notes(
    outputs: Outputs, settings: Settings, steps: list[dict[str, Any]], kept: Row | None, verdict: Row | None
) -> list[str]:
    """What does not fit together: mostly settings that were changed since."""
    notes = []
    ran = [block for block in outputs.blocks if block not in _BEFORE_CURATION]
    if ran != settings.curation.blocks:
        notes.append(f"the blocks of params.yaml are not those of this manifest: run `{outputs.made_by}` again")
    for step in steps:
        for check in step["checks"]:
            if check["outcome"] == "would be dropped" and verdict is not None:
                notes.append(f"it would also be dropped as {check['reason']}")
            elif check["outcome"] == "would be dropped":
                missed = ", or MinHash has missed the pair" if check["reason"] == "similar-text" else ""
                again = f"run `{outputs.made_by}` again{missed}"
                notes.append(f"by today's params.yaml {check['reason']} would drop it: {again}")
            mine = verdict is not None and check["reason"] == verdict["reason"]
            if check["outcome"] == "would pass" or (mine and check["outcome"] == "off"):
                notes.append(f"by today's params.yaml {check['reason']} lets it pass: run `{outputs.made_by}` again")
    if kept is None and verdict is None:
        notes.append(f"the manifest does not know this sample: it was made before, run `{outputs.made_by}` again")
    return notes
