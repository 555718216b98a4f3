"""Compares the records with what a package says of them: one that was sent away cannot be edited here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fusion.hashing import json_sha256
from fusion.lineage.audit.findings import Report
from fusion.lineage.errors import LineageError
from fusion.lineage.family import family_of_document
from fusion.lineage.records import Record

REMEDY = "`git log -p -- records dvc.lock` tells what was changed since the package was made"


def check_anchor(package: Path, current: Mapping[str, Record], report: Report) -> None:
    """Each run behind the package has to be the current run here, equal in all that its record's digest covers.

    Raises:
        LineageError: the folder has no lineage.json that can be read.
    """
    try:
        document = json.loads((package / "lineage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LineageError(f"{package}/lineage.json cannot be read: {error}") from error
    try:
        family = family_of_document(document, str(package))
    except LineageError as error:
        return report.error(
            "anchor-edited", str(package), str(error), "fetch the package again from where it was published"
        )
    for member in family.members.values():
        record = current.get(member.stage)
        if record is None:
            what = f"{package} was made by a run of {member.stage}; there is none here"
            report.error("anchor-differs", member.stage, what, REMEDY)
        elif json_sha256(record.core) != json_sha256(member.record.core):
            names = [name for name in record.core if record.core[name] != member.record.core[name]]
            what = f"{record.path} and {package} tell otherwise of {member.stage}: {', '.join(names)}"
            report.error("anchor-differs", record.path, what, REMEDY)
    report.count("runs compared with the anchor", len(family.members))
