"""The checkpoints of this checkout, for their rows in the zoo: what was trained here, and what was adopted."""

import json
from pathlib import Path
from typing import Any

from fusion.evaluate.columns.entries import load_columns
from fusion.hashing import json_sha256
from fusion.lineage.outside import adoption_of
from fusion.lineage.records import ADOPT, RECORDS, Record, read_records
from fusion.publish.errors import PublishError
from fusion.settings import Settings
from fusion.zoo.own import OwnModel, OwnScore


def own_models(settings: Settings, root: Path = Path(".")) -> list[OwnModel]:
    """One entry per evaluated or packaged variant and per adopted checkpoint, sorted by kind and name.

    Raises `PublishError` naming a scores.json that cannot be read, `LineageError` for a broken record.
    """
    folders = {path.parent.parent.name for path in root.glob("results/*/evaluation/scores.json")}
    folders |= {path.parent.name for path in root.glob("packages/*/config.json")}
    return [_trained(settings, name, root) for name in sorted(folders)] + [_adopted(r, root) for r in adoptions(root)]


def adoptions(root: Path = Path(".")) -> list[Record]:
    """The record of each adopted checkpoint that is here, or was last, by name."""
    found: dict[str, Record] = {}
    for folder in sorted((root / RECORDS).glob(f"{ADOPT}-*")):
        records = read_records(f"{ADOPT}@{folder.name.removeprefix(f'{ADOPT}-')}", root)
        for path in sorted({path for record in records for path in record.outputs}):
            record = adoption_of(path, root)
            if record is not None:
                found[record.stage] = record
    return list(found.values())


def _trained(settings: Settings, variant: str, root: Path) -> OwnModel:
    path = root / f"results/{variant}/evaluation/scores.json"
    name = settings.variants[variant].publish_as if variant in settings.variants else variant
    package = root / f"packages/{variant}"
    note = "packaged" if (package / "config.json").is_file() else "not packaged"
    if not path.is_file():
        return OwnModel(name, "trained", f"packages/{variant}", "", f"{note}, not evaluated")
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        weights = json_sha256(scores["checkpoints"]["stage2"])
        rows = tuple(_score(benchmark, value, variant) for benchmark, value in sorted(scores["benchmarks"].items()))
        rows += _columns(path.with_name("columns.json"), scores["checkpoints"]["stage2"])
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise PublishError(
            f"{path} is not what the evaluation writes ({error!r}): run `dvc repro --force evaluate@{variant}`"
        ) from error
    folder = f"packages/{variant}" if note == "packaged" else f"checkpoints/{variant}/stage2"
    return OwnModel(name, "trained", folder, weights, note, rows)


def _columns(path: Path, weights: dict[str, str]) -> tuple[OwnScore, ...]:
    """The zoo's columns that were run: by their names there where the numbers mean the same, with a word elsewhere."""
    if not path.is_file():
        return ()
    document = json.loads(path.read_text(encoding="utf-8"))
    known = load_columns()
    found = []
    for name, facts in document["columns"].items():
        if name in known and facts["status"] == "VALID" and document["weights"] == weights:
            status = known[name].comparability.status
            told = name if status == "same" else f"{name} ({status})"
            found.append(OwnScore(told, facts["questions"], facts["value"], facts["low"], facts["high"]))
    return tuple(found)


def _score(benchmark: str, value: dict[str, Any], variant: str) -> OwnScore:
    row = next(row for row in value["rows"] if row["system"] == f"{variant} stage2" and row["group"] == "all")
    mean, low, high = (round(100 * row[key], 4) for key in ("accuracy", "low", "high"))
    return OwnScore(benchmark, row["n"], mean, low, high)


def _adopted(record: Record, root: Path) -> OwnModel:
    facts = record.document["params"][ADOPT]
    ((folder, _),) = record.outputs.items()
    weights = {path: file["sha256"] for path, file in facts["files"].items() if path.endswith(".safetensors")}
    origin = facts["origin"]
    came = f"{origin['repo']} at {origin['revision'][:12]}" if origin["kind"] == "hub" else f"folder {origin['name']}"
    parts = [f"from {came}", facts["stage"] or "stage unknown"]
    if not (root / folder).is_dir():
        parts.append("not in this checkout: `dvc pull`")
    return OwnModel(facts["name"], "adopted", folder, json_sha256(weights), ", ".join(parts))
