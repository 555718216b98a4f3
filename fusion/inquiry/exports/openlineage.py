"""OpenLineage run events, one a line: each recorded run as it ended, with what it read and wrote.

Source: https://openlineage.io/spec/2-0-2/OpenLineage.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fusion.inquiry.exports.common import PRODUCER, identifier
from fusion.lineage.family import Family, Member

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_VERSION = "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
_SOURCE = "https://openlineage.io/spec/facets/1-0-1/SourceCodeLocationJobFacet.json#/$defs/SourceCodeLocationJobFacet"
NAMESPACE = "fusion"
UNKNOWN_TIME = "1970-01-01T00:00:00Z"
"""For runs of which only a package tells: it holds no times."""


def openlineage(family: Family, root: Path) -> str:
    """JSON lines, parents before children."""
    return "\n".join(
        json.dumps(_event(member), sort_keys=True, ensure_ascii=False) for member in family.members.values()
    )


def _event(member: Member) -> dict[str, Any]:
    git = member.run.get("git") or {}
    job: dict[str, Any] = {"namespace": NAMESPACE, "name": member.stage, "facets": {}}
    if git.get("commit"):
        job["facets"]["sourceCodeLocation"] = {
            "_producer": PRODUCER, "_schemaURL": _SOURCE, "type": "git", "url": "urn:fusion-pipeline:repository",
            "version": git["commit"],
        }  # fmt: skip
    return {
        "eventType": "COMPLETE",
        "eventTime": member.run.get("ended", UNKNOWN_TIME),
        "run": {"runId": identifier("run", member.key, member.record.digest), "facets": {}},
        "job": job,
        "inputs": [_dataset(path, sha) for path, sha in sorted(member.record.inputs.items())],
        "outputs": [_dataset(path, sha) for path, sha in sorted(member.record.outputs.items())],
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
    }


def _dataset(path: str, sha256: str) -> dict[str, Any]:
    version = {"_producer": PRODUCER, "_schemaURL": _VERSION, "datasetVersion": sha256}
    return {"namespace": NAMESPACE, "name": path, "facets": {"version": version}}
