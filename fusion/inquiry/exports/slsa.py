"""An in-toto statement with SLSA provenance v1: what was built, from what, by which run.

Sources: https://github.com/in-toto/attestation (Statement v1) and https://slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion.inquiry.exports.common import PRODUCER, identifier, subject_files, text_of
from fusion.lineage.family import Family

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:fusion-pipeline:dvc-stages:v1"


def slsa(family: Family, root: Path) -> str:
    """The statement as JSON. Folders among the dependencies go by their content hash, records by their digest."""
    last = family.last
    dependencies: dict[str, dict[str, Any]] = {}
    commits: dict[str, str] = {}
    for member in family.members.values():
        mine = member.key == last.key and family.stated is None
        for path, sha in member.record.outputs.items() if not mine else ():
            dependencies[f"output:{path}"] = _resource(f"output:{path}", sha, stage=member.stage)
        for path in member.sources:
            dependencies[f"source:{path}"] = _resource(f"source:{path}", member.record.inputs[path])
        name = f"record:{member.stage}"
        dependencies[name] = _resource(
            name, member.record.digest if family.stated is None else _core(member.key, family)
        )
        git = member.run.get("git") or {}
        if git.get("commit"):
            commits[str(git["commit"])] = member.stage
    resolved = [dependencies[name] for name in sorted(dependencies)]
    resolved += [{"name": f"commit:{commit}", "digest": {"gitCommit": commit}} for commit in sorted(commits)]
    run = last.run if family.stated is None else {}
    metadata = {"invocationId": identifier(family.digest, last.key)}
    metadata |= {
        name: str(run[key]).replace("+00:00", "Z")
        for name, key in (("startedOn", "started"), ("finishedOn", "ended"))
        if run.get(key)
    }
    statement = {
        "_type": STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": sha}} for name, sha in sorted(subject_files(family, root).items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "command": last.record.document["command"],
                    "params": last.record.document["params"],
                },
                "internalParameters": {"lineageDigest": family.digest},
                "resolvedDependencies": resolved,
            },
            "runDetails": {"builder": {"id": PRODUCER}, "metadata": metadata},
        },
    }
    return text_of(statement)


def _core(key: str, family: Family) -> str:
    from fusion.hashing import json_sha256

    return json_sha256(family.members[key].record.core)


def _resource(name: str, sha256: str, **annotations: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "digest": {"sha256": sha256}}
    return found | ({"annotations": annotations} if annotations else {})
