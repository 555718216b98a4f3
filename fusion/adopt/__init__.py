"""`fusion adopt`: takes a checkpoint that was made elsewhere into DVC, verified, with a record of its origin."""

import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fusion.adopt.errors import AdoptError
from fusion.adopt.source import Source, choose_files, find_source
from fusion.data.store.folders import output_folder
from fusion.hashing import file_sha256
from fusion.lineage.adopted import record_adoption
from fusion.lineage.outside import FOLDER
from fusion.lineage.records import ADOPT
from fusion.lineage.stages import producer_of, producers, resolve_stages
from fusion.settings import STAGES, Settings, Variant
from fusion.zoo.entries import stage_note
from fusion.zoo.rules import (
    Identity,
    check_same_base,
    checkpoint_identity,
    obligations,
    published_identity,
    variant_identity,
    written_stage,
)

_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*$")


@dataclass(frozen=True)
class Place:
    """Where an adopted checkpoint goes: `folder` below the root; variant and stage where it is to be a parent."""

    name: str
    folder: str
    variant: Variant | None
    stage: str | None


def adopt_checkpoint(
    settings: Settings,
    checkpoint: str,
    *,
    revision: str | None = None,
    target: str | None = None,
    root: Path = Path("."),
) -> str:
    """Fetches, verifies, puts in place, adds to DVC and records; returns what to tell the person.

    Args:
        settings: params.yaml.
        checkpoint: a name of the zoo, a repository ORG/NAME of the Hub, or a folder.
        revision: of a repository; its commit is recorded.
        target: NAME (checkpoints/adopted/NAME) or VARIANT/STAGE (where `fusion train` looks for a parent).
        root: the project's folder.

    Run again after an interruption, it goes on; run again when all is there, it changes nothing.

    Raises:
        AdoptError: not found, not safetensors, does not verify, is in the way of a stage; nothing half is left.
        ZooError: its base LLM, vision encoder or stage is another than the zoo or the variant says.
    """
    started, began = _now(), time.monotonic()
    if not (root / ".dvc").is_dir():
        raise AdoptError("there is no DVC here: run the command in the project's folder")
    source = find_source(checkpoint, revision, target, root)
    place = find_place(settings, source, target, root)
    names, left_out = choose_files(source)
    final = root / place.folder
    if final.exists():
        _same_or_raise(source, names, final)
        facts = _verify(source, place, final, root)
    else:
        with output_folder(final) as folder:
            source.fetch(names, folder)
            facts = _verify(source, place, folder, root)
    source.clean()
    _add_to_dvc(place.folder, root)
    facts |= {"name": place.name, "left_out": left_out}
    run = {"started": started, "ended": _now(), "seconds": round(time.monotonic() - began, 3), "source": checkpoint}
    run["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    stage = f"{ADOPT}@{place.name.replace('/', '-')}"
    record = record_adoption(stage, f"fusion adopt {source.name}", {ADOPT: facts}, place.folder, run, root)
    return _told(place, facts, record)


def find_place(settings: Settings, source: Source, target: str | None, root: Path) -> Place:
    """Where the checkpoint goes; raises `AdoptError` for a wrong name, stage or variant, or where a stage writes."""
    name = target or source.name
    variant_name, slash, stage = name.partition("/")
    if not slash:
        if not _NAME.match(name):
            raise AdoptError(f"--as {name}: a name has letters, digits, dots, - and _ only")
        place = Place(name, f"{FOLDER}/{name}", None, source.entry.stage if source.entry else None)
    else:
        if stage not in STAGES:
            raise AdoptError(f"--as {name}: there is no stage `{stage}`; one of {', '.join(STAGES)}")
        known = source.entry.stage if source.entry else stage
        if known != stage:
            raise AdoptError(f"--as {name}: {source.name} is a {known} checkpoint")
        place = Place(name, f"checkpoints/{name}", settings.variant(variant_name), stage)
    taken = producer_of(place.folder, producers(resolve_stages(root).values()))
    if taken is not None:
        raise AdoptError(
            f"{place.folder} is what the stage {taken[1].name} makes, so nothing can be adopted there: choose another "
            "name, or set variants.VARIANT.adopted to that stage in params.yaml and run `fusion settings --write`"
        )
    return place


def _same_or_raise(source: Source, names: list[str], folder: Path) -> None:
    there = {path.name for path in folder.iterdir()}
    different = sorted(there ^ set(names)) or [name for name in names if not source.holds(name, folder / name)]
    if different:
        raise AdoptError(
            f"{folder} is there already and is another checkpoint ({', '.join(different[:3])} differ): choose another "
            "name with --as, or remove it first"
        )


def _verify(source: Source, place: Place, folder: Path, root: Path) -> dict[str, Any]:
    """Checks the fetched files against configuration, zoo and variant; what the record says of them."""
    from fusion.model.checkpoints import verify_checkpoint
    from fusion.quiet import quiet_libraries

    quiet_libraries()
    identity, said = checkpoint_identity(folder), written_stage(folder)
    if said is not None and place.stage not in (None, said):
        raise AdoptError(
            f"--as {place.name}: {source.name} is a {said} checkpoint by its config.json, and not one of {place.stage}"
        )
    if source.entry is not None:
        check_same_base(identity, published_identity(source.entry), source.name)
    if place.variant is not None:
        check_same_base(identity, variant_identity(place.variant, root), source.name)
    try:
        counts = verify_checkpoint(folder)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise AdoptError(f"{source.name} does not verify: {str(error).replace(str(folder), source.name)}") from error
    files = {path.name: {"sha256": file_sha256(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())}
    return {
        "origin": source.describe(),
        "stage": place.stage or said,
        "files": files,
        "licence": _licence(source, place, identity, folder),
        **counts,
    }


def _licence(source: Source, place: Place, identity: Identity, folder: Path) -> dict[str, Any]:
    """The licence that the card declares, and the one that follows from the base LLM; None where it is not known."""
    llm = identity.llm.name or (source.entry.llm if source.entry else None)
    if llm is None and place.variant is not None:
        llm = place.variant.base.llm.name
    follows = obligations(llm)
    return {
        "declared": _declared(folder / "README.md"),
        "follows": follows[0] if follows else None,
        "obligations": list(follows[1]) if follows else [],
    }


def _declared(card: Path) -> str | None:
    if not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        matter = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None  # A card that cannot be read declares nothing.
    licence = matter.get("license") if isinstance(matter, dict) else None
    return str(licence) if licence else None


def _add_to_dvc(folder: str, root: Path) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", folder]
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise AdoptError(
            f"{folder} is whole, but DVC did not take it: {result.stderr.strip() or result.stdout.strip()}. "
            "Run the same command again"
        )


def _told(place: Place, facts: dict[str, Any], record: str) -> str:
    size = sum(file["size"] for file in facts["files"].values())
    licence = facts["licence"]
    lines = [
        f"adopted {place.folder}: {len(facts['files'])} files, {size:,} bytes, {facts['parameters']:,} parameters",
        f"licence: declared {licence['declared'] or 'none'}; by its base LLM {licence['follows'] or 'not known'}",
        *(f"  - {duty}" for duty in licence["obligations"]),
        f"git add {place.folder}.dvc {record}",
    ]
    if facts["left_out"]:
        lines.insert(1, f"left out: {', '.join(facts['left_out'])}")
    note = stage_note(facts["stage"])
    return "\n".join([*lines, *([note] if note else [])])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
