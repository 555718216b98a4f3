"""What several exports share: names, identifiers that follow from content, licences, JSON text."""

from __future__ import annotations

import json
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from fusion.hashing import file_sha256
from fusion.lineage.family import Family, Member
from fusion.lineage.files import files_below

PRODUCER = f"urn:fusion-pipeline:{metadata.version('fusion-pipeline')}"
ADDED_AFTERWARDS = frozenset({"model.sig", "provenance.json", "mlbom.cdx.json"})
"""What signing puts beside a package: no part of what the statement is about."""


def text_of(document: Any) -> str:
    """JSON for people and machines; equal documents give equal texts."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)


def identifier(*parts: str) -> str:
    """A UUID that follows from its parts, so that equal lineages give equal documents."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(("fusion", *parts))))


def subject_files(family: Family, root: Path) -> dict[str, str]:
    """Name -> sha256 of the files that the lineage is about; of a folder's files where it is here.

    A folder that is not here goes by its content hash: the sha256 of the list that `sha256sum` would print for it.
    """
    if family.stated is not None:
        folders = [root / family.target]
    else:
        folders = [root / path for path in family.last.record.outputs]
    found: dict[str, str] = {}
    for folder in folders:
        if folder.is_dir():
            names = sorted(name for name in files_below(folder) if name not in ADDED_AFTERWARDS)
            prefix = "" if len(folders) == 1 else f"{folder.relative_to(root).as_posix()}/"
            found |= {f"{prefix}{name}": file_sha256(folder / name) for name in names}
        elif folder.is_file():
            found[folder.name] = file_sha256(folder)
    return found or dict(family.last.record.outputs)


def catalog_entries(member: Member, key: str) -> dict[str, Any]:
    """What a run's parameters have of the catalog's `key` (licence, origin, sampling, category): full name -> value."""
    return {
        name: value
        for values in member.record.document["params"].values()
        for name, value in values.items()
        if name.startswith("datasets.") and name.endswith(f".{key}")
    }


def spdx(name: str) -> dict[str, str]:
    """A licence as CycloneDX has it: an SPDX id where it is one, else a name."""
    known = {
        "MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "GPL-3.0-only", "BSD-3-Clause",
    }  # fmt: skip
    # The Hub writes them in small letters.
    found = {one.lower(): one for one in known}.get(name.lower())
    return {"id": found} if found else {"name": name}
